r"""MADE: the masked autoencoder for distribution estimation.

M. Germain, K. Gregor, I. Murray and H. Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015.

An autoencoder whose weights are masked so that output d depends on the variables before d alone: one pass gives all
n conditionals. Input d has as degree its place in the ordering; a hidden unit draws its degree m from 1..n−1 and may
depend on the first m variables:

    h^l = ReLU(b^l + (W^l ∘ M^l) h^{l−1}),          M^l_{kj} = 1[m^l(k) ≥ m^{l−1}(j)]          (1)
    logit = b + (V ∘ M^V) h^L + (A ∘ M^A) x,        M^V_{dk} = 1[d > m^L(k)]                   (2)
    M^A_{dj} = 1[d > j]     (direct connections)                                                (3)
    \log p(x) = \sum_d \log p(x_d | x_{<d})                                                     (4)

With several masks (section 4.2) the weights are shared by K networks that differ in their degrees and, if
ordering = "random", in their ordering. Training takes them in turn; the density is their exact mixture

    p(x) = \frac{1}{K} \sum_k p_k(x)                                                            (5)

(averaging their logits would not give a density that sums to one). Training minimises the mean of −\log p_k(x), plus

    λ \sum_{dj} |A_{dj}|                                                                        (6)

Sampling takes n passes in the paper. But a unit of degree m never changes once the first m variables are known, so each
unit is computed once, when they are: a sample costs one pass in all.

| symbol | shape | here |
|---|---|---|
| x | (b, n) | binary vectors, in the variables' own order |
| W[l] | (h_l, h_{l−1}) | weights; h_0 = n |
| V, A | (n, h_L), (n, n) | output and direct weights |
| ranks | (K, n) | place of each variable in the ordering of mask k, from 1 |
| degrees_l | (K, h_l) | degrees m of layer l in mask k |

Differs from the paper: Adam with weight averaging in place of Adagrad/Adadelta; dropout and the penalty (6), both off
unless asked for; with one mask, hidden units are numbered by degree, so that the masks are staircases. With several
masks and units = "sorted" they are numbered by degree in each: a unit then sees nearly the same variables under all.

Expected: validation −log p of statically binarised MNIST 91.6 nats (docs/density.md has more) by
`ptheta train made --data binarized_mnist --hidden 500 --learning-rate 0.004 --average 0.999 --steps 8000`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import relu

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive, draw, log_bernoulli, visiting_order
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.density.masked_linear import Plan, masked_linear, plan
from ptheta.engine.method import Between

MOST_PLANS = 64  # masks whose plans are kept
BLOCK = 32  # variables whose common past is multiplied in one product while sampling


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of MADE and of its training."""

    hidden: Annotated[tuple[int, ...], Between(1, 2**20)] = (500,)
    """Hidden units of each layer."""
    masks: Annotated[int, Between(1, 1024)] = 1
    """Networks K that share the weights: taken in turn in training, mixed at test."""
    units: Literal["shuffled", "sorted"] = "shuffled"
    """With several masks: each deals its degrees out to the units anew, or by size, so that masks differ less."""
    ordering: Literal["natural", "random"] = "natural"
    """The order in which the variables are visited; random: drawn from the seed for each mask."""
    direct: bool = True
    """Direct connections from input to output, eq. (3)."""
    dropout: Annotated[float, Between(0, 0.99)] = 0.0
    """Share of hidden units dropped in training."""
    lasso: Annotated[float, Between(0)] = 0.0
    """λ of eq. (6), nats a unit of direct weight: keeps the direct weights of rare pasts at zero."""
    hidden_step: Annotated[float, Between(0, 1, open=True)] = 1.0
    """Steps of the weights between hidden layers as a share of `learning_rate`; n/h suits wide layers of h units."""


