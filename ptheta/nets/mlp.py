r"""A multilayer perceptron as policies and values use it.

A. Saxe, J. McClelland and S. Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
Networks", ICLR 2014 (orthogonal weights).

    h_0 = x,    h_i = f(W_i h_{i−1} + b_i),    y = W_L h_{L−1} + b_L                                             (1)

W_i starts as a random orthogonal matrix (the nearest there is to one where it is not square) times a gain, √2 in the
hidden layers, and b_i as zero.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from ptheta.engine.errors import UsageError


def orthogonal(g: torch.Generator, rows: int, columns: int, gain: float = 1.0) -> Float[Tensor, "rows columns"]:
    """Of the rows or of the columns, whichever are fewer, all are orthogonal and as long as the gain; uniform."""
    high, low = max(rows, columns), min(rows, columns)
    Q, R = torch.linalg.qr(torch.randn(high, low, generator=g))
    Q = Q * R.diagonal().sign()
    return gain * (Q if rows >= columns else Q.T).contiguous()


class MLP(nn.Module):
    """Eq. (1). Raises UsageError for a layer without units."""

    def __init__(
        self, g: torch.Generator, inputs: int, hidden: tuple[int, ...], outputs: int,
        activation: Literal["tanh", "relu"] = "tanh", last_gain: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        if min(sizes) < 1:
            raise UsageError(f"layers of {sizes} units are impossible; allowed: at least 1 in each.")
        gains = [math.sqrt(2)] * len(hidden) + [last_gain]
        self.W = nn.ParameterList(
            nn.Parameter(orthogonal(g, after, before, gain)) for before, after, gain in zip(sizes, sizes[1:], gains)
        )
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(after)) for after in sizes[1:])
        self.activation = activation

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """y."""
        f = torch.tanh if self.activation == "tanh" else relu
        *hidden, (W, b) = zip(self.W, self.b)
        for W_i, b_i in hidden:
            x = f(linear(x, W_i, b_i))
        return linear(x, W, b)
