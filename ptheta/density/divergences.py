r"""d(p, q): how far a model q = p_θ is from the distribution p = p_data. All learning is one sentence,

    \min_θ  d(p_data, p_θ)                                                                       (1)

and as soon as no θ makes d zero, what is learned depends on d: `ptheta divergences` shows how. Maximum likelihood is
d = KL(p_data ‖ p_θ), which alone among these needs of p_data nothing but samples and of p_θ nothing but log p_θ.

Exact, where all outcomes can be listed (Csiszár 1967: \sum_x q f(p/q) with f convex, f(1) = 0; Lin 1991 for eq. 4):

    KL(p ‖ q)  = \sum_x p \log(p/q)                        f = t \log t                           (2)
    KL(q ‖ p)  = \sum_x q \log(q/p)                        f = −\log t                            (3)
    JS(p, q)   = ½ KL(p ‖ m) + ½ KL(q ‖ m),                m = ½ (p + q),  at most \log 2         (4)
    TV(p, q)   = ½ \sum_x |p − q|                          f = ½ |t − 1|,  at most 1              (5)
    H²(p, q)   = ½ \sum_x (\sqrt p − \sqrt q)²             f = ½ (\sqrt t − 1)²,  at most 1       (6)
    χ²(p ‖ q)  = \sum_x (p − q)²/q                         f = (t − 1)²                           (7)

(2) and (7) are infinite where p > 0 = q, (3) where q > 0 = p. With a geometry on the outcomes (Gretton et al. 2012;
Villani 2003, section 2.2):

    MMD²(p, q) = (p − q)^T K (p − q),                      K_{ij} = k(x_i, x_j)                   (8)
    W_r^r(p, q) = \int_0^1 |F_p^{−1}(u) − F_q^{−1}(u)|^r du     on the line, r = 1 or 2           (9)

Monte Carlo, where both can be sampled and both log-densities evaluated. With ρ = \log p(x) − \log q(x):

    KL(p ‖ q) = E_p[ρ],    KL(q ‖ p) = E_q[−ρ]                                                   (10)
    JS, TV, H² = ½ E_p[g(ρ)] + ½ E_q[g(ρ)],                g(ρ) = 2 f(e^ρ)/(1 + e^ρ)              (11)
        JS:  g = s \log 2s + (1 − s) \log 2(1 − s),  s = σ(ρ);    TV:  g = |\tanh ρ/2|;    H²:  g = 1 − 1/\cosh(ρ/2)

(11) is importance sampling from m (the balance heuristic of Veach & Guibas 1995); each g is bounded, so that each
standard error exists. χ² is left out: the variance of p/q is infinite as soon as q has much the lighter tails.

From two sets of samples alone, x_1 … x_M ~ p and y_1 … y_N ~ q:

    MMD²_u = \frac{\sum_{i≠j} k(x_i, x_j)}{M(M−1)} + \frac{\sum_{i≠j} k(y_i, y_j)}{N(N−1)}
             − \frac{2 \sum_{ij} k(x_i, y_j)}{MN}                (Gretton et al. 2012, eq. 3: unbiased)  (12)
    k(a, b) = \exp(−‖a − b‖²/2σ²),  σ: median distance           (Gretton et al. 2012, section 8)  (13)
    k(a, b) = \exp(−\frac{1}{ℓ} \sum_d 1[a_d ≠ b_d])              (Hamming; Yang et al. 2018)  (14)
    SW_r^r = E_ω[W_r^r(ω·x, ω·y)],  ω uniform on the sphere       (Rabin et al. 2011, Bonneel et al. 2015)  (15)
    a = accuracy of a classifier of x against y, held out         (Lopez-Paz & Oquab 2017)  (16)

In the mean a = ½ under p = q, and TV ≥ 2a − 1 always. The p-values of (12) and (15) are of a permutation test:
(1 + \#\{d_{permuted} ≥ d\})/(1 + permutations).

| symbol | shape | here |
|---|---|---|
| log_p, log_q | (m,) | log-probabilities of the m outcomes in nats, −∞ for an impossible one |
| K | (m, m) | kernel of eq. (8) |
| x, y | (M, n), (N, n) | samples, a row each |

Differs from the papers: (6), (8), (9) and (15) stay squares or powers, which have a gradient at p = q. ℓ is the median
distance, where Yang et al. have n, which tells less. The standard error of (12) is the jackknife's (Arvesen 1969): too
large by up to \sqrt 2 near p = q, where that of the first order is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Estimate

LARGEST = 20  # variables whose 2^n outcomes are listed
TOLERANCE = 1e-4  # how far from one the probabilities may sum: float32 over 2^20 outcomes stays below
MOST = 2000  # samples of each set that `compare_samples` looks at: its kernel has (2 · MOST)² entries
Function = Callable[[Tensor], Tensor]


def outcomes(n: int) -> Int[Tensor, "m n"]:
    """All m = 2^n binary vectors, uint8; row i is i in binary, first variable first. UsageError for n > 20."""
    if not 1 <= n <= LARGEST:
        fix = f"allowed: n from 1 to {LARGEST} ({2**LARGEST:,} outcomes). Use `monte_carlo`, or samples alone."
        raise UsageError(f"n = {n}: 2^{n} outcomes cannot be listed; {fix}")
    return (torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1) & 1).to(torch.uint8)


def forward_kl(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (2) in nats; infinite where p > 0 = q."""
    return _kl(*_distributions(log_p, log_q))


