r"""Backbones of networks that segment: maps of two resolutions, from a picture of any size.

K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (the blocks).
L.-C. Chen, G. Papandreou, F. Schroff and H. Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017
(rates in place of strides).

A convolution of 4 × 4 halves the picture; residual blocks (`encoders`, eq. (1)) follow, of 2p channels, of 4p, and one
of 4p for each of the `rates` r_1 … r_k, whose convolutions have that rate. The output stride is 2^{m+1}: the first m
blocks halve the map, m = 1 … 4, the others keep it. With an output stride of 8 the rated blocks keep the map as it is,
and see far by their rates; with 32 the first two of them halve it, as nets for classification do, for which they need
a projection P each; the other parameters are the same.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| near | (b, 2p, ⌈⌊H/2⌋ / 2⌉, …) | after the first block: a quarter of the sides, and a small field |
| far | (b, 4p, h, w) | after the last one: h is H over the output stride, rounded |
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from ptheta.engine.errors import UsageError
from ptheta.nets.encoders import Block, Convolution

OUTPUT_STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """The maps (near, far). `near_channels` and `far_channels` are their numbers of channels.

    Raises UsageError for an output stride that the blocks cannot have, or rates below 1.
    """

    memory_format = torch.channels_last  # pixels one after another with all their channels: how CPUs convolve fastest

    def __init__(
        self, g: torch.Generator, channels: int = 3, width: int = 32, rates: tuple[int, ...] = (1, 1, 1, 1),
        output_stride: int = 8,
    ):  # fmt: skip
        super().__init__()
        if output_stride not in OUTPUT_STRIDES[: len(rates) + 2]:
            allowed = ", ".join(map(str, OUTPUT_STRIDES[: len(rates) + 2]))
            raise UsageError(
                f"output_stride = {output_stride} is impossible with {len(rates)} rated blocks; allowed: {allowed}."
            )
        if any(r < 1 for r in rates):
            raise UsageError(f"rates = {tuple(rates)} are impossible; allowed: whole numbers from 1 on.")
        halving, before = output_stride.bit_length() - 2, width
        self.stem = Convolution(g, channels, width, 4, 2)
        blocks = []
        for i, (after, rate) in enumerate([(2 * width, 1), (4 * width, 1), *((4 * width, r) for r in rates)]):
            blocks.append(Block(g, before, after, 2 if i < halving else 1, rate))
            before = after
        self.blocks: Any = nn.ModuleList(blocks)
        self.near_channels, self.far_channels, self.output_stride = 2 * width, before, output_stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b p h4 w4"], Float[Tensor, "b q h2 w2"]]:
        near, *others = self.blocks
        x = near(relu(self.stem(x.contiguous(memory_format=self.memory_format))))
        kept = x
        for block in others:
            x = block(x)
        return kept, x
