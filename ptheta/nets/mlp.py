r"""A multilayer perceptron as policies and values use it.

A. Saxe, J. McClelland and S. Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
Networks", ICLR 2014 (orthogonal weights).
D. Rumelhart, G. Hinton and R. Williams, "Learning Representations by Back-propagating Errors", Nature 323, 1986.
B. Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 6, 1994.

    h_0 = x,    h_i = f(W_i h_{i−1} + b_i),    y = W_L h_{L−1} + b_L                                             (1)

W_i starts as a random orthogonal matrix (the nearest there is to one where it is not square) times a gain, √2 in the
hidden layers, and b_i as zero.

A slope g_L = ∂L/∂y is pulled back to the parameters and to x by

    ∂L/∂W_i = g_i h_{i−1}^T,    ∂L/∂b_i = g_i,    g_{i−1} = f'(h_{i−1}) W_i^T g_i,    ∂L/∂x = W_1^T g_1             (2)

and a direction V_i, c_i of the parameters is pushed forward to y by

    t_0 = 0,    t_i = f'(h_i) (W_i t_{i−1} + V_i h_{i−1} + c_i)                                                  (3)

the last without f'. `Pass` does both by these formulas: networks as small as a policy's spend most of their time
between operations, of which autograd has more. The slope f' is that of h = f(·), in terms of h.

| symbol | shape | here |
|---|---|---|
| x, h, y, g, t | (b, n) | or (S, b, n), of S networks side by side, of which W is (S, m, n) and b (S, m) |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from ptheta.engine.errors import UsageError

Activation = Literal["tanh", "relu"]


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
        activation: Activation = "tanh", last_gain: float = 1.0,
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
        self.activation: Activation = activation

    @property
    def layers(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """W_1 to W_L, and b_1 to b_L."""
        return tuple(self.W._parameters.values()), tuple(self.b._parameters.values())  # pyright: ignore (none is None)

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """y."""
        if x.ndim == 2 and not torch.is_grad_enabled():
            return Pass(*self.layers, self.activation, x).y  # activations in place
        f = torch.tanh if self.activation == "tanh" else relu
        *hidden, (W, b) = zip(*self.layers)
        for W_i, b_i in hidden:
            x = f(linear(x, W_i, b_i))
        return linear(x, W, b)


class Pass:
    """What (1) makes of x, kept for (2) and (3). No graph is recorded; the parameters must stay as they are meanwhile.
    Where autocast is on it computes in its precision, and gives y and gradients in that of the parameters."""

    def __init__(self, W: Sequence[Tensor], b: Sequence[Tensor], activation: Activation, x: Float[Tensor, "*b n"]):
        self.parameters, self.W, self.h, self.kept = (*W, *b), W, [x], W[0].dtype
        self.bend, f = (_of_tanh, torch.tanh_) if activation == "tanh" else (_of_relu, torch.relu_)
        with torch.no_grad():
            if torch.is_autocast_enabled(x.device.type):
                low = torch.get_autocast_dtype(x.device.type)
                self.W, b, self.h = [W_i.to(low) for W_i in W], [b_i.to(low) for b_i in b], [x.to(low)]
            for W_i, b_i in zip(self.W[:-1], b):
                self.h.append(f(_affine(self.h[-1], W_i, b_i)))
            self.y: Float[Tensor, "*b m"] = _affine(self.h[-1], self.W[-1], b[-1]).to(self.kept)

    @torch.no_grad()
    def pull(self, g: Float[Tensor, "*b m"], into: Sequence[Tensor] | None = None) -> Any:
        """Eq. (2): ∂L/∂W and ∂L/∂b, for g = ∂L/∂y. into: Tensors to write them to, of all W and then of all b."""
        found = [torch.empty_like(p) for p in self.parameters] if into is None else into
        W, h, L, g = self.W, self.h, len(self.W), g.to(self.h[0].dtype)
        for i in range(L - 1, -1, -1):
            _outer(g, h[i], found[i])
            torch.sum(g, -2, dtype=self.kept, out=found[L + i])
            if i:
                g = self.bend(g @ W[i], h[i])
        return found[:L], found[L:]

    def descend(self, g: Float[Tensor, "*b m"] | None = None) -> None:
        """Eq. (2), into the gradients of the parameters. g: ∂L/∂y; without it, the gradient that y has."""
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.empty_like(p)
        self.pull(self.y.grad if g is None else g, [p.grad for p in self.parameters])  # pyright: ignore

    @torch.no_grad()
    def pull_to_x(self, g: Float[Tensor, "*b m"], columns: slice = slice(None)) -> Float[Tensor, "*b k"]:
        """Eq. (2): ∂L/∂x, or of some of its components."""
        g = g.to(self.h[0].dtype)
        for i in range(len(self.W) - 1, 0, -1):
            g = self.bend(g @ self.W[i], self.h[i])
        return (g @ self.W[0][..., columns]).to(self.kept)

    @torch.no_grad()
    def push(self, V: Sequence[Tensor], c: Sequence[Tensor]) -> Float[Tensor, "*b m"]:
        """Eq. (3). Not under autocast."""
        t = _affine(self.h[0], V[0], c[0])
        for i in range(1, len(self.W)):
            t = _affine(self.h[i], V[i], c[i]) + self.bend(t, self.h[i]) @ self.W[i].mT
        return t


class Recorded:
    """The same of any other network, by autograd."""

    def __init__(self, net: nn.Module, x: Tensor):
        self.parameters, self.graph = list(net.parameters()), net(x)
        self.y: Tensor = self.graph.detach()

    def descend(self, g: Tensor | None = None) -> None:
        """∂L/∂θ into the gradients of the parameters. g: ∂L/∂y; without it, the gradient that y has."""
        g = self.y.grad if g is None else g
        for p, found in zip(self.parameters, torch.autograd.grad(self.graph, self.parameters, g)):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(found)  # contiguous: Adam, fused, reads memory as it lies


def through(net: nn.Module, x: Tensor) -> Pass | Recorded:
    """net(x), and the way back."""
    return Pass(*net.layers, net.activation, x) if isinstance(net, MLP) else Recorded(net, x)


def _affine(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, W.mT) if x.ndim == 2 else torch.baddbmm(b[:, None], x, W.mT)


def _outer(g: Tensor, h: Tensor, into: Tensor) -> None:
    """g^T h; of a wide g the other way round, which libraries are twice as fast at."""
    if h.shape[-1] < g.shape[-1]:
        into.copy_((h.mT @ g).mT)
    elif g.ndim == 2 and g.dtype is into.dtype:
        torch.mm(g.mT, h, out=into)
    else:
        into.copy_(g.mT @ h)


def _of_tanh(g: Tensor, h: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(g, h)


def _of_relu(g: Tensor, h: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(g, h, 0)
