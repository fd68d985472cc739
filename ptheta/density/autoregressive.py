r"""What every autoregressive model of binary vectors can do, from one primitive.

The chain rule in an ordering o of the n variables, and a mixture over K of them:

    p_k(x) = \prod_{d=1}^{n} p(x_{o_k(d)} | x_{o_k(1)}, …, x_{o_k(d-1)})        (1)
    p(x)   = \frac{1}{K} \sum_{k=1}^{K} p_k(x)                                  (2)

The primitive is *clamped ancestral sampling*: walk along the ordering, draw the
missing variables, take the observed ones as they are, and keep the weight

    \log w = \sum_{d: o(d) observed} \log p(x_{o(d)} | x_{o(<d)})               (3)

With nothing observed it is sampling; with all observed, w = p_k(x). In between, the
draws follow a proposal q with p(x_missing, x_observed) = q(x_missing) w(x), so that
choosing one of several draws with probability proportional to w
(sampling–importance–resampling, Rubin 1987) approximates p(x_missing | x_observed).
Where the observed variables come first in the ordering, w does not depend on the
draw and the result is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptheta.data.order import generator
from ptheta.density.joint import every_class, join, label_columns
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.pretrained import Pretrained

DRAWS = 1024  # of how many `complete` holds at a time


@dataclass(frozen=True)
class Completion:
    """Completed vectors, and how far they can be trusted."""

    x: Float[Tensor, "b n"]
    effective: Float[Tensor, " b"]
    """Effective sample size (Σw)²/Σw² of the particles each was chosen from; infinite where exact."""
    particles: int
    exact: bool


@dataclass(frozen=True)
class Marginal:
    """log p of what is observed, in nats."""

    log_prob: Float[Tensor, " b"]
    standard_error: Float[Tensor, " b"]
    """Of log_prob; zero where exact."""
    exact: bool


class Autoregressive(Pretrained):
    """Base of the models of this room. A model sets `n`, `shape`, `components` and the three methods below.

    Shapes: x is (b, n) of 0/1, any dtype; log-probabilities are in nats.
    """

    n: int
    shape: tuple[int, int] | None
    components: int  # K of eq. (2)
    rank, world = 0, 1  # in training, x is the slice number `rank` of a batch shared by `world` processes
    label = "none"  # or "first" or "last": where among the n variables the label of a joint p(x, y) stands
    classes = 0  # C, the number of its columns
    takes_unlabelled = False  # whether `forward` counts vectors without their class with −log p(x)
    label_in_one_pass = False  # whether `log_x` and `log_class` give log p(x) and log p(y | x), the label being last
    any_order = False  # of a model of all orderings `clamped` visits the observed first, and `components` may grow

    def order(self, k: int) -> Int[Tensor, " n"]:
        """The ordering o_k: the variables in the order in which component k visits them."""
        raise TypeError(f"{type(self).__name__} has no ordering")

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int) -> Float[Tensor, " b"]:
        """log p_k(x), eq. (1)."""
        raise TypeError(f"{type(self).__name__} has no density")

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Clamped ancestral sampling of component k by the uniform numbers u: (x, log w), eq. (3)."""
        raise TypeError(f"{type(self).__name__} cannot be sampled")

    def log_x(self, z: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """log p(x), whatever the class in z."""
        raise TypeError(f"{type(self).__name__} sums over its classes")

    def log_class(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b C"]:
        """log p(y | x), whatever the class in z."""
        raise TypeError(f"{type(self).__name__} asks for one class after another")

    def step_shares(self) -> dict[str, float]:
        """Step sizes of parameters, by name, as a share of the learning rate; 1 where none is given."""
        return {}

    # ------------------------------------------------------------ for users

    @property
    def n_x(self) -> int:
        """Variables of x alone, without the label's columns."""
        return self.n - self.classes

    def join(self, x: Any, y: Any = None) -> Tensor:
        """The vectors (b, n) that the model knows, of x (b, n_x) and, for a joint model, labels y (b,) or None."""
        if self.label == "none":
            return self._tensor(x, "x")
        x = self._tensor(x, "x")
        if x.dim() != 2 or x.shape[1] != self.n_x:
            raise InputError(f"x has shape {tuple(x.shape)}; allowed: (b, {self.n_x}), one vector a row.")
        return join(x, y, self.classes, self.label)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `join`: x (b, n_x), and the label's columns (b, C)."""
        if self.label == "none":
            return z, z[:, :0]
        columns = label_columns(self.n, self.classes, self.label)
        return torch.cat([z[:, : columns.start], z[:, columns.stop :]], 1), z[:, columns]

    @torch.no_grad()
    def joint_log_prob(self, x: Any, chunk: int = 1000) -> Float[Tensor, "b C"]:
        """log p(x, y) in nats for x (b, n_x) and every class y. Raises UsageError for a model of p(x) alone."""
        if self.label == "none":
            raise UsageError(f"this {type(self).__name__} has no label: train it with --label first or --label last.")
        z = self.join(x)
        if self.label_in_one_pass:
            parts = [self.log_x(rows)[:, None] + self.log_class(rows) for rows in self.check(z).split(chunk)]
        else:
            parts = [
                self.log_prob(every_class(rows, self.classes, self.label), chunk).view(-1, self.classes)
                for rows in z.split(max(1, chunk // self.classes))
            ]
        return torch.cat(parts) if parts else torch.zeros(0, self.classes)

    @torch.no_grad()
    def classify(self, x: Any) -> Float[Tensor, "b C"]:
        """p(y | x) by Bayes' rule, exact, for x (b, n_x)."""
        return (
            self.log_class(self.check(self.join(x))).exp()
            if self.label_in_one_pass
            else self.joint_log_prob(x).softmax(1)
        )

    @torch.no_grad()
    def log_prob(self, x: Any, chunk: int = 1000) -> Float[Tensor, " b"]:
        """log p(x) in nats, eq. (2), `chunk` vectors at a time; no gradients (training calls `forward`).

        Raises InputError if x is not (b, n) of 0/1.
        """
        x = self.check(x)
        parts = []
        for rows in x.split(chunk):
            each = torch.stack([self.component_log_prob(rows, k) for k in range(self.components)])
            parts.append(each.logsumexp(0) - math.log(self.components))
        return torch.cat(parts) if parts else x.new_zeros(0)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, chunk: int = 1000, y: int | None = None) -> Float[Tensor, "count n"]:
        """`count` independent draws from p(x). The first of a larger count are those of a smaller one.

        y: of a joint model, the class: draws from p(x | y), exact where the label comes first (see `complete`).
        """
        if count < 1:
            raise UsageError(f"count = {count} is impossible; allowed: at least 1.")
        if y is not None:
            if not 0 <= y < self.classes:
                allowed = f"0 to {self.classes - 1}" if self.classes else "none, since the model has no label"
                raise UsageError(f"y = {y} is no class of this model; allowed: {allowed}.")
            z = self.join(torch.zeros(count, self.n_x), torch.full((count,), y))
            observed = torch.zeros(self.n, dtype=torch.bool)
            observed[label_columns(self.n, self.classes, self.label)] = True
            return self.complete(z, observed, seed).x
        parts = []
        for i, size in enumerate(_sizes(count, chunk)):
            g = generator(seed, i, "sample")
            u = torch.rand(chunk, self.n, generator=g)[:size].to(self.device)
            k = torch.randint(self.components, (chunk,), generator=g)[:size]
            x = torch.zeros(size, self.n, dtype=self.dtype, device=self.device)
            nothing = torch.zeros(size, self.n, dtype=torch.bool, device=self.device)
            for j in k.unique().tolist():
                rows = (k == j).nonzero()[:, 0].to(self.device)
                x[rows] = self.clamped(x[rows], nothing[rows], u[rows], j)[0]
            parts.append(x)
        return torch.cat(parts)

    @torch.no_grad()
    def complete(self, x: Any, observed: Any, seed: int = 0, particles: int = 64) -> Completion:
        """Draw x_missing ~ p(x_missing | x_observed) for each row.

        observed: bool, (n,) or (b, n); what x holds elsewhere is ignored. Exact where the observed variables
        come first in every ordering; else one of `particles` draws is chosen by its weight, eq. (3), and the
        effective sample size says how many of them counted. A model of all orderings (`any_order`) is always exact: its
        p(x_missing | x_observed) is that of the mixture (2) over its K orderings, each with the observed ones first.

        Raises InputError for wrong shapes or values.
        """
        if particles < 1:
            raise UsageError(f"particles = {particles} is impossible; allowed: at least 1.")
        x, observed = self._observations(x, observed)
        exact = self.observed_first(observed)
        each = 1 if exact else math.ceil(particles / self.components)
        total = each * self.components

        results, effective = [], []
        together = max(1, DRAWS // total)
        for i, (rows, seen) in enumerate(zip(x.split(together), observed.split(together), strict=True)):
            g = generator(seed, i, "complete")
            draws, weights = [], []
            for k in range(self.components):
                u = torch.rand(len(rows) * each, self.n, generator=g).to(self.device)
                draw, w = self.clamped(rows.repeat_interleave(each, 0), seen.repeat_interleave(each, 0), u, k)
                draws.append(draw.view(len(rows), each, self.n))
                weights.append(w.view(len(rows), each))
            share = torch.cat(weights, 1).double().softmax(1)
            chosen = torch.multinomial(share.cpu(), 1, generator=g).to(self.device)
            results.append(torch.cat(draws, 1).gather(1, chosen[:, :, None].expand(-1, 1, self.n))[:, 0])
            effective.append(1 / share.square().sum(1))
        ess = torch.cat(effective) if effective else x.new_zeros(0, dtype=torch.float64)
        return Completion(
            torch.cat(results) if results else x, torch.full_like(ess, math.inf) if exact else ess, total, exact
        )

    @torch.no_grad()
    def marginal(self, x: Any, observed: Any, seed: int = 0, particles: int = 1024, most: int = 10) -> Marginal:
        """log p(x_observed) = log Σ over the missing of p(x), for each row of x (b, n).

        observed: bool, (n,) or (b, n). Exact where the observed variables come first in every ordering, and by summing
        over all completions where at most `most` variables are missing; else the mean of w, eq. (3), over draws.

        Raises InputError for wrong shapes or values.
        """
        if particles < 2:
            raise UsageError(f"particles = {particles} is impossible; allowed: at least 2.")
        x, observed = self._observations(x, observed)
        zero = x.new_zeros(len(x), dtype=torch.float64)
        missing = int((~observed).sum(1).max()) if len(x) else 0
        if not self.observed_first(observed) and missing <= most:
            return Marginal(torch.stack([self._sum(r, o) for r, o in zip(x, observed)]), zero, True)
        each = 1 if self.observed_first(observed) else math.ceil(particles / self.components)
        means, variances = [], []
        for k in range(self.components):
            rows = []
            for i, (part, seen) in enumerate(zip(x.split(16), observed.split(16), strict=True)):
                u = torch.rand(len(part) * each, self.n, generator=generator(seed, i, f"marginal{k}")).to(self.device)
                w = self.clamped(part.repeat_interleave(each, 0), seen.repeat_interleave(each, 0), u, k)[1]
                rows.append(w.view(len(part), each).double())
            log_w = torch.cat(rows) if rows else zero[:, None]
            means.append(log_w.logsumexp(1) - math.log(each))
            scaled = (log_w - means[-1][:, None]).exp()
            variances.append(scaled.var(1) / each if each > 1 else zero)  # of w / its mean
        log_means = torch.stack(means)
        log_p = log_means.logsumexp(0) - math.log(self.components)
        shares = (log_means - log_means.logsumexp(0)).exp()
        error = (torch.stack(variances) * shares.square()).sum(0).sqrt()
        return Marginal(log_p, error, each == 1)

    def _sum(self, x: Float[Tensor, " n"], observed: Bool[Tensor, " n"]) -> Tensor:
        """log Σ p(x) over every value of the missing variables."""
        hidden = (~observed).nonzero()[:, 0]
        every = torch.arange(2 ** len(hidden), device=x.device)[:, None] >> torch.arange(len(hidden), device=x.device)
        rows = x.repeat(len(every), 1)
        rows[:, hidden] = (every & 1).to(x.dtype)
        return self.log_prob(rows).double().logsumexp(0)

    # ------------------------------------------------------------ for models

    def observed_first(self, observed: Bool[Tensor, "b n"]) -> bool:
        """Whether every ordering visits all that is observed before all that is missing, in every row."""
        if self.any_order:
            return True
        inside = [observed[:, self.order(k)] for k in range(self.components)]
        return all(bool((o[:, 1:] <= o[:, :-1]).all()) for o in inside)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check(self, x: Any) -> Float[Tensor, "b n"]:
        """x on the model's device and in its dtype, or InputError with what was got and what is wanted."""
        x = self._tensor(x, "x")
        if x.dim() != 2 or x.shape[1] != self.n:
            raise InputError(f"x has shape {tuple(x.shape)}; allowed: (b, {self.n}), one vector a row.")
        if not ((x == 0) | (x == 1)).all():
            raise InputError(f"x holds {x[(x != 0) & (x != 1)][0].item():g}; allowed: 0 and 1 (binarise it first).")
        return x.to(self.dtype)

    def _observations(self, x: Any, observed: Any) -> tuple[Float[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """x with zeros where nothing is observed, and the mask of what is, both (b, n); InputError for other shapes."""
        observed = self._tensor(observed, "observed")
        if observed.dtype != torch.bool or observed.shape[-1:] != (self.n,) or observed.dim() > 2:
            got = f"{tuple(observed.shape)} of {observed.dtype}"
            raise InputError(f"observed is {got}; allowed: a mask of bools of shape ({self.n},) or (b, {self.n}).")
        x = self._tensor(x, "x")
        observed = observed.expand(len(x), -1) if observed.dim() == 1 and x.dim() == 2 else observed
        if observed.shape != x.shape:
            raise InputError(f"observed is {tuple(observed.shape)} and x {tuple(x.shape)}; they must have one shape.")
        x = self.check(torch.where(observed, x, 0))
        if self.classes:
            at = label_columns(self.n, self.classes, self.label)
            some, whole = observed[:, at].any(1), observed[:, at].all(1)
            if (some & ~(whole & (x[:, at].sum(1) == 1))).any():
                raise InputError(
                    "an observed label is no class; allowed: all its columns, one of them 1, or none of them."
                )
        return x, observed

    def _tensor(self, values: Any, name: str) -> Tensor:
        try:
            return torch.as_tensor(values, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            fix = f"allowed: (b, {self.n}), one vector a row."
            raise InputError(f"{name} is no array of numbers ({error}); {fix}") from error


def log_bernoulli(logits: Float[Tensor, "b n"], x: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    r"""\sum_d x_d \log σ(a_d) + (1 - x_d) \log(1 - σ(a_d)) = \sum_d x_d a_d - \log(1 + e^{a_d}), stable for any a."""
    return -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def draw(logit: Tensor, u: Tensor, x: Tensor, observed: Tensor, log_w: Tensor) -> Tensor:
    """The next variable of each row in clamped sampling; adds its term of eq. (3) to log_w in place. All (b,)."""
    new = torch.where(observed, x, (u < logit.sigmoid()).to(x.dtype))
    log_w += torch.where(observed, torch.nn.functional.logsigmoid((2 * new - 1) * logit), 0.0)
    return new


def visiting_order(n: int, ordering: str, g: torch.Generator, label: str = "none", classes: int = 0) -> Tensor:
    """o (n,): the variables as they are visited, natural or drawn from g; the label keeps its place at an end."""
    if ordering == "natural":
        return torch.arange(n)
    drawn = torch.randperm(n - classes, generator=g)
    if label == "first":
        return torch.cat([torch.arange(classes), classes + drawn])
    return torch.cat([drawn, torch.arange(n - classes, n)])


def _sizes(count: int, chunk: int) -> list[int]:
    return [chunk] * (count // chunk) + ([count % chunk] if count % chunk else [])
