r"""DeepLab: one map read at several rates at once, and a decoder that brings outlines back.

L.-C. Chen, G. Papandreou, F. Schroff and H. Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017
(v3). L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff and H. Adam, "Encoder-Decoder with Atrous Separable Convolution for
Semantic Image Segmentation", ECCV 2018 (v3+).

Atrous spatial pyramid pooling reads the backbone's last map by a kernel of one place, by three kernels of 3 × 3 of
rates r_1, r_2, r_3, and as a whole,

    a = ReLU(BN(W ∗ [ a_0 ; a_{r_1} ; a_{r_2} ; a_{r_3} ; m ])),    a_r = ReLU(BN(W_r ∗_r far(x)))             (1)

    m = ReLU(W_m mean(far(x)) + b_m)  at every place                                                          (2)

and the decoder joins it with a map of a quarter of the sides,

    d = ReLU(BN(W_d ∗ [ up(a) ; ReLU(BN(W_n near(x))) ])),        s = W_s d + b_s                              (3)

where up is bilinear. p_θ is the softmax of s, bilinear between its places.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| near(x), far(x) | (b, 2p, H/4, W/4), (b, 4p, h, w) | h = H / output stride |
| a | (b, 4p, h, w) | |
| d | (b, 2p, H/4, W/4) | |

The rates (6, 12, 18) of the paper belong to an output stride of 16, and (12, 24, 36) to 8, for pictures of 513 pixels.
On a map of fewer than r + 1 places a side, a kernel of rate r reads its own place alone; the default is for smaller
pictures.

Differs from the papers: a small ResNet in place of ResNet-101 or Xception; convolutions are not separable; one of (3)
in place of two; in (2) a bias in place of batch normalisation, which fails for a batch of one picture.

Expected: `ptheta train deeplab --data camvid --width 24 --output-stride 16 --batch-size 8 --steps 3000` has a mean IoU
of 63.7 % and an accuracy of 92.8 % on validation, which flatters: see docs/segmentation.md.
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
from ptheta.nets.encoders import Convolution, he
from ptheta.nets.transformer import normal
from ptheta.segmentation.learning import Segmentation, SegmentationConfig, Segmenter, upsampled


@dataclass(frozen=True)
class Config(SegmentationConfig):
    """Hyperparameters of the pyramid and of the training."""

    pyramid: Annotated[tuple[int, ...], Between(1, 128)] = (2, 4, 8)
    """r_1, r_2, … of eq. (1)."""
    rates: Annotated[tuple[int, ...], Between(1, 64)] = (1, 1, 2, 2)
    """Rates of the backbone's last blocks."""
    output_stride: Literal[4, 8, 16, 32] = 8
    """Sides of the picture over those of the last map."""


class Pyramid(nn.Module):
    """Eqs. (1) and (2)."""

    def __init__(self, g: torch.Generator, before: int, after: int, rates: tuple[int, ...]):
        super().__init__()
        self.here = Convolution(g, before, after, 1)
        self.around = nn.ModuleList(Convolution(g, before, after, 3, rate=r) for r in rates)
        self.W_m, self.b_m = he(g, after, before, 1, 1), nn.Parameter(torch.zeros(after))
        self.join = Convolution(g, (len(rates) + 2) * after, after, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b a h w"]:
        m = relu(conv2d(x.mean((2, 3), keepdim=True), self.W_m, self.b_m)).expand(-1, -1, *x.shape[2:])
        return relu(self.join(torch.cat([relu(self.here(x)), *(relu(a(x)) for a in self.around), m], 1)))


class DeepLab(Segmenter):
    """Eqs. (1) to (3)."""

    name = "deeplab"

    def __init__(
        self, shape, classes, size: int | None = None, seed: int = 0, width: int = 24, pyramid: Any = (2, 4, 8),
        rates: Any = (1, 1, 2, 2), output_stride: int = 8,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "classes": list(classes), "size": size, "seed": seed, "width": width,
            "pyramid": list(pyramid), "rates": list(rates), "output_stride": output_stride,
        }  # fmt: skip
        g, k, p = self.set_up(shape, classes, seed, size), len(classes), width
        self.backbone = Backbone(g, shape[0], width, tuple(rates), output_stride)
        self.pyramid = Pyramid(g, self.backbone.far_channels, 4 * p, tuple(pyramid))
        self.near = Convolution(g, self.backbone.near_channels, p, 1)
        self.decoder = Convolution(g, 5 * p, 2 * p, 3)
        self.W, self.b = normal(g, k, 2 * p, 1, 1), nn.Parameter(torch.zeros(k))

    def scores(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """s of eq. (3) at the pixels of v."""
        near, far = self.backbone(v)
        a = upsampled(self.pyramid(far), near.shape[2:])
        d = relu(self.decoder(torch.cat([a, relu(self.near(near))], 1)))
        return upsampled(conv2d(d, self.W, self.b), v.shape[2:])


Model = DeepLab


class Method(Segmentation):
    """min over θ of eq. (1) of `learning`."""

    Config, Model = Config, DeepLab
    steps = 4_000
