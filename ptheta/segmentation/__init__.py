"""p_θ(label | pixels): what each pixel of a picture belongs to."""