def reverse_kl(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (3) in nats; infinite where q > 0 = p."""
    return _kl(*reversed(_distributions(log_p, log_q)))


def jensen_shannon(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (4) in nats: symmetric, at most log 2."""
    log_p, log_q = _distributions(log_p, log_q)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


def total_variation(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (5): symmetric, the largest difference of the probabilities of one event."""
    log_p, log_q = _distributions(log_p, log_q)
    return (log_p.exp() - log_q.exp()).abs().sum() / 2


def squared_hellinger(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (6): symmetric; H² ≤ TV ≤ H √(2 − H²)."""
    log_p, log_q = _distributions(log_p, log_q)
    return ((log_p / 2).exp() - (log_q / 2).exp()).square().sum() / 2


def chi_squared(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Eq. (7); infinite where p > 0 = q."""
    log_p, log_q = _distributions(log_p, log_q)
    near = log_p < log_q + 1  # nowhere where q = 0, which gives ∞ below
    a, b, c, d = log_p[near], log_q[near], log_p[~near], log_q[~near]
    small = (b.exp() * torch.expm1(a - b).square()).sum()  # p²/q − 2p + q would cancel here, and this overflow there
    return small + ((2 * c - d).exp() - 2 * c.exp() + d.exp()).sum()


EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (forward_kl, reverse_kl, jensen_shannon, total_variation, squared_hellinger, chi_squared)
}


def exact_mmd2(log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"], K: Float[Tensor, "m m"]) -> Float[Tensor, ""]:
    """Eq. (8)."""
    log_p, log_q = _normalised(log_p, log_q)
    difference = log_p.exp() - log_q.exp()
    return difference @ K.to(difference.dtype) @ difference


def exact_wasserstein(
    log_p: Float[Tensor, " m"], log_q: Float[Tensor, " m"], at: Float[Tensor, " m"], order: int = 1
) -> Float[Tensor, ""]:
    """W_r^r of eq. (9), r = `order`, of two distributions on the rising numbers `at`."""
    _require("order", order, "1 or 2", order in (1, 2))
    if at.shape != log_p.shape or not (at.diff() > 0).all():
        raise InputError(f"at has shape {tuple(at.shape)}; allowed: {tuple(log_p.shape)}, numbers in rising order.")
    log_p, log_q = _normalised(log_p, log_q)
    i, j, width = coupling(log_p.exp().cumsum(0), log_q.exp().cumsum(0))
    return ((at[i] - at[j]).abs() ** order * width).sum()


def coupling(P: Float[Tensor, " m"], Q: Float[Tensor, " k"]) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of [0, 1] on which both quantiles of eq. (9) are constant, (m + k,): atom i of p, atom j of q, width.

    P and Q are the cumulated probabilities of atoms in rising order. The widths carry the gradient.
    """
    u = torch.cat([P, Q]).sort().values
    width = u.diff(prepend=u.new_zeros(1))
    i, j = (torch.searchsorted(F.detach(), u.detach()).clamp(max=len(F) - 1) for F in (P, Q))  # piece k ends at u_k
    return i, j, width


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    has = log_p > -math.inf  # 0 log 0 = 0
    a, b = log_p[has], log_q[has]
    if (b == -math.inf).any():
        return a.new_tensor(math.inf)
    return (a.exp() * (a - b)).sum()


def _distributions(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Both normalised, without the outcomes that neither has: their 0/0 would be NaN."""
    log_p, log_q = _normalised(log_p, log_q)
    some = (log_p > -math.inf) | (log_q > -math.inf)
    return log_p[some], log_q[some]


def _normalised(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 and divided by their sums; InputError if these are not one."""
    if log_p.dim() != 1 or log_p.shape != log_q.shape:
        got = f"log-probabilities of shapes {tuple(log_p.shape)} and {tuple(log_q.shape)}"
        raise InputError(f"{got}; allowed: two vectors of one length, an entry for each outcome.")
    totals = [v.double().logsumexp(0) for v in (log_p, log_q)]
    for name, total in zip("pq", totals, strict=True):
        if not abs(total.exp().item() - 1) <= TOLERANCE:  # NaN too
            got = f"the probabilities of {name} sum to {total.exp().item():.6g}"
            raise InputError(f"{got}; allowed: 1 ± {TOLERANCE:g}. Give log-probabilities in nats, each outcome once.")
    return log_p.double() - totals[0], log_q.double() - totals[1]


# ---------------------------------------------------------------- Monte Carlo


def monte_carlo(log_p: Function, log_q: Function, x: Tensor, y: Tensor) -> dict[str, Estimate]:
    """Eqs. (10) and (11) from independent x ~ p, (M, n), and y ~ q, (N, n): the names of `EXACT` but chi_squared.

    A KL is infinite (and without standard error) if a sample of one is impossible under the other. Raises InputError
    if a sample is impossible under its own distribution.
    """
    at_x, at_y = log_ratio(log_p(x), log_q(x), "x"), -log_ratio(log_q(y), log_p(y), "y")
    return {"forward_kl": Estimate.of(at_x), "reverse_kl": Estimate.of(-at_y)} | {
        name: halves(g, at_x, at_y) for name, g in G.items()
    }


def log_ratio(log_own: Float[Tensor, " b"], log_other: Float[Tensor, " b"], name: str = "x") -> Float[Tensor, " b"]:
    """log own − log other at samples of `own`, (b,): ρ of eq. (10). Raises InputError if it cannot be."""
    if log_own.dim() != 1 or log_own.shape != log_other.shape or len(log_own) < 2:
        got = f"log-densities at {name} of shapes {tuple(log_own.shape)} and {tuple(log_other.shape)}"
        raise InputError(f"{got}; allowed: two vectors of one length, at least 2.")
    if not log_own.isfinite().all() or log_other.isnan().any() or (log_other == math.inf).any():
        raise InputError(f"a log-density at {name} is infinite or NaN; allowed: finite at samples of its own.")
    return log_own.double() - log_other.double()


def halves(g: Function, at_x: Float[Tensor, " M"], at_y: Float[Tensor, " N"]) -> Estimate:
    """Eq. (11): ½ E_p[g(ρ)] + ½ E_q[g(ρ)], their standard errors added in squares."""
    a, b = Estimate.of(g(at_x)), Estimate.of(g(at_y))
    return Estimate((a.mean + b.mean) / 2, math.hypot(a.standard_error, b.standard_error) / 2, a.n + b.n)


def _js_term(rho: Tensor) -> Tensor:
    s = rho.sigmoid()
    return torch.xlogy(s, 2 * s) + (1 - s) * torch.where(s < 1, logsigmoid(-rho) + math.log(2), 0.0)


G: dict[str, Function] = {  # g of eq. (11)
    "jensen_shannon": _js_term,
    "total_variation": lambda rho: torch.tanh(rho / 2).abs(),
    "squared_hellinger": lambda rho: 1 - 1 / torch.cosh(rho / 2),
}


# ---------------------------------------------------------------- samples alone


@dataclass(frozen=True)
class Compared(Estimate):
    """An estimate from two sets of samples, and the p-value of the hypothesis p = q."""

    p_value: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: mean ± 1.96 standard errors."""
        half = 1.96 * self.standard_error
        return self.mean - half, self.mean + half


def compare_samples(x: Tensor, y: Tensor, seed: int = 0) -> dict[str, Compared]:
    """Eqs. (12), (15) and (16) of samples x (M, n) and y (N, n): mmd2, sliced_w1, classifier_accuracy.

    The kernel is (14) for binary vectors, else (13). Of each set at most 2,000 rows, chosen by the seed, are looked at.
    Raises InputError for different numbers of columns, fewer than 2 rows, or values that are not finite.
    """
    x, y = _samples(x, y)
    x, y = (v[torch.randperm(len(v), generator=generator(seed, i, "rows"))[:MOST]] for i, v in enumerate((x, y)))
    return {
        "mmd2": mmd2(x, y, hamming_kernel if _binary(x) and _binary(y) else gaussian_kernel, seed),
        "sliced_w1": sliced_wasserstein(x, y, seed=seed),
        "classifier_accuracy": classifier(x, y, seed=seed),
    }


def gaussian_kernel(z: Float[Tensor, "N n"], sigma: float | None = None) -> Float[Tensor, "N N"]:
    """Eq. (13); σ: the median distance between rows that differ, unless given."""
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances.square() / (2 * (_median(distances) if sigma is None else sigma) ** 2)).exp()


def hamming_kernel(z: Float[Tensor, "N n"], ell: float | None = None) -> Float[Tensor, "N N"]:
    """Eq. (14) of 0/1 vectors (else InputError); ℓ: the median distance between rows that differ, unless given."""
    if not _binary(z):
        raise InputError("the Hamming kernel got other values than 0 and 1; binarise them, or use the Gaussian kernel.")
    only_first = z @ (1 - z).T  # (N, N): variables that are 1 in the one, 0 in the other
    distances = only_first + only_first.T
    return (-distances / (_median(distances) if ell is None else ell)).exp()


def mmd2(x: Tensor, y: Tensor, kernel: Function = gaussian_kernel, seed: int = 0, permutations: int = 199) -> Compared:
    """Eq. (12) of x (M, n) and y (N, n), in memory for (M + N)² numbers. Without standard error for M or N = 2."""
    x, y = _samples(x, y)
    M, N = len(x), len(y)
    K = kernel(torch.cat([x, y])).fill_diagonal_(0)
    in_x = _labellings(M, N, permutations, seed).double()  # (1 + permutations, M + N)
    rows = in_x @ K
    xx, xy = (rows * in_x).sum(1), (rows * (1 - in_x)).sum(1)
    yy = K.sum() - xx - 2 * xy
    values = xx / (M * (M - 1)) + yy / (N * (N - 1)) - 2 * xy / (M * N)

    variance = 0.0
    for own, cross in ((K[:M, :M], K[:M, M:]), (K[M:, M:], K[M:, :M])):  # leave out each x, then each y
        a, b = cross.shape
        left = (own.sum() - 2 * own.sum(1)) / ((a - 1) * (a - 2)) - 2 * (cross.sum() - cross.sum(1)) / ((a - 1) * b)
        variance += (a - 1) ** 2 / a * left.var().item()  # a = 2: 0/0, NaN
    return Compared(values[0].item(), math.sqrt(variance), M + N, _p_value(values, 1.0))


def sliced_wasserstein(
    x: Tensor, y: Tensor, order: int = 1, projections: int = 50, seed: int = 0, permutations: int = 199
) -> Compared:
    """SW_r^r of eq. (15), r = `order`, of x (M, n) and y (N, n), any M and N, by their quantiles.

    The standard error is that over `projections`; what the samples would give under p = q is above zero, and the
    p-value tells whether this is more.
    """
    x, y = _samples(x, y)
    _require("order", order, "1 or 2", order in (1, 2))
    _require("projections", projections, "at least 1", projections >= 1)
    (M, n), N = x.shape, len(y)
    omega = torch.randn(projections, n, generator=generator(seed, 0, "projections"), dtype=torch.float64)
    z, sort = (torch.cat([x, y]) @ torch.nn.functional.normalize(omega).T).T.sort()  # (projections, M + N)
    i, j, width = coupling(*(torch.arange(1, k + 1, dtype=torch.float64) / k for k in (M, N)))

    def powers(in_x: Bool[Tensor, " M+N"]) -> Float[Tensor, " projections"]:
        mine = in_x[sort]
        a, b = z[mine].view(-1, M), z[~mine].view(-1, N)
        return (a[:, i] - b[:, j]).abs() ** order @ width

    each = torch.stack([powers(in_x) for in_x in _labellings(M, N, permutations, seed)])
    found, scale = Estimate.of(each[0]), z.abs().max().item() ** order
    return Compared(found.mean, found.standard_error, projections, _p_value(each.mean(1), scale))


def classifier(x: Tensor, y: Tensor, seed: int = 0, hidden: int = 32, steps: int = 200) -> Compared:
    """Eq. (16): accuracy of a network of one hidden layer on the halves of x (M, n) and y (N, n) that it never saw.

    Of the larger set, as many as the smaller has. The standard error is binomial; the p-value P(Binomial(n, ½) ≥ hits).
    """
    x, y = _samples(x, y)
    each = min(len(x), len(y))
    x, y = (v[torch.randperm(len(v), generator=generator(seed, i, "halves"))[:each]] for i, v in enumerate((x, y)))
    train, test = torch.cat([x[: each // 2], y[: each // 2]]), torch.cat([x[each // 2 :], y[each // 2 :]])
    mean, spread = train.mean(0), train.std(0, correction=0)
    train, test = (((v - mean) / spread.where(spread > 0, 1.0)).float() for v in (train, test))
    is_x = [(torch.arange(len(v)) < len(v) // 2).float() for v in (train, test)]

    g, n = generator(seed, 0, "classifier"), x.shape[1]
    W, V = torch.randn(hidden, n, generator=g) / math.sqrt(n), torch.randn(hidden, generator=g) / math.sqrt(hidden)
    theta = [v.requires_grad_() for v in (W, torch.zeros(hidden), V, torch.zeros(()))]

    def logits(v: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        return torch.relu(v @ theta[0].T + theta[1]) @ theta[2] + theta[3]

    optimizer = torch.optim.AdamW(theta, lr=0.01, weight_decay=0.1, fused=True)  # the decay, against learning by heart
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(logits(train), is_x[0]).backward()
            optimizer.step()
    hits, count = int(((logits(test) > 0) == is_x[1].bool()).sum()), len(test)
    accuracy = hits / count
    return Compared(accuracy, math.sqrt(accuracy * (1 - accuracy) / count), count, binomial_tail(hits, count))


def binomial_tail(hits: int, n: int) -> float:
    """P(Binomial(n, ½) ≥ hits)."""
    k = torch.arange(hits, n + 1, dtype=torch.float64)
    log_choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return min(1.0, (log_choose.logsumexp(0) - n * math.log(2)).exp().item())


def _labellings(M: int, N: int, permutations: int, seed: int) -> Bool[Tensor, "1+permutations M+N"]:
    """Which rows of the pooled samples count as x: first as they are, then M rows at random."""
    _require("permutations", permutations, "at least 1", permutations >= 1)
    g = generator(seed, 0, "permutations")
    shuffled = torch.rand(permutations, M + N, generator=g, dtype=torch.float64).argsort(1)
    return torch.cat([torch.arange(M + N)[None], shuffled]) < M


def _p_value(values: Float[Tensor, " 1+permutations"], scale: float) -> float:
    """Share of the values, itself included, that are at least the first; what is equal but for rounding counts."""
    return (values >= values[0] - 1e-12 * scale).double().mean().item()


def _samples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 on the CPU; InputError if they cannot be compared."""
    x, y = (torch.as_tensor(v).detach().cpu().double() for v in (x, y))
    for name, v in (("x", x), ("y", y)):
        if v.dim() != 2 or len(v) < 2 or v.shape[1] < 1:
            raise InputError(f"{name} has shape {tuple(v.shape)}; allowed: (N, n), N >= 2 samples of n >= 1 columns.")
        if not v.isfinite().all():
            raise InputError(f"{name} holds infinite values or NaN; allowed: finite numbers.")
    if x.shape[1] != y.shape[1]:
        raise InputError(f"x has {x.shape[1]} columns and y {y.shape[1]}; they must have the same.")
    return x, y


def _median(distances: Float[Tensor, "N N"]) -> float:
    return distances[distances > 0].median().item() if (distances > 0).any() else 1.0


def _binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _require(name: str, value: int, allowed: str, fine: bool) -> None:
    if not fine:
        raise UsageError(f"{name} = {value} is impossible; allowed: {allowed}.")


def command(argv: list[str]) -> int:
    """`ptheta divergences [options]`: the study."""
    from ptheta.density.divergence_study import command as study

    return study(argv)
