"""Divergences: closed forms, Csiszár's sum by hand, enumeration, naive loops; and what each of them teaches a model."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats
from scipy.spatial.distance import jensenshannon
from zoo import build, everything, number, some, uniform

from ptheta.data.order import generator
from ptheta.density import divergence_study as module
from ptheta.density import divergences as d
from ptheta.density.divergence_study import SYMBOLS, command, divergences, gaussian, picture, study
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


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measured(name: str, p, q) -> float:
    return d.EXACT[name](tensor(p).log(), tensor(q).log()).item()


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
    p, q = tensor([0.0, -800.0]), tensor([0.0, -math.inf])
    assert d.forward_kl(p, q) == math.inf and d.chi_squared(p, q) == math.inf and d.reverse_kl(p, q) == 0
    p, q = tensor([math.log(0.5), math.log(0.5)]), tensor([0.0, -900.0])
    assert d.chi_squared(p, q) == math.inf and d.forward_kl(p, q).item() == pytest.approx(450 - math.log(2))
    q = tensor([0.0, -600.0])
    assert d.chi_squared(p, q).item() == pytest.approx(math.exp(600) / 4)


def test_close_distributions_are_told_apart():
    """Second order: every f-divergence is f''(1)/2 χ². A formula that cancels would give noise here."""
    p, e = tensor([0.25] * 4), 1e-7 * tensor([1.0, -1.0, 2.0, -2.0])
    second = (e**2 / p).sum().item()
    assert d.chi_squared((p + e).log(), p.log()).item() == pytest.approx(second, rel=1e-6, abs=0)
    assert d.squared_hellinger((p + e).log(), p.log()).item() == pytest.approx(second / 8, rel=1e-5, abs=0)


@EVERY
def test_gradients_equal_finite_differences(name):
    theta = [random_p(6, seed, 1.0).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda a, b: d.EXACT[name](a.log_softmax(0), b.log_softmax(0)), theta)


def test_gradients_of_the_geometric_ones_equal_finite_differences():
    theta = [random_p(6, seed, 1.0).requires_grad_() for seed in (0, 1)]
    at, K = tensor([-2.0, -1.0, 0.5, 1.0, 3.0, 3.5]), d.gaussian_kernel(uniform(6, 2))
    for f in (
        lambda p, q: d.exact_mmd2(p, q, K),
        lambda p, q: d.exact_wasserstein(p, q, at, 1),
        lambda p, q: d.exact_wasserstein(p, q, at, 2),
    ):
        assert torch.autograd.gradcheck(lambda a, b, f=f: f(a.log_softmax(0), b.log_softmax(0)), theta)


@EVERY
def test_gradients_are_finite_beside_impossible_outcomes_and_zero_at_equals(name):
    theta = tensor([0.3, -0.2, 0.1, 0.0]).requires_grad_()
    gone = tensor([False, False, False, True]).bool()
    p = tensor([0.2, 0.3, 0.5, 0.0]).log()
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
    got = d.exact_wasserstein(tensor(p).log(), tensor(q).log(), tensor(at.tolist()), order).item()
    if order == 1:
        assert got == pytest.approx(stats.wasserstein_distance(at, at, p, q), abs=1e-12)
    u = (np.arange(20_000) + 0.5) / 20_000  # quantiles at many levels
    x, y = (at[np.searchsorted(np.cumsum(v), u).clip(max=len(at) - 1)] for v in (p, q))
    assert got == pytest.approx(np.mean(np.abs(x - y) ** order), abs=0.02)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_outcomes_are_all_binary_vectors(n):
    assert torch.equal(d.outcomes(n).double(), everything(n))


def test_what_is_no_pair_of_distributions_is_refused():
    good = tensor([0.5, 0.5]).log()
    for f in [*d.EXACT.values(), lambda p, q: d.exact_mmd2(p, q, torch.eye(2))]:
        with pytest.raises(InputError, match=r"probabilities of q sum to 0.9; allowed: 1 ± 0.0001"):
            f(good, tensor([0.5, 0.4]).log())
        with pytest.raises(InputError, match="probabilities of p sum to nan"):
            f(tensor([math.nan, 0.0]), good)
        with pytest.raises(InputError, match="probabilities of p sum to 0;"):
            f(tensor([-math.inf, -math.inf]), good)
        with pytest.raises(InputError, match=r"shapes \(3,\) and \(2,\); allowed: two vectors of one length"):
            f(tensor([0.2, 0.3, 0.5]).log(), good)
    for f in [*d.EXACT.values(), lambda p, q: d.exact_wasserstein(p, q, tensor([0.0, 1.0]))]:
        assert abs(f(good + 5e-5, good - 5e-5).item()) < 1e-12, "sums that are nearly one are divided by"
    for at in (tensor([1.0, 0.0]), tensor([0.0])):
        with pytest.raises(InputError, match="rising order"):
            d.exact_wasserstein(good, good, at)
    with pytest.raises(UsageError, match="order = 3 is impossible; allowed: 1 or 2"):
        d.exact_wasserstein(good, good, tensor([0.0, 1.0]), 3)
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
        assert d.G[name](tensor([rho])).item() == pytest.approx(want, rel=1e-9, abs=1e-12)
    ends = d.G[name](tensor([-math.inf, math.inf, -1e5, 1e5]))
    torch.testing.assert_close(ends, 2 * tensor([f(0.0), slope] * 2))


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
        means, errors = (tensor([getattr(r[name], k) for r in runs]) for k in ("mean", "standard_error"))
        exact = d.EXACT[name](log_p, log_q)
        assert abs(means.mean() - exact) < 4 * means.std() / math.sqrt(300), f"{name} is biased"
        assert 0.85 < errors.square().mean().sqrt() / means.std() < 1.15, name


def test_an_impossible_sample_makes_its_kl_infinite_and_nothing_else():
    log_p, log_q = tensor([0.5, 0.25, 0.25]).log(), tensor([0.5, 0.5, 0.0]).log()
    x, y = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])
    found = d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x, y)
    assert found["forward_kl"].mean == math.inf and math.isfinite(found["reverse_kl"].mean)
    assert all(math.isfinite(found[k].mean) and found[k].standard_error > 0 for k in SYMMETRIC)
    with pytest.raises(InputError, match="a log-density at y is infinite or NaN"):
        d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x, x)
    with pytest.raises(InputError, match=r"at x of shapes \(1,\) and \(1,\); allowed: two vectors of one length"):
        d.monte_carlo(lambda i: log_p[i], lambda i: log_q[i], x[:1], y)


# ---------------------------------------------------------------- MMD


def naive_mmd2(x, y, k) -> float:
    def mean(a, b, same):
        terms = [k(u, v).item() for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)]
        return sum(terms) / len(terms)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize(("M", "N"), [(2, 2), (3, 5), (7, 4)])
def test_mmd_is_its_double_sum_and_its_error_the_jackknifes(M, N):
    x, y = some(M, 5), some(N, 5, seed=1)
    z = torch.cat([x, y])
    hamming = lambda v: d.hamming_kernel(v, ell=3.0)  # noqa: E731
    found = d.mmd2(x, y, hamming, permutations=1)
    k = lambda a, b: (-(a != b).double().sum() / 3.0).exp()  # noqa: E731
    assert found.mean == pytest.approx(naive_mmd2(x, y, k), abs=1e-12) and found.n == M + N
    sigma = torch.pdist(z)[torch.pdist(z) > 0].median()
    both = torch.cat([torch.pdist(z), torch.pdist(z)])  # the kernel sees each pair twice
    assert both[both > 0].median() == sigma
    gaussian_k = lambda a, b: (-((a - b) ** 2).sum() / (2 * sigma**2)).exp()  # noqa: E731
    assert d.mmd2(x, y, permutations=1).mean == pytest.approx(naive_mmd2(x, y, gaussian_k), abs=1e-12)
    if M < 3:
        assert math.isnan(found.standard_error)
        return
    variance = 0.0
    for whole, other in ((x, y), (y, x)):
        left = [naive_mmd2(whole[torch.arange(len(whole)) != i], other, k) for i in range(len(whole))]
        variance += (len(whole) - 1) * np.var(left)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("same", [True, False])
def test_mmd_is_unbiased_and_its_error_about_right(same):
    """Against eq. (8) over all 2^4 outcomes: in the mean equal, although single values are negative under p = q."""
    log_p = random_p(16, 0)
    log_q = log_p if same else random_p(16, 1)
    kernel = lambda z: d.hamming_kernel(z, ell=4.0)  # noqa: E731
    exact = d.exact_mmd2(log_p, log_q, kernel(everything(4))).item()
    runs = [
        d.mmd2(everything(4)[drawn(log_p, 25, 2 * s)], everything(4)[drawn(log_q, 20, 2 * s + 1)], kernel, 0, 1)
        for s in range(300)
    ]
    means, errors = tensor([r.mean for r in runs]), tensor([r.standard_error for r in runs])
    assert abs(means.mean() - exact) < 4 * means.std() / math.sqrt(300)
    assert exact == 0 if same else exact > 0.05
    assert (means < 0).any() if same else (means.mean() - 0.05) > 0
    assert 0.85 < errors.square().mean().sqrt() / means.std() < (1.6 if same else 1.2)


def test_kernels_of_equal_rows_and_of_other_values():
    assert torch.equal(d.gaussian_kernel(torch.ones(3, 2).double()), torch.ones(3, 3).double())
    assert torch.equal(d.hamming_kernel(torch.ones(3, 2).double()), torch.ones(3, 3).double())
    z = tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]])
    torch.testing.assert_close(d.hamming_kernel(z)[0], (-tensor([0.0, 1, 3, 3]) / 2).exp())  # 1, 2, 2, 3, 3
    with pytest.raises(InputError, match="other values than 0 and 1"):
        d.hamming_kernel(z + 0.5)


# ---------------------------------------------------------------- sliced Wasserstein

numbers = st.lists(st.integers(-20, 20).map(lambda v: v / 4), min_size=2, max_size=9)


@settings(deadline=None, max_examples=60)
@given(numbers, numbers)
def test_in_one_column_it_is_the_wasserstein_distance(x, y):
    columns = tensor(x)[:, None], tensor(y)[:, None]
    found = d.sliced_wasserstein(*columns, projections=3, permutations=1)
    assert found.mean == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    a, b = np.sort(np.repeat(x, len(y))), np.sort(np.repeat(y, len(x)))  # equal sizes: the sorted ones meet
    squared = d.sliced_wasserstein(*columns, order=2, projections=3, permutations=1).mean
    assert squared == pytest.approx(np.mean((a - b) ** 2), abs=1e-12)


def test_a_shift_costs_what_it_costs():
    """All of y is x moved by c: along ω that costs |ω·c|, whose square is |c|²/n in the mean."""
    x, c = uniform(9, 5), tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    found = d.sliced_wasserstein(x, x + c, order=2, projections=800, permutations=1)
    assert abs(found.mean - (c @ c).item() / 5) < 4 * found.standard_error < 0.8 and found.n == 800
    first = d.sliced_wasserstein(x, x + c, projections=800, permutations=1)
    ratio = math.gamma(2.5) / (math.sqrt(math.pi) * math.gamma(3))  # E|ω_1| on the sphere in five dimensions
    assert abs(first.mean - ratio * math.sqrt((c @ c).item())) < 4 * first.standard_error < 0.4
    other = d.sliced_wasserstein(x, x + c, projections=800, seed=1, permutations=1)
    assert other.mean != first.mean and abs(other.mean - first.mean) < 6 * first.standard_error


# ---------------------------------------------------------------- the classifier, p-values


def test_binomial_tail():
    for n in (1, 7, 400):
        for hits in {0, 1, n // 2, n}:
            assert d.binomial_tail(hits, n) == pytest.approx(stats.binom.sf(hits - 1, n, 0.5), rel=1e-9, abs=0)


def test_the_classifier_learns_what_no_single_variable_shows():
    """x: two equal bits and noise; y: independent bits. TV = ½, so that the best accuracy is ¾."""
    x, y = some(1200, 4), some(1200, 4, seed=1)
    x[:, 1] = x[:, 0]
    found = d.classifier(x, y)
    assert found.n == 1200 and abs(found.mean - 0.75) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(math.sqrt(found.mean * (1 - found.mean) / 1200))
    assert found.p_value == pytest.approx(stats.binom.sf(round(found.mean * 1200) - 1, 1200, 0.5), rel=1e-6, abs=0)


def test_a_larger_set_gives_the_classifier_no_head_start():
    found = d.classifier(some(2000, 6), some(61, 6, seed=1))
    assert found.n == 62 and abs(found.mean - 0.5) < 4 * 0.5 / math.sqrt(62)


@pytest.mark.parametrize("test", ["mmd2", "sliced_wasserstein", "classifier"])
def test_p_values_are_uniform_under_the_null_and_small_otherwise(test):
    log_p = random_p(32, 0, 1.0)
    more = {"steps": 10} if test == "classifier" else {"permutations": 39}
    more |= {"projections": 5} if test == "sliced_wasserstein" else {}
    few, runs = 30, 60
    p = []
    for s in range(runs):
        x, y = (everything(5)[drawn(log_p, few + 9 * k, 2 * s + k)] for k in (0, 1))
        p.append(getattr(d, test)(x, y, seed=s, **more).p_value)
    p = tensor(p)
    assert p.min() > 0 and p.max() <= 1
    assert (p <= 0.1).sum() <= stats.binom.ppf(1 - 1e-4, runs, 0.1) and (p <= 0.5).sum() <= 45
    assert p.median() < 0.8 and (p <= 0.3).sum() >= stats.binom.ppf(1e-4, runs, 0.2)
    far = getattr(d, test)(some(60, 5), torch.ones(60, 5), **more)
    assert far.p_value <= 1 / 40 + 1e-12
    if test != "classifier":
        one = torch.ones(8, 3) / 3
        assert getattr(d, test)(one, one[:5], **more).p_value == 1, "nothing to tell apart"


@pytest.mark.parametrize("test", ["mmd2", "sliced_wasserstein"])
def test_labellings_that_are_equal_but_for_rounding_count(test):
    """Four samples can be split in three ways, each of which is drawn a third of the time, under either naming."""
    seen = set()
    for seed in range(20):
        z = uniform(4, 3, seed)
        splits = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]]
        own, *others = (getattr(d, test)(z[i[:2]], z[i[2:]]).mean for i in splits)
        p = getattr(d, test)(z[:2], z[2:], seed=0).p_value
        above = 1 + sum(v > own for v in others)
        assert p == 1 if above == 3 else abs(p - above / 3) < 4 * math.sqrt(2 / 9 / 200)
        seen.add(above)
    assert seen == {1, 2, 3}


# ---------------------------------------------------------------- all three


def test_samples_of_a_model_are_told_from_others_by_all_three():
    x, same = (build("fvsbn", 6).sample(300, seed) for seed in (0, 1))
    other = build("fvsbn", 6, 1).sample(300)
    before = torch.get_rng_state()
    null, found = d.compare_samples(x, same), d.compare_samples(x, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found) == list(null) == ["mmd2", "sliced_w1", "classifier_accuracy"]
    for name in found:
        low, high = found[name].interval
        assert found[name].p_value < 0.01 < null[name].p_value and low < found[name].mean < high
        assert high - low == pytest.approx(2 * 1.96 * found[name].standard_error)
        assert found[name].mean > null[name].interval[1]
    again = d.compare_samples(x.to(torch.uint8), other.numpy())
    for name in found:
        assert again[name].mean == pytest.approx(found[name].mean, rel=1e-6), "other dtypes, the same values"
    tv = d.total_variation(*(build("fvsbn", 6, s).log_prob(everything(6)) for s in (0, 1))).item()
    accuracy = found["classifier_accuracy"]
    assert 2 * accuracy.interval[0] - 1 < tv


def test_the_kernel_fits_the_values_and_no_more_rows_are_looked_at_than_allowed(monkeypatch):
    x, y = some(60, 3), some(50, 3, seed=1)
    assert d.compare_samples(x, y)["mmd2"].mean == pytest.approx(d.mmd2(x, y, d.hamming_kernel).mean)
    assert d.mmd2(x, y).mean != pytest.approx(d.mmd2(x, y, d.hamming_kernel).mean)
    real = d.compare_samples(x + uniform(60, 3), y)["mmd2"]
    assert real.mean == pytest.approx(d.mmd2(x + uniform(60, 3), y, d.gaussian_kernel).mean)
    monkeypatch.setattr(d, "MOST", 20)
    found = d.compare_samples(x, y)
    assert found["mmd2"].n == 40 and found["classifier_accuracy"].n == 20
    assert d.compare_samples(x, y, seed=1)["mmd2"].mean != found["mmd2"].mean, "other rows"


@pytest.mark.parametrize("f", [d.compare_samples, d.mmd2, d.sliced_wasserstein, d.classifier])
def test_samples_that_cannot_be_compared_are_refused(f):
    x = some(5, 3)
    for y, message in (
        (some(5, 4), "x has 3 columns and y 4; they must have the same"),
        (x[:1], r"y has shape \(1, 3\); allowed: \(N, n\), N >= 2"),
        (x[0], r"y has shape \(3,\)"),
        (x[:, :0], r"y has shape \(5, 0\)"),
        (x / 0, "y holds infinite values or NaN"),
    ):
        with pytest.raises(InputError, match=message):
            f(x, y)


def test_impossible_numbers_are_refused():
    x = some(5, 3)
    with pytest.raises(UsageError, match="permutations = 0 is impossible; allowed: at least 1"):
        d.mmd2(x, x, permutations=0)
    with pytest.raises(UsageError, match="projections = 0 is impossible"):
        d.sliced_wasserstein(x, x, projections=0)
    with pytest.raises(UsageError, match="order = 0 is impossible"):
        d.sliced_wasserstein(x, x, order=0)


# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def fits():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield study(0)
    torch.set_num_threads(before)


@pytest.fixture
def found(fits):
    return {f.minimised: f for f in fits}


def test_what_was_minimised_is_least_where_it_was_minimised(fits):
    assert [f.minimised for f in fits] == list(SYMBOLS) and all(list(f.values) == list(SYMBOLS) for f in fits)
    for own in fits:
        least = min(f.values[own.minimised] for f in fits)
        assert own.values[own.minimised] <= least * (1 + 1e-3), own.minimised
    assert all(math.isfinite(v) for f in fits for v in f.values.values())


def test_no_gaussian_at_all_is_nearer(found):
    """A search over all means and widths, coarse, ends no lower than the descents did."""
    x = module.grid()
    log_p = module.data(x)
    every = module.measures(x, log_p)
    models = [gaussian(x, m, s) for m in np.linspace(-4, 4, 17) for s in np.geomspace(0.4, 5, 12)]
    for name in SYMBOLS:
        assert min(every[name](log_p, q).item() for q in models) >= found[name].values[name] * (1 - 1e-3), name


def test_the_fits_are_those_that_theory_gives(found):
    x = module.grid()
    p, q = module.data(x).exp(), gaussian(x, found["forward_kl"].mean, found["forward_kl"].width).exp()
    for power in (1, 2):  # maximum likelihood in an exponential family matches moments
        assert (q * x**power).sum().item() == pytest.approx((p * x**power).sum().item(), abs=0.01)
    one = found["reverse_kl"]
    assert one.values["reverse_kl"] == pytest.approx(-math.log(0.6), abs=1e-3)
    assert (one.mean, one.width) == pytest.approx((-2.5, 0.5), abs=0.01)
    assert found["squared_hellinger"].values["squared_hellinger"] == pytest.approx(1 - math.sqrt(0.6), abs=1e-3)
    two = stats.norm.cdf(2) - stats.norm.cdf(-2)
    assert one.covered == pytest.approx((two, 0), abs=0.02)
    assert all(min(found[k].covered) > 0.9 for k in ("forward_kl", "chi_squared", "mmd2", "w1", "w2_squared"))


def test_the_kernel_is_as_wide_as_the_median_distance_of_two_draws():
    x = tensor([0.0, 1.0, 3.0])
    p, q = tensor([0.5, 0.25, 0.25]), tensor([1.0, 0.0, 0.0])
    # distances 0: .375, 1: .25, 2: .125, 3: .25; the median is 1
    K = (-((x[:, None] - x) ** 2) / 2).exp()
    got = module.measures(x, p.log())["mmd2"](p.log(), q.log())
    torch.testing.assert_close(got, (p - q) @ K @ (p - q))


def test_other_starts_lead_to_the_same_place(found):
    """Where there is one basin, wherever they are; the random ones are the seed's."""
    x = module.grid()
    log_p = module.data(x)
    first, again, other = (module.starts(x, log_p, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first[:3], other[:3]) and (first[3:] != other[3:]).all()
    for theta in (*first[3:6], *other[3:6]):
        loss, at = module.descend(lambda t: d.squared_hellinger(log_p, gaussian(x, t[0], t[1].exp())), theta)
        assert loss >= found["squared_hellinger"].values["squared_hellinger"] - 1e-6
        loss, at = module.descend(lambda t: d.exact_wasserstein(log_p, gaussian(x, t[0], t[1].exp()), x), theta)
        assert (at[0].item(), at[1].exp().item()) == pytest.approx((found["w1"].mean, found["w1"].width), abs=0.05)


def test_the_picture_shows_every_fit_from_narrow_to_wide(fits):
    figure = picture(fits)
    x = module.grid()
    step = (x[1] - x[0]).item()
    assert len(figure.axes) == len(fits) == 9
    for axes, fit in zip(figure.axes, sorted(fits, key=lambda f: f.width), strict=True):
        data, model = axes.lines[:2]
        np.testing.assert_allclose(data.get_ydata(), module.data(x).exp() / step)
        np.testing.assert_allclose(model.get_ydata(), gaussian(x, fit.mean, fit.width).exp() / step)
        assert axes.get_title("left").endswith(SYMBOLS[fit.minimised])
        r, _, b = to_rgb(model.get_color())
        assert (r > b) == (min(fit.covered) < 0.5), "red where a mode is missed"
        shares = [t.get_text() for t in axes.texts[1:]]
        assert shares == [f"{c:.0%}" for c in fit.covered]


@pytest.fixture
def known(fits, monkeypatch, tmp_path):
    """The command without its computation, in an empty folder."""
    monkeypatch.setattr(module, "study", lambda seed: fits)
    monkeypatch.chdir(tmp_path)
    return fits


def test_the_command_prints_the_matrix_and_draws(known, tmp_path, capsys):
    assert command(["--out", "new/fits.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "new/fits.png" and Image.open(tmp_path / "new/fits.png").size == (1365, 1066)
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in SYMBOLS.values()][-9:]
    for i, (row, fit) in enumerate(zip(rows, known, strict=True)):
        assert row[0] == SYMBOLS[fit.minimised] and [float(v) for v in row[1:3]] == pytest.approx(
            [fit.mean, fit.width], abs=0.01
        )
        cells = row[-9:]
        assert [float(v.rstrip("*")) for v in cells] == pytest.approx(list(fit.values.values()), rel=6e-3)
        assert cells[i].endswith("*")
    assert command(["--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["picture"] == "divergences.png" and (tmp_path / "divergences.png").exists()
    assert printed["data"]["weights"] == [0.6, 0.4] and printed["seed"] == 0
    assert [f["minimised"] for f in printed["fits"]] == list(SYMBOLS)
    assert printed["fits"][1]["values"] == known[1].values


def test_no_file_is_overwritten(known, tmp_path):
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "divergences.png").write_text("mine")
    for out, message in (
        ("mine.png", "mine.png exists; name another --out"),
        ("mine.jpg", "--out mine.jpg is no picture's name; allowed: a name that ends in .png"),
        ("mine.png/new.png", "mine.png is no folder; name another --out"),
    ):
        with pytest.raises(UsageError, match=message):
            divergences(module.Path(out))
    divergences()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["divergences-2.png", "divergences.png", "mine.png"]
    assert (tmp_path / "mine.png").read_text() == (tmp_path / "divergences.png").read_text() == "mine"


def test_indices_of_the_outcomes_are_the_numbers_of_the_vectors():
    """What these tests rely on: row i of the outcomes is number i."""
    assert torch.equal(number(d.outcomes(5).double()), torch.arange(32))


def test_a_start_from_which_the_search_runs_off_counts_for_nothing():
    from ptheta.density.divergence_study import descend

    def loss(theta):
        if theta[0] > 1:
            raise InputError("the probabilities of q sum to nan")
        return -theta.sum()

    value, theta = descend(loss, torch.zeros(2, dtype=torch.float64))
    assert value == math.inf and theta.shape == (2,)
