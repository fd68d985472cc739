r"""Orderless NADE: one network for every conditional of every ordering, and so for any part given any other.

B. Uria, I. Murray and H. Larochelle, "A Deep and Tractable Density Estimator", ICML 2014 (EoNADE, DeepNADE).

The network is told which variables S are observed and what they are, and gives every other one its probability:

    h^1 = ReLU(c^1 + W (x ∘ m) + U m),    m_j = 1[j ∈ S]                              (1)
    h^l = ReLU(c^l + W^l h^{l−1}),        l = 2 … L                                    (2)
    p(x_j = 1 | x_S) = σ(b_j + V_j · h^L + A_j (x ∘ m) + B_j m),   j ∉ S                (3)

It learns all n! orderings at once: the mean over orderings o of −\log p(x | o) is

    J = E_o \sum_{d=1}^n −\log p(x_{o_d} | x_{o_{<d}})
      = E_{d, S: |S| = d−1} [ \frac{n}{n − d + 1} \sum_{j ∉ S} −\log p(x_j | x_S) ]    (4)

since each of the n − d + 1 variables outside S is as likely to come next. One pass with one random S a vector is an
unbiased estimate, whose variance grows where few variables are missing: few terms, each weighted by much. Such S are
therefore drawn more often and weighted less. The missing variables are those of a share s = r² of all,

    r uniform in (0, 1),    j ∉ S with probability r² each,    weight 2 r \frac{n + 1}{n − |S|}           (5)

which has the mean (4): were s itself uniform, |S| would be uniform on 0 … n (n gives no loss, hence n + 1 in place of
n), and 2r is the ratio of the densities of s. The r of a batch of b are spread evenly, one in each (i/b, (i + 1)/b).
On MNIST, 600 updates with (5) learn more than 900 with uniform s (106.9 and 107.9 nats).

The density is that of one ordering, or the exact mixture over K of them:

    \log p(x | o) = \sum_d \log p(x_{o_d} | x_{o_{<d}}),    p(x) = \frac{1}{K} \sum_k p(x | o_k)      (6)

Any observed set can be visited first, so `complete` and `marginal` are exact in the model's own conditionals, whatever
is observed. Different orderings give slightly different densities: that is what (6) averages.

| symbol | shape | here |
|---|---|---|
| x, m | (b, n) | vectors, and which of their variables are observed |
| W, U | (n, h_1) | first layer, transposed: row j belongs to variable j |
| W[l] | (h_l, h_{l−1}) | further layers |
| V, b | (n, h_L), (n,) | output |
| A, B | (n, n), (n, n) | direct connections; row j to variable j, from what is observed and from which variables are |
| a | (b, h_1) | c^1 + W(x ∘ m) + U m: updated as variables become known, O(h_1) each |

Differs from the paper: S by eq. (5); direct connections, which MADE has; Adam with weight averaging. The label of a
joint model is one variable with C values and a softmax in (3), and stands at its end of every ordering o_k.

Expected: see docs/density.md, with the command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, one_hot, relu, softplus

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive
from ptheta.density.joint import draw_class, label_columns
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of orderless NADE and of its training."""

    hidden: Annotated[tuple[int, ...], Between(1, 2**20)] = (500, 500)
    """Hidden units of each layer, at least one layer."""
    orderings: Annotated[int, Between(1, 4096)] = 1
    """Orderings K whose mixture, eq. (6), is the density; training does not depend on it."""


