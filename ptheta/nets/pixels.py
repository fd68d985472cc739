r"""A small convolutional network that reads pictures of a game into numbers.

V. Mnih et al., "Human-Level Control through Deep Reinforcement Learning", Nature 518, 2015 (its three convolutions).

    h = ReLU(W_3 ∗_1 ReLU(W_2 ∗_2 ReLU(W_1 ∗_4 x / 255))),    y = ReLU(W flat(h) + b)                              (1)

of kernels of 8, 4 and 3 places with strides 4, 2 and 1; of pictures whose sides are below 36, of 3, 3 and 3 with
strides 2, 2 and 1 and a border of one. Weights are orthogonal (`mlp`), with gain √2.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, relu

from ptheta.engine.errors import UsageError
from ptheta.nets.mlp import orthogonal

LARGE = ((8, 4, 0), (4, 2, 0), (3, 1, 0))  # kernel, stride, border
SMALL = ((3, 2, 1), (3, 2, 1), (3, 1, 1))


class Pixels(nn.Module):
    """Eq. (1). shape: (C, H, W), bytes. Raises UsageError for sides below 4."""

    def __init__(self, g: torch.Generator, shape: tuple[int, ...], outputs: int = 256, width: int = 32):
        super().__init__()
        channels, *sides = shape
        if min(sides) < 4:
            raise UsageError(f"pictures of {sides[0]}x{sides[1]} are too small; allowed: sides from 4 on.")
        self.layers = LARGE if min(sides) >= 36 else SMALL
        self.W = nn.ParameterList()
        for (kernel, stride, border), after in zip(self.layers, (width, 2 * width, 2 * width)):
            rows = orthogonal(g, after, channels * kernel * kernel, math.sqrt(2))
            self.W.append(nn.Parameter(rows.view(after, channels, kernel, kernel)))
            sides = [(side + 2 * border - kernel) // stride + 1 for side in sides]
            channels = after
        self.V = nn.Parameter(orthogonal(g, outputs, channels * sides[0] * sides[1], math.sqrt(2)))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Float[Tensor, "b outputs"]:
        """y of pictures (b, C, H, W)."""
        h = x.float() / 255
        for W, (_, stride, border) in zip(self.W, self.layers):
            h = relu(conv2d(h, W, stride=stride, padding=border))
        return relu(linear(h.flatten(1), self.V, self.b))
