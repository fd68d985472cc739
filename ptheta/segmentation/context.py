r"""Context: maps at an eighth of a picture's sides, read by a module whose rates double: it sees 67 × 67 places.

F. Yu and V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.

The front end is a backbone without strides after an eighth of the sides, and C maps of its last one:

    F_0 = \max(0, BN(W ∗ far(x)))                                                                              (1)

The context module is eight layers that keep the map's size,

    F_{i+1} = \max(0, BN(W_i ∗_{r_i} F_i)),    r = 1, 1, 2, 4, 8, 16, 1;        s = W_7 F_7 + b                  (2)

the first seven with kernels of 3 × 3, the last of 1 × 1 to one score a class. The fields of F_1 … F_7 are 3, 5, 9, 17,
33, 65 and 67. Basic: all have C channels; large: 2C, 2C, 4C, 8C, 16C, 32C and 32C. The seven start as the identity,
which with what is positive they all can be: with c_i channels of F_i, the weight at place t from channel a to b is

    k^b(t, a) = C / c_{i+1}   if t = 0 and ⌊a C / c_i⌋ = ⌊b C / c_{i+1}⌋,    else ε ~ N(0, σ²)                  (3)

with σ far below C / c_{i+1}. p_θ is the softmax of s, bilinear between its places. Of the front end alone, without the
module, s = W ∗ far(x) + b.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| far(x) | (b, 4p, h, w) | h = H / 8 |
| F_i | (b, c_i, h, w) | |

Differs from the paper: a small ResNet (`nets.backbones`) in place of VGG-16, that learns from nothing and together with
the module; batch normalisation BN, without which the module learns next to nothing in that case; C is not the number of
classes but chosen, and F_0 is not scores, of which (2) would lose the negative ones; σ is 0.001 for both modules (the
basic one's is 0 there); padding is with zeros; scores are bilinear between places in place of the training with scores
at an eighth. The paper's own form is in the table of what did not help, docs/segmentation.md.

The default front end has no rated block: it sees 40 pixels, and the module is what sees further. Where the backbone
sees far by itself, the module adds nothing.

Expected: on CamVid at half size a mean IoU 5.6 points above the front end's after 800 updates (docs/segmentation.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from ptheta.engine.method import Between
from ptheta.nets.backbones import Backbone
from ptheta.nets.encoders import Convolution
from ptheta.nets.transformer import normal
from ptheta.segmentation.learning import Segmentation, SegmentationConfig, Segmenter, upsampled

RATES = (1, 1, 2, 4, 8, 16, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)
SIGMA = 1e-3


@dataclass(frozen=True)
class Config(SegmentationConfig):
    """Hyperparameters of the front end, of the context module and of their training."""

    context: Literal["none", "basic", "large"] = "basic"
    """The context module; none: the front end alone."""
    maps: Annotated[int, Between(1, 1024)] = 32
    """C."""
    rates: Annotated[tuple[int, ...], Between(1, 64)] = ()
    """Rates of the backbone's last blocks."""
    output_stride: Literal[4, 8, 16, 32] = 8
    """Sides of the picture over those of the map; 8 in the paper."""


def channels(kind: str, C: int) -> list[int]:
    """c_0 … c_7."""
    return [C * n for n in ((1,) * 8 if kind == "basic" else (1, *LARGE))]


def identity(g: torch.Generator, before: int, after: int, C: int, sigma: float = SIGMA) -> Float[Tensor, "b a 3 3"]:
    """Eq. (3): weights from `before` channels to `after`."""
    W = sigma * torch.randn(after, before, 3, 3, generator=g)
    a, b = torch.arange(before) * C // before, torch.arange(after) * C // after
    W[:, :, 1, 1] = torch.where(b[:, None] == a, C / after, W[:, :, 1, 1])
    return W


class ContextModule(nn.Module):
    """F_7 of eq. (2), from F_0."""

    def __init__(self, g: torch.Generator, kind: str, C: int):
        super().__init__()
        c = channels(kind, C)
        self.layers = nn.ModuleList()
        for before, after, r in zip(c[:-1], c[1:], RATES, strict=True):
            layer = Convolution(g, before, after, 3, rate=r)
            layer.W = nn.Parameter(identity(g, before, after, C))
            self.layers.append(layer)

    def forward(self, F: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        for layer in self.layers:
            F = relu(layer(F))
        return F


class Context(Segmenter):
    """Eqs. (1) and (2)."""

    name = "context"

    def __init__(
        self, shape, classes, size: int | None = None, seed: int = 0, width: int = 24, context: str = "basic",
        maps: int = 32, rates: Any = (), output_stride: int = 8,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "classes": list(classes), "size": size, "seed": seed, "width": width,
            "context": context, "maps": maps, "rates": list(rates), "output_stride": output_stride,
        }  # fmt: skip
        g, k = self.set_up(shape, classes, seed, size), len(classes)
        self.backbone = Backbone(g, shape[0], width, tuple(rates), output_stride)
        self.front = self.module = None
        last = self.backbone.far_channels
        if context != "none":
            self.front = Convolution(g, last, maps, 1)
            self.module = ContextModule(g, context, maps)
            last = channels(context, maps)[-1]
        self.W, self.b = normal(g, k, last, 1, 1), nn.Parameter(torch.zeros(k))

    def scores(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """s at the pixels of v."""
        F = self.backbone(v)[1]
        if self.front is not None and self.module is not None:
            F = self.module(relu(self.front(F)))
        return upsampled(conv2d(F, self.W, self.b), v.shape[2:])


Model = Context


class Method(Segmentation):
    """min over θ of eq. (1) of `learning`."""

    Config, Model = Config, Context
    steps = 4_000