class MADE(Autoregressive):
    """p(x) of eqs. (1)–(5)."""

    name = "made"

    def __init__(
        self, n: int, hidden=(500,), masks: int = 1, ordering: str = "natural", direct: bool = True,
        dropout: float = 0.0, lasso: float = 0.0, seed: int = 0, shape=None, units: str = "shuffled",
        hidden_step: float = 1.0, label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "n": n, "hidden": list(hidden), "masks": masks, "ordering": ordering, "direct": direct,
            "dropout": dropout, "lasso": lasso, "seed": seed, "shape": shape, "units": units,
            "hidden_step": hidden_step, "label": label, "classes": classes,
        }  # fmt: skip
        self.n, self.shape, self.components = n, tuple(shape) if shape else None, masks
        self.label, self.classes = label, classes
        self.dropout, self.lasso, self.seed, self.hidden_step = dropout, lasso, seed, hidden_step
        self.layers = len(hidden)
        self.ranks: Tensor
        g = generator(seed, 0, "made")
        sizes = [n, *hidden]
        for l in range(1, len(sizes)):
            bound = math.sqrt(6 / (sizes[l - 1] + sizes[l]))
            self.register_parameter(
                f"W{l}", nn.Parameter((2 * torch.rand(sizes[l], sizes[l - 1], generator=g) - 1) * bound)
            )
            self.register_parameter(f"b{l}", nn.Parameter(torch.zeros(sizes[l])))
        bound = math.sqrt(6 / (sizes[-1] + n))
        self.V = nn.Parameter((2 * torch.rand(n, sizes[-1], generator=g) - 1) * bound)
        self.b = nn.Parameter(torch.zeros(n))
        self.A = nn.Parameter(torch.zeros(n, n)) if direct else None

        ranks = [visiting_order(n, ordering, g, label, classes) + 1 for _ in range(masks)]
        sees = classes if label == "first" and direct else 1  # hidden units see the whole label
        for name, degrees in draw_degrees(n, hidden, ranks, g, units == "sorted", sees).items():
            self.register_buffer(name, degrees)
        self.plans: dict[int, list[Plan]] = {}
        self.register_load_state_dict_post_hook(lambda model, _: model.plans.clear())  # the degrees may be others

    def degrees(self, k: int) -> list[Int[Tensor, " h"]]:
        """Degrees of the input, of every hidden layer, of mask k."""
        return [self.ranks[k], *(getattr(self, f"degrees{l}")[k] for l in range(1, self.layers + 1))]

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(W, b) of every hidden layer."""
        return [(getattr(self, f"W{l}"), getattr(self, f"b{l}")) for l in range(1, self.layers + 1)]

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        return self.ranks[k].argsort()

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Output biases at the log-odds of the data."""
        self.b.data.copy_(log_odds)

    def step_shares(self) -> dict[str, float]:
        """Adam moves every weight by about the step size whatever their number, and so the sum over h units by h times
        as much: the weights between wide hidden layers want smaller steps (Yang et al. 2021, table 3)."""
        return {f"W{l}": self.hidden_step for l in range(2, self.layers + 1)}

    def hidden_units(self, x: Float[Tensor, "b n"], k: int, step: int | None = None) -> Float[Tensor, "b h"]:
        """h^L of eq. (1) under mask k; `step` keys the dropout of training."""
        m = self.degrees(k)
        h = x
        for l, (W, b) in enumerate(self.weights()):
            h = relu(masked_linear(h, W, b, m[l + 1], m[l], False, self.plan(k)[l]))
            if self.training and self.dropout and step is not None:
                g = generator(self.seed, step, f"dropout{l}", h.device)
                b, units = h.shape  # drawn for the batch of all processes, of which this one has an equal slice
                drawn = torch.rand(b * self.world, units, generator=g, device=h.device)
                keep = drawn[b * self.rank : b * (self.rank + 1)] >= self.dropout
                h = h * (keep.to(h.dtype) / (1 - self.dropout))
        return h

    def logits(self, x: Float[Tensor, "b n"], k: int = 0, step: int | None = None) -> Float[Tensor, "b n"]:
        """Eq. (2) for every variable at once, in the variables' own order."""
        m, plans = self.degrees(k), self.plan(k)
        logits = masked_linear(self.hidden_units(x, k, step), self.V, self.b, m[0], m[-1], True, plans[-2])
        if self.A is not None:
            logits = logits + masked_linear(x, self.A, torch.zeros_like(self.b), m[0], m[0], True, plans[-1])
        return logits.to(x.dtype)

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p_k(x) in nats, eq. (4), of the mask whose turn it is; while training, eq. (6) is added to each."""
        nats = -log_bernoulli(self.logits(x, step % self.components, step), x)
        if self.training and self.lasso and self.A is not None:
            return nats + self.lasso * self.A.abs().sum()
        return nats

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int) -> Float[Tensor, " b"]:
        return log_bernoulli(self.logits(x, k), x)

    def plan(self, k: int) -> list[Plan]:
        """Where the masks of network k are not zero, layer by layer, then output and direct connections."""
        if k not in self.plans:
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            m = [d.cpu() for d in self.degrees(k)]
            layers = [plan(m[l + 1], m[l], False) for l in range(self.layers)]
            self.plans[k] = [*layers, plan(m[0], m[-1], True), plan(m[0], m[0], True)]
        return self.plans[k]

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Eqs. (1) and (2), each unit once: those of degree d as soon as d variables are known.

        The units are sorted by degree, so that all that unit i may see is a prefix of the layer below: `known[l][d]`
        units of layer l have a degree of at most d. What a block of variables shares is multiplied in one product.
        """
        o, m = self.order(k), self.degrees(k)
        sort = [o, *(d.argsort(stable=True) for d in m[1:])]
        Ws = [
            (W[i][:, j].contiguous(), b[i, None])
            for (W, b), i, j in zip(self.weights(), sort[1:], sort[:-1], strict=True)
        ]
        V, bias = self.V[o][:, sort[-1]].contiguous(), self.b[o]
        A = self.A[o][:, o].contiguous() if self.A is not None else None
        known = [list(range(self.n + 1))] + [
            torch.searchsorted(d.sort().values, torch.arange(self.n + 1, device=d.device), right=True).tolist()
            for d in m[1:]
        ]
        out, log_w = torch.empty_like(x), x.new_zeros(len(x))
        widest = max([self.n, *(len(d) for d in m)])
        for rows in torch.arange(len(x), device=x.device).split(max(64, 2**19 // widest)):
            xt, ut, seen = x[rows][:, o].t().contiguous(), u[rows][:, o].t().to(x.dtype), observed[rows][:, o].t()
            layers = [xt, *(x.new_zeros(len(d), len(rows)) for d in m[1:])]
            weight = x.new_zeros(len(rows))
            for start in range(0, self.n, BLOCK):
                stop = min(start + BLOCK, self.n)
                before = [c[max(0, start - 1)] if l else start for l, c in enumerate(known)]  # what the block shares
                first = [c[max(0, start - 1)] for c in known]
                last = [c[stop - 1] for c in known]
                past = [
                    torch.addmm(
                        b[first[l + 1] : last[l + 1]],
                        W[first[l + 1] : last[l + 1], : before[l]],
                        layers[l][: before[l]],
                    )
                    for l, (W, b) in enumerate(Ws)
                ]
                logits = torch.addmm(bias[start:stop, None], V[start:stop, : before[-1]], layers[-1][: before[-1]])
                if A is not None:
                    logits += A[start:stop, :start] @ xt[:start]
                for d in range(start, stop):
                    for l, (W, _) in enumerate(Ws):
                        i, j = (known[l + 1][d - 1], known[l + 1][d]) if d else (0, 0)
                        if i < j:
                            new = past[l][i - first[l + 1] : j - first[l + 1]]
                            near = slice(before[l], known[l][d])
                            layers[l + 1][i:j] = relu(new + W[i:j, near] @ layers[l][near])
                    logit = logits[d - start] + V[d, before[-1] : known[-1][d]] @ layers[-1][before[-1] : known[-1][d]]
                    if A is not None:
                        logit = logit + A[d, start:d] @ xt[start:d]
                    xt[d] = draw(logit, ut[d], xt[d], seen[d], weight)
            out[rows] = torch.empty_like(xt.t()).index_copy_(1, o, xt.t())
            log_w[rows] = weight
        return out, log_w

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b h"]:
        """The last hidden layer under the first mask."""
        return self.hidden_units(self.check(x), 0)


def draw_degrees(
    n: int, hidden, ranks: list[Tensor], g: torch.Generator, by_size: bool = False, sees: int = 1
) -> dict[str, Tensor]:
    """The given ranks (K, n) and degrees1, degrees2, … (K, h) in `sees`..n−1, of every mask.

    Section 4.1: degrees are uniform; those of a layer are never below the least of the layer before it, so that every
    unit sees something. One mask, or several `by_size`, give them to the units in rising order. n = 1 has no hidden
    degree to give: its units get degree 1 and reach no output.
    """
    out, masks = {"ranks": torch.stack(ranks)}, len(ranks)
    least = [min(sees, max(1, n - 1))] * masks
    for l, h in enumerate(hidden, 1):
        drawn = [torch.randint(low, max(n, low + 1), (h,), generator=g) for low in least]
        drawn = [d.sort().values for d in drawn] if masks == 1 or by_size else drawn
        out[f"degrees{l}"] = torch.stack(drawn)
        least = [int(d.min()) for d in drawn]
    return out


Model = MADE


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x), eq. (4), over the training vectors, one mask after another."""

    Config, Model = Config, MADE
    steps = 10_000