class Orderless(Autoregressive):
    """p(x) of eqs. (1)–(3) and (6)."""

    name = "orderless"
    any_order = True
    takes_unlabelled = True

    def __init__(
        self, n: int, hidden=(500, 500), orderings: int = 1, seed: int = 0, shape=None, label: str = "none",
        classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        if not hidden:
            raise UsageError("hidden has no layer; allowed: at least one (option --hidden).")
        self.arguments = {
            "n": n, "hidden": list(hidden), "orderings": orderings, "seed": seed, "shape": shape, "label": label,
            "classes": classes,
        }  # fmt: skip
        self.n, self.shape, self.components, self.seed = n, tuple(shape) if shape else None, orderings, seed
        self.label, self.classes = label, classes
        self.label_in_one_pass = label == "last"
        g = generator(seed, 0, "orderless")

        def drawn(rows: int, columns: int, inputs: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(rows, columns, generator=g) - 1) * math.sqrt(6 / inputs))

        self.W, self.U = drawn(n, hidden[0], n), nn.Parameter(torch.zeros(n, hidden[0]))
        self.layers = nn.ParameterList(drawn(h, before, before) for before, h in zip(hidden, hidden[1:]))
        self.c = nn.ParameterList(nn.Parameter(torch.zeros(h)) for h in hidden)
        self.V = nn.Parameter(torch.zeros(n, hidden[-1]))  # at first, the variables are independent
        self.b = nn.Parameter(torch.zeros(n))
        self.A, self.B = nn.Parameter(torch.zeros(n, n)), nn.Parameter(torch.zeros(n, n))

    # ------------------------------------------------------------ variables and their columns

    @property
    def variables(self) -> int:
        """Pixels, and one label: the n of eqs. (4) to (6)."""
        return self.n - self.classes + (self.classes > 0)

    def columns(self, v: int) -> slice:
        """The columns of variable v: one, or C if it is the label."""
        if self.label == "first":
            return slice(0, self.classes) if v == 0 else slice(v + self.classes - 1, v + self.classes)
        return slice(v, self.n) if self.classes and v == self.variables - 1 else slice(v, v + 1)

    def by_column(self, of_variables: Tensor) -> Tensor:
        """(b, variables) -> (b, n): what is true of the label holds for each of its columns."""
        if not self.classes:
            return of_variables
        at = 0 if self.label == "first" else self.variables - 1
        counts = torch.ones(self.variables, dtype=torch.long, device=of_variables.device)
        counts[at] = self.classes
        return of_variables.repeat_interleave(counts, 1)

    def variable_order(self, k: int) -> Int[Tensor, " variables"]:
        """o_k, drawn from the seed, with the label at its end of the ordering."""
        pixels = torch.randperm(self.n - self.classes, generator=generator(self.seed, k, "ordering"))
        if not self.classes:
            return pixels
        if self.label == "first":
            return torch.cat([torch.tensor([0]), 1 + pixels])
        return torch.cat([pixels, torch.tensor([self.variables - 1])])

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        columns = torch.arange(self.n)
        return torch.cat([columns[self.columns(v)] for v in self.variable_order(k).tolist()])

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Output biases at the log-odds of the data."""
        self.b.data.copy_(log_odds)

    # ------------------------------------------------------------ the network

    def first(self, x: Float[Tensor, "b n"], m: Float[Tensor, "b n"]) -> Float[Tensor, "b h1"]:
        """a of eq. (1), before the ReLU."""
        return linear(seen(x, m), torch.cat([self.W, self.U]).t(), self.c[0])

    def direct(self) -> Float[Tensor, "n 2n"]:
        """A and B of eq. (3), side by side."""
        return torch.cat([self.A, self.B], 1)

    def upper(self, a: Float[Tensor, "b h1"]) -> Float[Tensor, "b h"]:
        """h^L of eq. (2) from a."""
        h = relu(a)
        for W, c in zip(self.layers, list(self.c)[1:]):
            h = relu(linear(h, W, c))
        return h

    def log_conditionals(self, x: Float[Tensor, "b n"], m: Float[Tensor, "b n"]) -> Float[Tensor, "b variables"]:
        """log p(x_j | x_S) of eq. (3) for every variable, those in S too (where it means nothing)."""
        deep, direct = linear(self.upper(self.first(x, m)), self.V, self.b), linear(seen(x, m), self.direct())
        logits = deep.to(x.dtype) + direct.to(x.dtype)
        if not self.classes:
            return x * logits - softplus(logits)
        at = label_columns(self.n, self.classes, self.label)
        of_label = (logits[:, at].log_softmax(1) * x[:, at]).sum(1, keepdim=True)
        each = x * logits - softplus(logits)
        return torch.cat([each[:, : at.start], of_label, each[:, at.stop :]], 1)

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """One draw of eq. (5) for each vector, keyed by `step`, in nats; of x alone, its class asked for last and so
        never shown, where a vector of a joint model has none."""
        b, N = len(x), self.variables
        g = generator(self.seed, step, "observed", x.device)
        drawn = torch.rand(b * self.world, N + 1, generator=g, device=x.device)
        place = torch.randperm(b * self.world, generator=g, device=x.device)
        r = (place + drawn[:, N]) / (b * self.world)
        drawn, r = (v[b * self.rank : b * (self.rank + 1)] for v in (drawn, r))
        missing, counted = drawn[:, :N] < r.square()[:, None], torch.full((b,), N, device=x.device)
        observed = ~missing
        if self.classes:
            at, y = label_columns(self.n, self.classes, self.label), 0 if self.label == "first" else N - 1
            known = x[:, at].sum(1) > 0
            observed[:, y] &= known
            missing[:, y] &= known
            counted = counted - (~known).long()
        log_p = self.log_conditionals(x, self.by_column(observed).to(x.dtype))
        return -(log_p * missing).sum(1) * 2 * r * (counted + 1) / missing.sum(1).clamp(min=1)

    # ------------------------------------------------------------ along an ordering

    def walk(
        self, x: Float[Tensor, "b n"], given: Bool[Tensor, "b n"], visit: Bool[Tensor, "b n"], k: int,
        u: Float[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:  # fmt: skip
        """Visit the variables of `visit` in the ordering k, with x_given known from the start.

        They are drawn by the uniform numbers u, or taken from x if there are none. Returns x and the sum of
        log p(x_v | what was known before v), eq. (6).
        """
        x, log_p = x.clone(), x.new_zeros(len(x))
        known = seen(x, given.to(x.dtype))
        a, direct = self.first(x, given.to(x.dtype)), self.direct()
        some = visit.any(0).tolist()
        for v in self.variable_order(k).tolist():
            at = self.columns(v)
            if not some[at.start]:
                continue
            here = visit[:, at.start]
            logits = linear(self.upper(a), self.V[at], self.b[at]) + linear(known, direct[at])
            if at.stop - at.start == 1:
                new = x[:, at] if u is None else (u[:, at] < logits.sigmoid()).to(x.dtype)
                term = logsigmoid((2 * new - 1) * logits)[:, 0]
            else:
                log_q = logits.log_softmax(1)
                drawn = x[:, at] if u is None else one_hot(draw_class(log_q.exp(), u[:, at.start]), self.classes)
                new = drawn.to(x.dtype)
                term = torch.where(new.sum(1) == 1, (log_q * new).sum(1), -math.inf)
            log_p += torch.where(here, term, 0.0)
            x[:, at] = torch.where(here[:, None], new, x[:, at])
            a.addcmul_(here[:, None].to(a.dtype), new @ self.W[at] + self.U[at].sum(0))
            known[:, at] += here[:, None] * new
            known[:, self.n :][:, at] += here[:, None]
        return x, log_p

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int) -> Float[Tensor, " b"]:
        """Eq. (6) for the ordering o_k."""
        nothing = torch.zeros_like(x, dtype=torch.bool)
        return self.walk(x, nothing, ~nothing, k)[1]

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """The observed variables first, in the ordering k, and then the missing ones: exact for any observed set."""
        log_w = self.walk(x, torch.zeros_like(observed), observed, k)[1] if observed.any() else x.new_zeros(len(x))
        return self.walk(x, observed, ~observed, k, u)[0], log_w

    # ------------------------------------------------------------ the label last

    def log_class(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b C"]:
        """log p(y | x), eq. (3) with all of x observed: the same in every ordering that ends with the label."""
        at, m = label_columns(self.n, self.classes, self.label), torch.ones_like(z)
        m[:, at] = 0
        deep = linear(self.upper(self.first(z, m)), self.V[at], self.b[at])
        return (deep + linear(seen(z, m), self.direct()[at])).log_softmax(1)

    def log_x(self, z: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """log p(x) of eq. (6) over the pixels, whatever the class."""
        nothing, pixels = (torch.zeros_like(z, dtype=torch.bool) for _ in range(2))
        pixels[:, : self.n_x] = True
        each = torch.stack([self.walk(z, nothing, pixels, k)[1] for k in range(self.components)])
        return each.logsumexp(0) - math.log(self.components)

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b h"]:
        """The last hidden layer, with every variable observed; of a joint model, every variable but the label."""
        x = self.check(x)
        m = torch.ones_like(x)
        if self.classes:
            m[:, label_columns(self.n, self.classes, self.label)] = 0
        return self.upper(self.first(x, m))


def seen(x: Float[Tensor, "b n"], m: Float[Tensor, "b n"]) -> Float[Tensor, "b 2n"]:
    """What the network is told: the observed values, and which they are."""
    return torch.cat([x * m, m], 1)


Model = Orderless


class Method(MaximumLikelihood):
    """min over θ of J, eq. (4), over the training vectors."""

    Config, Model = Config, Orderless
    steps = 50_000
