r"""Context: scores of classes at an eighth of a picture's sides, refined by a module that sees 67 × 67 of them.

F. Yu and V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.

The front end is a backbone whose last strides have become rates, and a linear layer to one score a class:

    F_0 = W ∗ far(x) + b                                                                                       (1)

The context module is eight layers that keep the map's size,

    F_{i+1} = \max(0, W_i ∗_{r_i} F_i + b_i),    r = 1, 1, 2, 4, 8, 16, 1;        F_8 = W_7 F_7 + b_7            (2)

the first seven with kernels of 3 × 3, the last of 1 × 1. Their fields are 3, 5, 9, 17, 33, 65, 67 and 67. Basic: all
have C channels, of C classes; large: 2C, 2C, 4C, 8C, 16C, 32C, 32C and C. It starts as the identity of what is
positive: with c_i channels of F_i, the weight at place t from channel a to channel b is

    k^b(t, a) = C / c_{i+1}   if t = 0 and ⌊a C / c_i⌋ = ⌊b C / c_{i+1}⌋,    else ε ~ N(0, σ²)                  (3)

with σ far below C / c_{i+1}. p_θ is the softmax of F_8, bilinear between its places.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| far(x) | (b, 4p, h, w) | h = H / 8 |
| F_i | (b, c_i, h, w) | |

Differs from the paper: a small ResNet (`nets.backbones`) in place of VGG-16, that learns from nothing and together with
the module; σ is 0.001 for both modules (the basic one's is 0 there); padding is with zeros; scores are bilinear between
places in place of the training with scores at an eighth.

Expected: not measured yet; see docs/segmentation.md.
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
from ptheta.nets.transformer import normal
from ptheta.segmentation.learning import Segmentation, SegmentationConfig, Segmenter, upsampled

RATES = (1, 1, 2, 4, 8, 16, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32, 1)
SIGMA = 1e-3


@dataclass(frozen=True)
class Config(SegmentationConfig):
    """Hyperparameters of the front end, of the context module and of their training."""

    context: Literal["none", "basic", "large"] = "large"
    """The context module; none: the front end alone."""
    rates: Annotated[tuple[int, ...], Between(1, 64)] = (1, 1, 2, 2)
    """Rates of the backbone's last blocks."""
    output_stride: Literal[4, 8, 16, 32] = 8
    """Sides of the picture over those of the map; 8 in the paper."""


def channels(kind: str, classes: int) -> list[int]:
    """c_0 … c_8."""
    return [classes * n for n in ((1,) * 9 if kind == "basic" else (1, *LARGE))]


def identity(
    g: torch.Generator, before: int, after: int, kernel: int, classes: int, sigma: float = SIGMA
) -> Float[Tensor, "b a k k"]:
    """Eq. (3): weights from `before` channels to `after`."""
    W = sigma * torch.randn(after, before, kernel, kernel, generator=g)
    a, b = torch.arange(before) * classes // before, torch.arange(after) * classes // after
    same = b[:, None] == a
    centre = W[:, :, kernel // 2, kernel // 2]
    W[:, :, kernel // 2, kernel // 2] = torch.where(same, classes / after, centre)
    return W


class ContextModule(nn.Module):
    """Eq. (2)."""

    def __init__(self, g: torch.Generator, kind: str, classes: int):
        super().__init__()
        c = channels(kind, classes)
        kernels = [3] * len(RATES) + [1]
        self.W = nn.ParameterList(
            nn.Parameter(identity(g, before, after, k, classes)) for before, after, k in zip(c, c[1:], kernels)
        )
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(after)) for after in c[1:])

    def forward(self, F: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        *layers, (W, b) = zip(self.W, self.b)
        for (W_i, b_i), r in zip(layers, RATES):
            F = relu(conv2d(F, W_i, b_i, padding=r, dilation=r))
        return conv2d(F, W, b)


class Context(Segmenter):
    """Eqs. (1) and (2)."""

    name = "context"

    def __init__(
        self, shape, classes, size: int | None = None, seed: int = 0, width: int = 24, context: str = "large",
        rates: Any = (1, 1, 2, 2), output_stride: int = 8,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "classes": list(classes), "size": size, "seed": seed, "width": width,
            "context": context, "rates": list(rates), "output_stride": output_stride,
        }  # fmt: skip
        g, k = self.set_up(shape, classes, seed, size), len(classes)
        self.backbone = Backbone(g, shape[0], width, tuple(rates), output_stride)
        self.W, self.b = normal(g, k, self.backbone.far_channels, 1, 1), nn.Parameter(torch.zeros(k))
        self.module = None if context == "none" else ContextModule(g, context, k)

    def scores(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """F_8 at the pixels of v; F_0 of the front end alone."""
        F = conv2d(self.backbone(v)[1], self.W, self.b)
        return upsampled(F if self.module is None else self.module(F), v.shape[2:])


Model = Context


class Method(Segmentation):
    """min over θ of eq. (1) of `learning`."""

    Config, Model = Config, Context
    steps = 4_000
