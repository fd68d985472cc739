"""Divergences from probabilities: closed forms, Csiszár's sum by hand, enumeration, finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from zoo import build, double, everything, number, uniform

from ptheta.data.order import generator
from ptheta.density import divergences as d
from ptheta.density.divergence_study import gaussian
from ptheta.engine.errors import InputError, UsageError

SYMMETRIC = ("jensen_shannon", "total_variation", "squared_hellinger")
EVERY = pytest.mark.parametrize("name", d.EXACT)
F = {  # Csiszár's f, and lim f(t)/t as t grows
    "forward_kl": (lambda t: t * math.log(t) if t else 0.0, math.inf),
    "reverse_kl": (lambda t: -math.log(t) if t else math.inf, 0.0),
    "jensen_shannon": (
        lambda t: ((t * math.log(2 * t / (1 + t)) if t else 0.0) + math.log(2 / (1 + t))) / 2,
        math.log(2) / 2,
    ),
    "total_variation": (lambda t: abs(t - 1) / 2, 0.5),
    "squared_hellinger": (lambda t: (math.sqrt(t) - 1) ** 2 / 2, 0.5),
    "chi_squared": (lambda t: (t - 1) ** 2, math.inf),
}


def measured(name: str, p, q) -> float:
    return d.EXACT[name](double(p).log(), double(q).log()).item()


def by_hand(name: str, p, q) -> float:
    """\\sum q f(p/q), term by term, with 0 f(0/0) = 0 and 0 f(p/0) = p lim f(t)/t."""
    f, slope = F[name]
    return sum((b * f(a / b) if b else a * slope) for a, b in zip(p, q, strict=True) if a or b)


def random_p(m: int, seed: int, spread: float = 2.0) -> torch.Tensor:
    """Log-probabilities of m outcomes."""
    g = generator(seed, 0, "p")
    return (spread * torch.randn(m, generator=g, dtype=torch.float64)).log_softmax(0)


def drawn(log_p: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    return torch.multinomial(log_p.exp(), count, replacement=True, generator=generator(seed, 0, "drawn"))


weights = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)


def pair(counts) -> tuple[list[float], list[float]]:
    """Two distributions, with zeros in any place."""
    p, q = ([c[k] for c in counts] for k in (0, 1))
    p, q = (v if sum(v) else [1] * len(v) for v in (p, q))
    return [a / sum(p) for a in p], [b / sum(q) for b in q]


# ---------------------------------------------------------------- exact


@settings(deadline=None, max_examples=60)
@given(weights)
def test_each_is_the_sum_of_its_f_with_zeros_in_any_place(counts):
    p, q = pair(counts)
    for name in d.EXACT:
        want, got = by_hand(name, p, q), measured(name, p, q)
        assert got == pytest.approx(want, abs=1e-12), name
    assert measured("forward_kl", p, q) == pytest.approx(stats.entropy(p, q), abs=1e-12)
    assert measured("jensen_shannon", p, q) == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(weights)
def test_bounds_symmetry_and_zero_only_for_equals(counts):
    p, q = pair(counts)
    v = {name: measured(name, p, q) for name in d.EXACT}
    slack = 1e-12
    assert all((value < slack) == (p == q) and value > -slack for value in v.values())
    assert v["jensen_shannon"] <= math.log(2) + slack and v["total_variation"] <= 1 + slack
    assert all(measured(name, q, p) == pytest.approx(v[name], abs=slack) for name in SYMMETRIC)
    assert measured("reverse_kl", q, p) == pytest.approx(v["forward_kl"])
    assert v["total_variation"] <= math.sqrt(v["forward_kl"] / 2 + slack), "Pinsker"
    h2 = v["squared_hellinger"]
    assert h2 - slack <= v["total_variation"] <= math.sqrt(max(0, h2 * (2 - h2))) + 1e-7
    assert v["forward_kl"] <= math.log1p(v["chi_squared"]) + slack
    if len(p) > 2:  # outcomes that are not told apart tell less
        merged = [[*u[:-2], u[-2] + u[-1]] for u in (p, q)]
        assert all(measured(name, *merged) <= value + slack for name, value in v.items())


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (0.01, 0.99), (0.5, 0.5)])
def test_bernoulli(a, b):
    p, q = [1 - a, a], [1 - b, b]
    kl = lambda a, b: a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))  # noqa: E731
    want = {
        "forward_kl": kl(a, b),
        "reverse_kl": kl(b, a),
        "jensen_shannon": (kl(a, (a + b) / 2) + kl(b, (a + b) / 2)) / 2,
        "total_variation": abs(a - b),
        "squared_hellinger": 1 - math.sqrt(a * b) - math.sqrt((1 - a) * (1 - b)),
        "chi_squared": (a - b) ** 2 / (b * (1 - b)),
    }
    assert {name: measured(name, p, q) for name in d.EXACT} == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_gaussians_on_a_grid_have_their_closed_forms():
    x = torch.linspace(-14, 14, 2801, dtype=torch.float64)
    a, s, b, t = -0.7, 1.0, 0.6, 1.3
    p, q, same = gaussian(x, a, s), gaussian(x, b, t), gaussian(x, b, s)
    kl = lambda a, s, b, t: math.log(t / s) + (s**2 + (a - b) ** 2) / (2 * t**2) - 0.5  # noqa: E731
    assert d.forward_kl(p, q).item() == pytest.approx(kl(a, s, b, t), rel=1e-9)
    assert d.reverse_kl(p, q).item() == pytest.approx(kl(b, t, a, s), rel=1e-9)
    overlap = math.sqrt(2 * s * t / (s**2 + t**2)) * math.exp(-((a - b) ** 2) / 4 / (s**2 + t**2))
    assert d.squared_hellinger(p, q).item() == pytest.approx(1 - overlap, rel=1e-9)
    assert d.chi_squared(p, same).item() == pytest.approx(math.expm1((a - b) ** 2 / s**2), rel=1e-9)
    inside = 2 * stats.norm.cdf(abs(a - b) / 2 / s) - 1
    assert d.total_variation(p, same).item() == pytest.approx(inside, rel=1e-4)
    assert d.exact_wasserstein(p, same, x).item() == pytest.approx(abs(a - b), rel=1e-6)
    assert d.exact_wasserstein(p, q, x, 2).item() == pytest.approx((a - b) ** 2 + (s - t) ** 2, rel=1e-3)


def test_mmd_of_gaussians_has_its_closed_form():
    x, h = torch.linspace(-10, 10, 401, dtype=torch.float64), 0.9
    a, s, b, t = -0.7, 1.0, 0.6, 1.3

    def k(u, v):  # E k(X, Y) of independent normals with means u apart and variances that sum to v
        return h / math.sqrt(h**2 + v) * math.exp(-(u**2) / 2 / (h**2 + v))

    want = k(0, 2 * s**2) + k(0, 2 * t**2) - 2 * k(a - b, s**2 + t**2)
    K = d.gaussian_kernel(x[:, None], sigma=h)
    assert d.exact_mmd2(gaussian(x, a, s), gaussian(x, b, t), K).item() == pytest.approx(want, rel=1e-9)


def test_what_underflows_is_not_taken_for_zero():
    """exp(−800) is zero in float64, but possible; and squares of huge ratios are no NaN."""
    p, q = double([0.0, -800.0]), double([0.0, -math.inf])
    assert d.forward_kl(p, q) == math.inf and d.chi_squared(p, q) == math.inf and d.reverse_kl(p, q) == 0
    p, q = double([math.log(0.5), math.log(0.5)]), double([0.0, -900.0])
    assert d.chi_squared(p, q) == math.inf and d.forward_kl(p, q).item() == pytest.approx(450 - math.log(2))
    q = double([0.0, -600.0])
    assert d.chi_squared(p, q).item() == pytest.approx(math.exp(600) / 4)


def test_close_distributions_are_told_apart():
    """Second order: every f-divergence is f''(1)/2 χ². A formula that cancels would give noise here."""
    p, e = double([0.25] * 4), 1e-7 * double([1.0, -1.0, 2.0, -2.0])
    second = (e**2 / p).sum().item()
    assert d.chi_squared((p + e).log(), p.log()).item() == pytest.approx(second, rel=1e-6, abs=0)
    assert d.squared_hellinger((p + e).log(), p.log()).item() == pytest.approx(second / 8, rel=1e-5, abs=0)


@EVERY
def test_gradients_equal_finite_differences(name):
    theta = [random_p(6, seed, 1.0).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda a, b: d.EXACT[name](a.log_softmax(0), b.log_softmax(0)), theta)


def test_gradients_of_the_geometric_ones_equal_finite_differences():
    theta = [random_p(6, seed, 1.0).requires_grad_() for seed in (0, 1)]
    at, K = double([-2.0, -1.0, 0.5, 1.0, 3.0, 3.5]), d.gaussian_kernel(uniform(6, 2))
    for f in (
        lambda p, q: d.exact_mmd2(p, q, K),
        lambda p, q: d.exact_wasserstein(p, q, at, 1),
        lambda p, q: d.exact_wasserstein(p, q, at, 2),
    ):
        assert torch.autograd.gradcheck(lambda a, b, f=f: f(a.log_softmax(0), b.log_softmax(0)), theta)


@EVERY
def test_gradients_are_finite_beside_impossible_outcomes_and_zero_at_equals(name):
    theta = double([0.3, -0.2, 0.1, 0.0]).requires_grad_()
    gone = double([False, False, False, True]).bool()
    p = double([0.2, 0.3, 0.5, 0.0]).log()
    d.EXACT[name](p, theta.masked_fill(gone, -math.inf).log_softmax(0)).backward()
    assert theta.grad is not None and theta.grad.isfinite().all() and theta.grad[:3].abs().min() > 1e-4
    theta.grad = None
    d.EXACT[name](theta.detach().log_softmax(0), theta.log_softmax(0)).backward()
    assert theta.grad.abs().max() < 1e-12


@settings(deadline=None, max_examples=40)
@given(weights, st.sampled_from([1, 2]))
def test_wasserstein_of_weighted_atoms(counts, order):
    p, q = pair(counts)
    at = np.sort(np.asarray(uniform(len(p), 1)[:, 0]) * 10)
    got = d.exact_wasserstein(double(p).log(), double(q).log(), double(at.tolist()), order).item()
    if order == 1:
        assert got == pytest.approx(stats.wasserstein_distance(at, at, p, q), abs=1e-12)
    u = (np.arange(20_000) + 0.5) / 20_000  # quantiles at many levels
    x, y = (at[np.searchsorted(np.cumsum(v), u).clip(max=len(at) - 1)] for v in (p, q))
    assert got == pytest.approx(np.mean(np.abs(x - y) ** order), abs=0.02)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_outcomes_are_all_binary_vectors(n):
    assert torch.equal(d.outcomes(n).double(), everything(n))


def test_what_is_no_pair_of_distributions_is_refused():
    good = double([0.5, 0.5]).log()
    for f in [*d.EXACT.values(), lambda p, q: d.exact_mmd2(p, q, torch.eye(2))]:
        with pytest.raises(InputError, match=r"probabilities of q sum to 0.9; allowed: 1 ± 0.0001"):
            f(good, double([0.5, 0.4]).log())
        with pytest.raises(InputError, match="probabilities of p sum to nan"):
            f(double([math.nan, 0.0]), good)
        with pytest.raises(InputError, match="probabilities of p sum to 0;"):
            f(double([-math.inf, -math.inf]), good)
        with pytest.raises(InputError, match=r"shapes \(3,\) and \(2,\); allowed: two vectors of one length"):
            f(double([0.2, 0.3, 0.5]).log(), good)
    for f in [*d.EXACT.values(), lambda p, q: d.exact_wasserstein(p, q, double([0.0, 1.0]))]:
        assert abs(f(good + 5e-5, good - 5e-5).item()) < 1e-12, "sums that are nearly one are divided by"
    for at in (double([1.0, 0.0]), double([0.0])):
        with pytest.raises(InputError, match="rising order"):
            d.exact_wasserstein(good, good, at)
    with pytest.raises(UsageError, match="order = 3 is impossible; allowed: 1 or 2"):
        d.exact_wasserstein(good, good, double([0.0, 1.0]), 3)
    with pytest.raises(UsageError, match=r"n = 21: 2\^21 outcomes cannot be listed; allowed: n from 1 to 20"):
        d.outcomes(21)
    with pytest.raises(UsageError, match="n = 0: "):
        d.outcomes(0)


# ---------------------------------------------------------------- Monte Carlo


@pytest.mark.parametrize("name", d.G)
def test_g_is_that_of_f(name):
    """g(ρ) = 2 f(e^ρ)/(1 + e^ρ), and its limits where one density is zero."""
    f, slope = F[name]
    for rho in (-30.0, -3.0, -0.1, 0.0, 0.7, 5.0, 30.0):
        want = 2 * f(math.exp(rho)) / (1 + math.exp(rho))
        assert d.G[name](double([rho])).item() == pytest.approx(want, rel=1e-9, abs=1e-12)
    ends = d.G[name](double([-math.inf, math.inf, -1e5, 1e5]))
    torch.testing.assert_close(ends, 2 * double([f(0.0), slope] * 2))


@pytest.mark.parametrize(("kinds", "n"), [(("fvsbn", "nade"), 4), (("made 1", "made 2 x3 random"), 8)])
def test_estimates_of_models_agree_with_enumeration(kinds, n):
    p, q = (build(kind, n, seed, spread=0.3) for seed, kind in enumerate(kinds))
    log_p, log_q = (m.log_prob(d.outcomes(n)) for m in (p, q))
    found = d.monte_carlo(p.log_prob, q.log_prob, p.sample(3000, 1), q.sample(2000, 2))
    assert found.keys() == d.EXACT.keys() - {"chi_squared"}
    for name, estimate in found.items():
        exact = d.EXACT[name](log_p, log_q).item()
        assert abs(estimate.mean - exact) < 4 * estimate.standard_error, name
        assert 0 < estimate.standard_error < 0.2 * exact + 0.01, name
    assert found["forward_kl"].n == 3000 and found["reverse_kl"].n == 2000 and found["total_variation"].n == 5000


def test_standard_errors_are_those_of_many_repetitions():
    log_p, log_q = random_p(12, 0, 1.0), random_p(12, 1, 1.0)
    look = [lambda i, v=v: v[i] for v in (log_p, log_q)]
    runs = [d.monte_carlo(*look, drawn(log_p, 80, 2 * s), drawn(log_q, 50, 2 * s + 1)) for s in range(300)]
    for name in runs[0]:
        means, errors = (double([getattr(r[name], k) for r in runs]) for k in ("mean", "standard_error"))
        exact = d.EXACT[name](log_p, log_q)
        assert abs(means.mean() - exact) < 4 * means.std() / math.sqrt(300), f"{name} is biased"
        assert 0.85 < errors.square().mean().sqrt() / means.std() < 1.15, name


def test_an_impossible_sample_makes_its_kl_infinite_and_nothing_else():
    log_p, log_q = double([0.5, 0.25, 0.25]).log(), double([0.5, 0.5, 0.0]).log()
    x, y = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])
    found = d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x, y)
    assert found["forward_kl"].mean == math.inf and math.isfinite(found["reverse_kl"].mean)
    assert all(math.isfinite(found[k].mean) and found[k].standard_error > 0 for k in SYMMETRIC)
    with pytest.raises(InputError, match="a log-density at y is infinite or NaN"):
        d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x, x)
    with pytest.raises(InputError, match=r"at x of shapes \(1,\) and \(1,\); allowed: two vectors of one length"):
        d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x[:1], y)


def test_indices_of_the_outcomes_are_the_numbers_of_the_vectors():
    """What these tests rely on: row i of the outcomes is number i."""
    assert torch.equal(number(d.outcomes(5).double()), torch.arange(32))
