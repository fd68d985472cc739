r"""NADE: the neural autoregressive distribution estimator.

H. Larochelle and I. Murray, "The Neural Autoregressive Distribution Estimator", AISTATS 2011.

The mean-field inference of a restricted Boltzmann machine, turned into a model whose density is exact. One weight
matrix W is shared by all n conditionals:

    h_d = σ(c + W_{·,<d} x_{<d})                                         (1)
    p(x_d = 1 | x_{<d}) = σ(b_d + V_d · h_d)                             (2)
    \log p(x) = \sum_d \log p(x_d | x_{<d})                              (3)

The activations are updated and not recomputed, so that a vector costs O(n·h) and not O(n²·h):

    a_1 = c,     a_{d+1} = a_d + x_d W_d                                 (4)

The gradient of (3) runs the same recursion backwards: with g_d = ∂L/∂logit_d and δ_d = g_d V_d ∘ h_d ∘ (1 - h_d),

    D_d = \sum_{e>d} δ_e,   ∂L/∂W_d = x_d D_d,   ∂L/∂c = D_0,   ∂L/∂V_d = g_d h_d      (5)

| symbol | shape | here |
|---|---|---|
| x | (b, n) | binary vectors, in the model's ordering inside this file |
| W, V | (n, h) | the paper's W transposed, and V; row d belongs to variable d |
| c, b | (h,), (n,) | biases |
| a, h_d | (b, h) | shared activation and hidden units of step d |

Differs from the paper: Adam with weight averaging in place of plain stochastic gradient ascent; c starts at zero and b
at the log-odds of the data.

Expected: validation −log p of statically binarised MNIST 88.9 nats after eight epochs (docs/density.md) by
`ptheta train nade --data binarized_mnist --learning-rate 0.004 --steps 14000 --eval-every 500`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive, draw, log_bernoulli, visiting_order
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.method import Between


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of NADE and of its training."""

    hidden: Annotated[int, Between(1, 2**20)] = 500
    """Hidden units h."""
    ordering: Literal["natural", "random"] = "natural"
    """The order in which the variables are visited; random: drawn once from the seed."""


BLOCK = 8  # steps whose sigmoids, and their derivatives, are one call: more leave the cache


class _Conditionals(torch.autograd.Function):
    """Logits of all conditionals, eqs. (1), (2) and (4), and their gradient, eq. (5), in O(n·h) a vector.

    Time runs along the first axis. The hidden units of every step are kept, (n, b, h); they are the only large tensor.
    """

    @staticmethod
    def forward(ctx, x, W, c, V, b):
        xt = x.t().contiguous()
        hidden = c.new_empty(len(W), len(x), len(c))
        logits = c.new_empty(*hidden.shape[:2], 1)
        hidden[0] = c
        for first in range(0, len(W), BLOCK):
            last = min(first + BLOCK, len(W))
            for d in range(first, last):
                if d + 1 < len(W):
                    torch.addr(hidden[d], xt[d], W[d], out=hidden[d + 1])
            block = hidden[first:last].sigmoid_()
            torch.bmm(block, V[first:last, :, None], out=logits[first:last])
        ctx.save_for_backward(xt, V, hidden)
        return logits[:, :, 0].t() + b

    @staticmethod
    def backward(ctx, grad_logits):
        xt, V, hidden = ctx.saved_tensors
        g = grad_logits.t().contiguous()
        grad_V = hidden.new_empty(len(V), 1, V.shape[1])
        D = torch.zeros_like(hidden[0])
        delta = hidden.new_empty(BLOCK, *D.shape)
        grad_W = torch.empty_like(V)
        for last in range(len(V), 0, -BLOCK):
            first = max(0, last - BLOCK)
            block = delta[: last - first]
            torch.bmm(g[first:last, None], hidden[first:last], out=grad_V[first:last])
            torch.mul(g[first:last, :, None], V[first:last, None], out=block)
            torch.ops.aten.sigmoid_backward.grad_input(block, hidden[first:last], grad_input=block)
            for d in range(last - 1, first - 1, -1):
                torch.mv(D.t(), xt[d], out=grad_W[d])
                D += block[d - first]
        return None, grad_W, D.sum(0), grad_V[:, 0], g.sum(1)


class NADE(Autoregressive):
    """p(x) of eqs. (1)–(3). Parameters are stored by variable, so that row i belongs to x_i in any ordering."""

    name = "nade"
    components = 1

    def __init__(
        self, n: int, hidden: int = 500, ordering: str = "natural", seed: int = 0, shape=None,
        label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "n": n, "hidden": hidden, "ordering": ordering, "seed": seed, "shape": shape, "label": label,
            "classes": classes,
        }  # fmt: skip
        self.label, self.classes = label, classes
        self.n, self.shape = n, tuple(shape) if shape else None
        g = generator(seed, 0, "nade")
        self.o: Tensor
        self.register_buffer("o", visiting_order(n, ordering, g, label, classes))
        bound = math.sqrt(6 / (n + hidden))
        self.W = nn.Parameter((2 * torch.rand(n, hidden, generator=g) - 1) * bound)
        self.V = nn.Parameter((2 * torch.rand(n, hidden, generator=g) - 1) * bound)
        self.c = nn.Parameter(torch.zeros(hidden))
        self.b = nn.Parameter(torch.zeros(n))

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        return self.o

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Output biases at the log-odds of the data."""
        self.b.data.copy_(log_odds)

    def logits(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Logits of p(x_d = 1 | x_{<d}), in the ordering: column d belongs to variable o(d)."""
        o = self.o
        return _Conditionals.apply(x[:, o], self.W[o], self.c, self.V[o], self.b[o])  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x) in nats, eq. (3)."""
        return -log_bernoulli(self.logits(x), x[:, self.o])

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, " b"]:
        return torch.cat([-self(rows) for rows in x.split(100)])

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Eqs. (1), (2), (4), one variable after another; 250 vectors at a time keep the activation in the cache."""
        out, log_w = torch.empty_like(x), x.new_zeros(len(x))
        o, free = self.o.tolist(), not bool(observed.any())
        for rows in torch.arange(len(x), device=x.device).split(250):
            xt, ut, seen = x[rows].t().contiguous(), u[rows].t().to(x.dtype), observed[rows].t()
            a = self.c.repeat(len(rows), 1)
            h = torch.empty_like(a)
            weight = x.new_zeros(len(rows))
            for d in o:
                logit = torch.sigmoid(a, out=h).mv(self.V[d]) + self.b[d]
                if free:
                    torch.lt(ut[d], logit.sigmoid_(), out=xt[d])
                else:
                    xt[d] = draw(logit, ut[d], xt[d], seen[d], weight)
                a.addr_(xt[d], self.W[d])
            out[rows], log_w[rows] = xt.t(), weight
        return out, log_w

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b h"]:
        """h_{n+1} = σ(c + W x): the hidden units once the whole vector is seen, the paper's features."""
        return torch.sigmoid(self.c + self.check(x) @ self.W)


Model = NADE


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x), eq. (3), over the training vectors."""

    Config, Model = Config, NADE
    steps = 20_000
