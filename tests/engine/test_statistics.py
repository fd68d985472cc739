"""The interquartile mean, bootstrap intervals and the probability of improvement, against loops and against SciPy."""

import numpy as np
import pytest
import scipy.stats

from ptheta.engine import statistics
from ptheta.engine.errors import UsageError
from ptheta.engine.statistics import improvement, improvement_interval, interval, iqm, mean


def figures(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------- eq. (1)


@pytest.mark.parametrize("n", range(1, 24))
def test_the_interquartile_mean_is_that_of_the_middle_half_of_four_copies(n):
    x = figures(n, seed=n)
    middle = sorted(4 * x.tolist())[n : 3 * n]  # a quarter of 4n figures is a whole number of them
    assert float(iqm(x)) == pytest.approx(sum(middle) / len(middle), rel=1e-12)


@pytest.mark.parametrize("n", [4, 8, 20])
def test_where_four_divides_n_it_is_the_trimmed_mean(n):
    x = figures(n, 7)
    np.testing.assert_allclose(iqm(x), scipy.stats.trim_mean(x, 0.25, axis=0), rtol=1e-12)


def test_the_weights_of_five_and_of_one():
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, -100.0])) == pytest.approx((0.15 * 1 + 0.2 * 2 + 0.15 * 3) * 2)
    assert iqm(np.array([7.0])) == 7


def test_each_of_what_was_measured_is_taken_by_itself():
    x = figures(6, 3, 2)
    assert iqm(x).shape == (3, 2)
    assert iqm(x)[2, 1] == pytest.approx(float(iqm(x[:, 2, 1])))


# ---------------------------------------------------------------- eq. (2)


@pytest.mark.parametrize("of", [iqm, mean])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_is_that_of_scipy(of, level):
    x, drawn = figures(9, seed=3), np.random.default_rng(5)
    theirs = scipy.stats.bootstrap(
        (x,), lambda rows, axis: of(np.moveaxis(rows, axis, 0)), n_resamples=2000, confidence_level=level,
        method="percentile", random_state=drawn,
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(interval(x, of, level, 2000, seed=5), theirs, rtol=1e-12)


def test_all_resamples_of_two_runs():
    """The mean is 0, 1/2, 1/2, 1 with a quarter each."""
    x = np.array([0.0, 1.0])
    assert interval(x, mean, 0.95) == (0, 1)
    assert interval(x, mean, 0.4) == (0.5, 0.5)
    assert interval(np.array([3.0])) == (3, 3)


def test_steps_are_drawn_together_however_many_are_held_at_once(monkeypatch):
    x = figures(7, 5, 2)
    low, high = interval(x, resamples=300)
    assert low.shape == high.shape == (5, 2)
    np.testing.assert_allclose((low[4, 1], high[4, 1]), interval(x[:, 4, 1], resamples=300))
    monkeypatch.setattr(statistics, "AT_ONCE", 3 * 7 * 300)
    np.testing.assert_allclose(interval(x, resamples=300), (low, high), rtol=1e-12)


@pytest.mark.parametrize(("n", "share"), [(3, 0.75), (5, 0.90), (20, 0.95)])
def test_how_often_it_holds_the_true_value_is_as_the_docstring_says(n, share):
    low, high = interval(figures(n, 1500, seed=n), resamples=1000)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(share, abs=0.03)


# ---------------------------------------------------------------- eq. (3)


@pytest.mark.parametrize(("n", "m", "seed"), [(1, 1, 0), (1, 7, 1), (5, 5, 2), (9, 4, 3), (8, 8, 4)])
def test_the_probability_of_improvement_is_the_share_of_pairs(n, m, seed):
    g = np.random.default_rng(seed)
    x, y = g.integers(0, 5, n).astype(float), g.integers(0, 5, m).astype(float)  # some of them equal
    share = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y) / (n * m)
    assert improvement(x, y) == pytest.approx(share)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    assert improvement(x, y) == pytest.approx(scipy.stats.mannwhitneyu(x, y).statistic / (n * m))


def test_its_interval_is_that_of_a_loop():
    x, y = figures(5, seed=1) + 0.5, figures(8, seed=2)
    g = np.random.default_rng(4)
    of_x, of_y = g.integers(0, 5, (400, 5)), g.integers(0, 8, (400, 8))
    drawn = [improvement(x[i], y[j]) for i, j in zip(of_x, of_y)]
    expected = np.quantile(drawn, [0.025, 0.975])
    assert improvement_interval(x, y, resamples=400, seed=4) == pytest.approx(tuple(expected))
    assert improvement_interval(x + 9, y) == (1, 1)


# ---------------------------------------------------------------- mistakes


def test_no_runs_and_impossible_levels_are_refused():
    none, some = np.zeros(0), np.zeros(3)
    for call in (lambda: iqm(none), lambda: interval(none), lambda: improvement(some, none), lambda: mean(none)):
        with pytest.raises(UsageError, match="no runs"):
            call()
    with pytest.raises(UsageError, match="level = 95.0 is impossible; allowed: above 0 and below 1"):
        interval(some, level=95.0)
