r"""HDC: blocks whose rates differ, so that they read every pixel, and scores that are told at every pixel.

P. Wang et al., "Understanding Convolution for Semantic Segmentation", WACV 2018.

Hybrid dilated convolution: the blocks of one resolution have rates r_1 … r_k, in groups such as 1, 2, 3 or 1, 2, 5,
whose supports leave no holes (`dilation`, eq. (4)); one rate repeated reads every r-th row and column alone.

Dense upsampling convolution: the map of d-th sides has d² scores for each of the C classes, which are those of the
d × d pixels under it,

    s_c(d i + u, d j + v) = (W ∗ far(x))_{c d² + d u + v}(i, j)                                                 (1)

in place of scores between which one is interpolated.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| far(x) | (b, 4p, h, w) | h = H / d |
| s | (b, k, H, W) | scores; p_θ is their softmax |

Differs from the paper: a small ResNet in place of ResNet-101, with one rate for both convolutions of a block; where d
does not divide a side, the picture is continued by zeros (its mean) and the scores are cut.

Expected: these rates and others, in a network without eq. (1), are compared in docs/segmentation.md; with eq. (1) none
of CamVid's figures is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, pixel_shuffle

from ptheta.engine.method import Between
from ptheta.nets.backbones import Backbone
from ptheta.nets.transformer import normal
from ptheta.segmentation.learning import Segmentation, SegmentationConfig, Segmenter


@dataclass(frozen=True)
class Config(SegmentationConfig):
    """Hyperparameters of the rates and of the training."""

    rates: Annotated[tuple[int, ...], Between(1, 64)] = (1, 2, 5, 1, 2, 5)
    """r_1 … r_k of the blocks that keep the map."""
    output_stride: Literal[4, 8, 16, 32] = 8
    """d."""


class HDC(Segmenter):
    """Rates, and eq. (1)."""

    name = "hdc"

    def __init__(
        self,
        shape,
        classes,
        size: int | None = None,
        seed: int = 0,
        width: int = 24,
        rates: Any = (1, 2, 5, 1, 2, 5),
        output_stride: int = 8,
    ):
        super().__init__()
        self.arguments = {
            "shape": list(shape), "classes": list(classes), "size": size, "seed": seed, "width": width,
            "rates": list(rates), "output_stride": output_stride,
        }  # fmt: skip
        g, self.d = self.set_up(shape, classes, seed, size), output_stride
        self.backbone = Backbone(g, shape[0], width, tuple(rates), output_stride)
        k = len(classes) * self.d**2
        self.W, self.b = normal(g, k, self.backbone.far_channels, 3, 3), nn.Parameter(torch.zeros(k))

    def scores(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Eq. (1)."""
        h, w = v.shape[2:]
        v = pad(v, (0, -w % self.d, 0, -h % self.d))
        dense = conv2d(self.backbone(v)[1], self.W, self.b, padding=1)
        return pixel_shuffle(dense, self.d)[:, :, :h, :w]


Model = HDC


class Method(Segmentation):
    """min over θ of eq. (1) of `learning`."""

    Config, Model = Config, HDC
    steps = 4_000
