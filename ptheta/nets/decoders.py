r"""A convolutional decoder: from an encoder's last map back to a picture of any size.

A. Odena, V. Dumoulin and C. Olah, "Deconvolution and Checkerboard Artifacts", Distill, 2016 (resize, then convolve).

From a map of (h, w) to a picture of (H, W) in stages, each of which at most doubles the sides and halves the channels:

    y = ReLU(BN(W ∗ U(x))),    U(x)_{ij} = x_{\lfloor i h / h' \rfloor, \lfloor j w / w' \rfloor}          (1)

where (h, w) are the sides of x and (h', w') those of the next stage; after the last of them one convolution of 3 × 3
with a bias gives the K numbers of each pixel.

| symbol | shape | here |
|---|---|---|
| x | (b, c, h, w) | the encoder's map |
| y | (b, K, H, W) | K numbers a pixel |
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, relu

from ptheta.nets.encoders import Convolution
from ptheta.nets.transformer import normal

LEAST = 16  # channels of a stage


def sizes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The sides of the stages' maps from `start` (left out) to `end`: halves of the end, rounded up."""
    found = [end]
    while found[0][0] > 2 * start[0] or found[0][1] > 2 * start[1]:
        h, w = found[0]
        found.insert(0, (max(start[0], (h + 1) // 2), max(start[1], (w + 1) // 2)))
    return found


class Decoder(nn.Module):
    """Stages of eq. (1) from maps of `features` at the places of a `grid` (h, w) to `shape` = (K, H, W).

    `encoder.features` and `encoder.grid` are those of its map. Initial weights are drawn from the generator g.
    """

    def __init__(self, g: torch.Generator, features: int, grid: tuple[int, int], shape: tuple[int, int, int]):
        super().__init__()
        self.sizes, before = sizes(grid, (shape[1], shape[2])), features
        stages = []
        for _ in self.sizes:
            after = max(LEAST, before // 2)
            stages.append(Convolution(g, before, after, 3))
            before = after
        self.stages = nn.ModuleList(stages)
        self.W, self.b = normal(g, shape[0], before, 3, 3), nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k H W"]:
        for size, stage in zip(self.sizes, self.stages):
            x = relu(stage(interpolate(x, size, mode="nearest")))
        return conv2d(x, self.W, self.b, padding=1)
