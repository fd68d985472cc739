r"""FVSBN: the fully visible sigmoid belief network.

B. J. Frey, "Graphical Models for Machine Learning and Digital Communication", MIT Press 1998;
R. M. Neal, "Connectionist learning of belief networks", Artificial Intelligence 56, 1992.

Every conditional is a logistic regression on the variables before it:

    p(x_d = 1 | x_{<d}) = σ(b_d + \sum_{j<d} W_{dj} x_j)               (1)
    \log p(x) = \sum_d \log p(x_d | x_{<d})                            (2)
    minimised: mean of −\log p(x) over the data + λ \sum_{dj} |W_{dj}|   (3)

All n regressions are one product with a strictly lower triangular matrix, so that the densities of b vectors are one
matrix product. −log p is convex in (W, b): what it cannot fit, more training does not fix.

| symbol | shape | here |
|---|---|---|
| x | (b, n) | binary vectors, in the model's ordering inside this file |
| W | (n, n) | weights, strictly lower triangular in the ordering |
| b | (n,) | biases |

Differs from the paper: Adam in place of Frey's quasi-Newton fits; the penalty of eq. (3) (Tibshirani 1996), off unless
asked for; b starts at the log-odds of the data.

Expected: validation −log p of statically binarised MNIST 98.6 nats by `ptheta train fvsbn --data binarized_mnist
--lasso 0.0001 --learning-rate 0.004 --batch-size 200 --average 0.999 --steps 6000` (a minute on two cores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive, draw, log_bernoulli, visiting_order
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.method import Between

BLOCK = 32  # variables whose common past is multiplied in one product while sampling


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of FVSBN and of its training."""

    ordering: Literal["natural", "random"] = "natural"
    """The order in which the variables are visited; random: drawn once from the seed."""
    lasso: Annotated[float, Between(0)] = 0.0
    """λ of eq. (3), nats a unit of weight: a Laplace prior, which keeps weights of rare pasts at zero."""


class FVSBN(Autoregressive):
    """p(x) of eqs. (1) and (2). Row and column d of W belong to the d-th variable of the ordering."""

    name = "fvsbn"
    components = 1

    def __init__(
        self, n: int, ordering: str = "natural", lasso: float = 0.0, seed: int = 0, shape=None,
        label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "n": n, "ordering": ordering, "lasso": lasso, "seed": seed, "shape": shape, "label": label,
            "classes": classes,
        }  # fmt: skip
        self.label, self.classes = label, classes
        self.n, self.shape = n, tuple(shape) if shape else None
        self.lasso = lasso
        self.o: Tensor
        self.register_buffer("o", visiting_order(n, ordering, generator(seed, 0, "fvsbn"), label, classes))
        self.past: Tensor  # 1 where row d may see column j < d
        self.register_buffer("past", torch.ones(n, n).tril(-1), persistent=False)
        self.W = nn.Parameter(torch.zeros(n, n))
        self.b = nn.Parameter(torch.zeros(n))

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        return self.o

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Biases at the log-odds of the data: the best model of independent variables."""
        self.b.data.copy_(log_odds[self.o.cpu()])

    def logits(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Eq. (1) for all d at once, in the ordering."""
        return self._logits(x[:, self.o])

    def _logits(self, ordered: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        return nn.functional.linear(ordered, self.W * self.past.to(self.W.dtype), self.b).to(ordered.dtype)

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x) in nats, eq. (2); while training, the penalty of eq. (3) is added to each."""
        nats = -self.component_log_prob(x)
        return nats + self.lasso * self.W.abs().sum() if self.training and self.lasso else nats

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, " b"]:
        ordered = x[:, self.o]
        return log_bernoulli(self._logits(ordered), ordered)

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Eq. (1), one variable after another; the past of a block of variables is multiplied in one product."""
        o, W = self.o, self.W.tril(-1)
        xt, ut, seen = x[:, o].t().contiguous(), u[:, o].t().to(x.dtype), observed[:, o].t()
        log_w = x.new_zeros(len(x))
        for start in range(0, self.n, BLOCK):
            stop = min(start + BLOCK, self.n)
            past = torch.addmm(self.b[start:stop, None], W[start:stop, :start], xt[:start])
            for d in range(start, stop):
                logit = past[d - start] + W[d, start:d] @ xt[start:d]
                xt[d] = draw(logit, ut[d], xt[d], seen[d], log_w)
        return torch.empty_like(x).index_copy_(1, o, xt.t()), log_w

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b n"]:
        """The model has no hidden units; its features are the residuals x_d − p(x_d = 1 | x_{<d}) = ∂\\log p/∂b_d,
        the Fisher score of the biases, by variable."""
        x = self.check(x)
        score = x[:, self.o] - self.logits(x).sigmoid()
        return torch.empty_like(x).index_copy_(1, self.o, score)


Model = FVSBN


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x), eq. (2), over the training vectors."""

    Config, Model = Config, FVSBN
    steps = 10_000
