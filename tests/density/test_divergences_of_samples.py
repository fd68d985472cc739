"""Divergences from two sets of samples: closed forms, naive loops, the null distribution of p-values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from zoo import build, double, everything, some, uniform

from ptheta.data.order import generator
from ptheta.density import divergences as d
from ptheta.engine.errors import InputError, UsageError


def random_p(m: int, seed: int, spread: float = 2.0) -> torch.Tensor:
    """Log-probabilities of m outcomes."""
    g = generator(seed, 0, "p")
    return (spread * torch.randn(m, generator=g, dtype=torch.float64)).log_softmax(0)


def drawn(log_p: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    return torch.multinomial(log_p.exp(), count, replacement=True, generator=generator(seed, 0, "drawn"))


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
    means, errors = double([r.mean for r in runs]), double([r.standard_error for r in runs])
    assert abs(means.mean() - exact) < 4 * means.std() / math.sqrt(300)
    assert exact == 0 if same else exact > 0.05
    assert (means < 0).any() if same else (means.mean() - 0.05) > 0
    assert 0.85 < errors.square().mean().sqrt() / means.std() < (1.6 if same else 1.2)


def test_kernels_of_equal_rows_and_of_other_values():
    assert torch.equal(d.gaussian_kernel(torch.ones(3, 2).double()), torch.ones(3, 3).double())
    assert torch.equal(d.hamming_kernel(torch.ones(3, 2).double()), torch.ones(3, 3).double())
    z = double([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]])
    torch.testing.assert_close(d.hamming_kernel(z)[0], (-double([0.0, 1, 3, 3]) / 2).exp())  # 1, 2, 2, 3, 3
    with pytest.raises(InputError, match="other values than 0 and 1"):
        d.hamming_kernel(z + 0.5)


# ---------------------------------------------------------------- sliced Wasserstein

numbers = st.lists(st.integers(-20, 20).map(lambda v: v / 4), min_size=2, max_size=9)


@settings(deadline=None, max_examples=60)
@given(numbers, numbers)
def test_in_one_column_it_is_the_wasserstein_distance(x, y):
    columns = double(x)[:, None], double(y)[:, None]
    found = d.sliced_wasserstein(*columns, projections=3, permutations=1)
    assert found.mean == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    a, b = np.sort(np.repeat(x, len(y))), np.sort(np.repeat(y, len(x)))  # equal sizes: the sorted ones meet
    squared = d.sliced_wasserstein(*columns, order=2, projections=3, permutations=1).mean
    assert squared == pytest.approx(np.mean((a - b) ** 2), abs=1e-12)


def test_a_shift_costs_what_it_costs():
    """All of y is x moved by c: along ω that costs |ω·c|, whose square is |c|²/n in the mean."""
    x, c = uniform(9, 5), double([1.0, -2.0, 0.5, 0.0, 3.0])
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
    p = double(p)
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
