r"""Weights that were learned at one size of pictures, for a model of another.

Y. Li, H. Mao, R. Girshick and K. He, "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022
(places of a ViT that was trained on smaller pictures).

All tensors but two kinds are the same for every size. Places p (h, w, C) of patches are put where they lie in the
larger or smaller picture, by bicubic interpolation; rows R_{i − i'} of relative positions of global attention, which
count patches, are interpolated between the farthest and the farthest, so that R_0 stays R_0. A model for small pictures
learns quickly, and is a beginning for that of large ones.

Source: our own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resized(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, in the shapes that those of the same name have in `own`."""
    found = dict(tensors)
    for name, x in tensors.items():
        if name not in own or own[name].shape == x.shape:
            continue
        to = own[name].shape
        if name.endswith("pos_embed"):  # (1, h, w, C)
            moved = interpolate(x.permute(0, 3, 1, 2), tuple(to[1:3]), mode="bicubic", align_corners=False)
            found[name] = moved.permute(0, 2, 3, 1)
        elif "rel_pos_" in name:  # (2 h − 1, d)
            found[name] = interpolate(x.T[None], to[0], mode="linear", align_corners=True)[0].T
    return {name: x.to(torch.float32) for name, x in found.items()}
