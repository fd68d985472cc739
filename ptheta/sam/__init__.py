"""p_θ(mask | picture, prompt): what is meant by a point, a box or a mask."""
