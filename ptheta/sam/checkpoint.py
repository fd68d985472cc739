r"""Segment Anything's weights in the three forms that they are found in, read and written.

- official: `sam_vit_b_01ec64.pth` and its like, PyTorch archives, of which nothing but tensors is read;
- Hugging Face: a folder of `facebook/sam-vit-*` with `model.safetensors` and `config.json`;
- ours: a folder as `save_pretrained` writes it.

Names of our parameters are the official ones. Hugging Face's are found by the table RENAMED, in order; its matrix of
Fourier features is there twice.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.sam.model import PATCH, SAM, VARIANTS

FOURIER = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
RENAMED = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^(vision_encoder\.layers\.\d+\.)norm([12])\.", r"\1layer_norm\2."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.)norm([1-4])\.", r"\1layer_norm\2."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.0\.", r"\1proj_in."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.2\.", r"\1proj_out."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.1\.", r"\1layers.0."),
]  # fmt: skip


def their_name(name: str) -> str:
    """Hugging Face's name of an official parameter."""
    if name == FOURIER:
        return SHARED[0]
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def read(source: str | Path) -> SAM:
    """A model of any of the three forms, or of a run, in eval mode; what it is, is seen from the files. A Hub id is
    fetched.

    Raises InputError for what is none of them, is cut short, or has other parameters than any variant, and says which.
    """
    path = Path(source)
    if (path / "model" / "config.json").is_file():
        source = path / "model"
    if path.is_file():
        return of_tensors(_archive(path), str(path))
    from ptheta.engine import pretrained

    folder = pretrained.resolve(source)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no config.json that can be read ({error}).") from None
    if config.get("library") == "ptheta":
        return SAM.from_pretrained(folder)
    try:
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
    except Exception as error:  # safetensors raises its own
        raise InputError(f"{folder}/model.safetensors cannot be read ({str(error).splitlines()[0]}).") from None
    return of_tensors(tensors, str(folder))


def _archive(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again.") from None
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises whatever it meets
        why = "it holds more than tensors, or something else"
        if isinstance(error, RuntimeError | EOFError):
            why = "it is cut short, or something else"
        raise InputError(f"{path} is no archive of tensors: {why}; fetch it again.") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise InputError(f"{path} holds no tensors by name; allowed: the weights of a Segment Anything model.")
    return found


def of_tensors(tensors: dict[str, Tensor], origin: str) -> SAM:
    """The model of tensors with official or Hugging Face's names, of the variant that their width tells."""
    theirs = any(name.startswith("vision_encoder.") for name in tensors)
    places = tensors.get(("vision_encoder" if theirs else "image_encoder") + ".pos_embed")
    if places is None or places.dim() != 4:
        raise InputError(f"{origin} has no image_encoder.pos_embed: it holds no Segment Anything model.")
    width, size = places.shape[-1], PATCH * places.shape[1]
    names = [name for name, of in VARIANTS.items() if of.width == width]
    if not names:
        widths = ", ".join(f"{name} {of.width}" for name, of in VARIANTS.items())
        raise InputError(f"{origin} has an encoder of width {width}; allowed: {widths}.")
    try:
        model = SAM(names[0], size)
    except UsageError as error:
        raise InputError(f"{origin}: {error}") from None
    own = model.state_dict()
    wanted = {their_name(name) if theirs else name: name for name in own}
    extra = [name for name in tensors if name not in wanted and not (theirs and name in SHARED)]
    if theirs and SHARED[0] not in tensors and SHARED[1] in tensors:
        tensors = {**tensors, SHARED[0]: tensors[SHARED[1]]}
    missing = [name for name in wanted if name not in tensors]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[mine].shape)}"
        for name, mine in wanted.items()
        if name in tensors and tensors[name].shape != own[mine].shape
    ]
    wrong = [f"{what} {_few(of)}" for what, of in (("lacks", missing), ("has besides", extra), ("has", shapes)) if of]
    if wrong:
        raise InputError(f"{origin} does not fit {names[0]}: it {'; it '.join(wrong)}.")
    model.load_state_dict({mine: tensors[name] for name, mine in wanted.items()})
    return model.eval()


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def write_official(model: SAM, path: str | Path) -> Path:
    """A `.pth` that the official package loads."""
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    try:
        torch.save({k: v.detach().cpu() for k, v in model.state_dict().items()}, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_hugging_face(model: SAM, folder: str | Path) -> Path:
    """A folder that `transformers.SamModel.from_pretrained` loads. Raises UsageError for variants that it has not."""
    if model.image_encoder.fine is not None:
        raise UsageError(f"{model.variant} has convolutions that transformers' SamModel has not; allowed: vit_b, l, h.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {their_name(k): v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    tensors[SHARED[1]] = tensors[SHARED[0]].clone()
    of = VARIANTS[model.variant]
    config = {
        "architectures": ["SamModel"], "model_type": "sam",
        "vision_config": {
            "hidden_size": of.width, "num_hidden_layers": of.depth, "num_attention_heads": of.heads,
            "global_attn_indexes": list(of.everywhere), "window_size": of.window, "image_size": model.size,
            "output_channels": of.channels, "mlp_dim": 4 * of.width, "patch_size": PATCH,
            "num_pos_feats": of.channels // 2,
        },
        "prompt_encoder_config": {
            "hidden_size": of.channels, "image_size": model.size, "patch_size": PATCH,
            "image_embedding_size": model.size // PATCH,
        },
        "mask_decoder_config": {"hidden_size": of.channels, "iou_head_hidden_dim": of.channels, "mlp_dim": of.hidden},
    }  # fmt: skip
    checkpoint.replace_tensors(folder / "model.safetensors", tensors)
    checkpoint.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder
