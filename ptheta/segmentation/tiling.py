r"""Large pictures, by tiles that overlap.

A side of n pixels is covered by tiles of t pixels, which begin at

    o_k = d ⌊k (n − t) / (d (K − 1))⌋,    k = 0 … K − 1,    K = ⌈(n − v) / (t − v)⌉                              (1)

and the last of which goes on to the end; neighbours overlap by v pixels, or up to d − 1 fewer. A network with an output
stride of d sees the same where a picture begins d pixels later, and something else in between. Where tiles overlap,
probabilities are averaged, with weights that fall from the middle of a tile to its edges, where a network sees least of
what is around a pixel,

    p(x) = \sum_T w_T(x) p_T(x) / \sum_T w_T(x),    w = \min(i + 1/2, t − i − 1/2, v) of rows × of columns      (2)

at the i-th pixel of a tile. A pixel that is v or more away from the inner edges of its only tile has what the whole
picture would give, if the network's field is at most 2 v + 1 and nothing is averaged over the picture.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ptheta.engine.errors import UsageError


def beginnings(n: int, t: int, v: int, d: int = 1) -> list[int]:
    """o of eq. (1); one tile if the side is no longer than one."""
    if n <= t:
        return [0]
    K = math.ceil((n - v) / (t - v))
    return sorted({d * (k * (n - t) // (d * (K - 1))) for k in range(K)})


def pieces(n: int, t: int, v: int, d: int) -> list[tuple[int, int]]:
    """Where the tiles of a side begin and end."""
    o = beginnings(n, t, v, d)
    return [(a, a + t) for a in o[:-1]] + [(o[-1], n)]


def weights(t: int, v: int) -> Float[Tensor, " t"]:
    """w of eq. (2) along one side."""
    i = torch.arange(t, dtype=torch.float32) + 0.5
    return torch.minimum(i, t - i).clamp(max=max(v, 1))


def possible(tile: int, overlap: int) -> None:
    """UsageError for tiles below 32 pixels, or an overlap of half of a tile and more."""
    if tile < 32 or not 0 <= overlap < tile / 2:
        raise UsageError(f"tile = {tile}, overlap = {overlap}; allowed: tiles from 32, overlaps below half of a tile.")


def tiled(model: Any, x: UInt8[Tensor, "c h w"], tile: int, overlap: int) -> UInt8[Tensor, "h w"]:
    """The likeliest label of each pixel of one picture by eq. (2). A picture no larger than a tile is seen whole.

    Raises UsageError for tiles below 32 pixels, or an overlap of half of a tile and more.
    """
    possible(tile, overlap)
    h, w = x.shape[1:]
    if max(h, w) <= tile:
        return model.predict(x)[0].cpu()
    total, d = torch.zeros(len(model.classes), h, w), model.backbone.output_stride
    rows, columns = (pieces(n, tile, overlap, d) for n in (h, w))
    for top, bottom in rows:
        for left, right in columns:
            p = model.probabilities(x[:, top:bottom, left:right])[0].cpu()
            weight = weights(bottom - top, overlap)[:, None] * weights(right - left, overlap)
            total[:, top:bottom, left:right] += weight * p
    return total.argmax(0).to(torch.uint8)
