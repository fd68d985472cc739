r"""Paired augmentation: another form of a picture and, by the same map, of its labels.

J. Long, E. Shelhamer and T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 (scales).
L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017 (scales, crops, flips).

A form of h' × w' pixels is told by a scale s, a place o and a sign f = ±1. Its pixel at the offset (v, u) from its own
centre is that of the picture at the offset

    (y, x) = o + (v, f u) / s,            log s uniform in [log s_0, log s_1]                                  (1)

from the centre, in pixels; the picture is read bilinearly, the labels at the nearest pixel, so that no label is made
up. o is uniform where the form lies inside the picture, or where it holds all of it if it is larger; what lies outside
of the picture has its edge's colour, and the label 255, which is not learned. Colours of the picture change by
`data.colour`, eq. (1).

Differs from the papers: one pass in place of scaling, padding and cropping; no smoothing before a picture is made
smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample

from ptheta.data.colour import coloured
from ptheta.data.label_maps import IGNORED


@dataclass(frozen=True)
class Drawn:
    """The numbers of eq. (1) and of the colours for b pictures."""

    scale: Float[Tensor, " b"]
    place: Float[Tensor, "b 2"]
    """o as a share of the way there is, from −1 to 1, down and to the right."""
    sign: Float[Tensor, " b"]
    gain: Float[Tensor, "b 4"]
    """β, γ, σ, φ of the colours."""

    def rows(self, start: int, stop: int) -> Drawn:
        """Those of the pictures start … stop − 1."""
        return Drawn(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


def draw(b: int, g: torch.Generator, scales: tuple[float, float], flip: float, colour: float) -> Drawn:
    """Numbers for b pictures: scales of [s_0, s_1], a share `flip` mirrored, factors of colours from 1 − colour to
    1 + colour, and hue turned by a tenth of that, in full turns."""
    device = g.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(b, *shape, generator=g, device=device)

    scale = uniform(math.log(scales[0]), math.log(scales[1])).exp()
    place = uniform(-1, 1, 2)
    sign = 1 - 2 * (uniform(0, 1) < flip).float()
    factors, hue = uniform(1 - colour, 1 + colour, 3), uniform(-colour, colour) * 0.1 * 2 * math.pi
    return Drawn(scale, place, sign, torch.cat([factors, hue[:, None]], 1))


def augmented(
    x: UInt8[Tensor, "b c h w"], y: UInt8[Tensor, "b h w"], d: Drawn, size: tuple[int, int]
) -> tuple[Float[Tensor, "b c h2 w2"], UInt8[Tensor, "b h2 w2"]]:
    """Eq. (1): pictures in [0, 1] and labels of the given (height, width)."""
    with torch.autocast(x.device.type, enabled=False):  # in bf16 places would be off by pixels
        places = grid(x.shape[2:], d, size)
        picture = grid_sample(x.float() / 255, places, "bilinear", "border", False)
        return coloured(picture, d.gain), labels_at(y, places)


def grid(sides: tuple[int, ...], d: Drawn, size: tuple[int, int]) -> Float[Tensor, "b h w 2"]:
    """(x, y) of eq. (1) for each pixel of the forms, as shares of half of the picture's sides."""
    out = []
    for axis, (n, m) in enumerate(zip(sides, size)):  # n pixels of the picture, m of the form
        offset = (torch.arange(m, device=d.scale.device) + 0.5 - m / 2) / d.scale[:, None]
        if axis == 1:
            offset = d.sign[:, None] * offset
        way = (n - m / d.scale).abs() / 2
        out.append((d.place[:, axis] * way)[:, None] + offset)
    rows, columns = (2 * offset / n for offset, n in zip(out, sides))
    b, (h, w) = len(rows), size
    return torch.stack([columns[:, None].expand(b, h, w), rows[:, :, None].expand(b, h, w)], 3)


def labels_at(y: UInt8[Tensor, "b h w"], places: Float[Tensor, "b h2 w2 2"]) -> UInt8[Tensor, "b h2 w2"]:
    """The labels of the pixels that hold the places, 255 outside of the picture."""
    b, h, w = y.shape
    column, row = ((places + 1) / 2 * torch.tensor([w, h], device=places.device)).floor().long().unbind(-1)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    at = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).view(b, -1)
    found = y.view(b, -1).gather(1, at).view(b, *places.shape[1:3])
    return found.where(inside, IGNORED)


def median_frequency(y: UInt8[Tensor, "n h w"], classes: int) -> Float[Tensor, " k"]:
    r"""Weights of the classes in a loss, median frequency balancing.

    D. Eigen and R. Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
    Convolutional Architecture", ICCV 2015, section 6.3.3.

        a_c = median_k(f_k) / f_c,    f_c = (pixels of c) / (learned pixels of the pictures that have c)       (2)

    The median is over the classes that occur; a class that does not has weight 0.
    """
    counts = torch.stack([torch.bincount(one.flatten(), minlength=256)[:classes] for one in y]).double()
    total = counts.sum(1, keepdim=True) * (counts > 0)
    f = counts.sum(0) / total.sum(0)
    there = f > 0  # of a class that is nowhere f is 0 / 0
    return torch.where(there, f[there].quantile(0.5) / f, 0.0).float()
