"""Probes: the neighbours' vote and the logistic regression against scikit-learn's."""

import math

import numpy as np
import pytest
import torch

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets.probes import (
    RIDGES,
    best_logistic_regression,
    linear_probe,
    logistic_regression,
    nearest_neighbours,
)

neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")


def task(count: int, seed: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three overlapping classes."""
    g = generator(seed, 0, "task")
    y = torch.randint(3, (count,), generator=g)
    centres = torch.randn(3, 6, generator=generator(0, 0, "centres"), dtype=torch.float64)
    return (centres[y] + torch.randn(count, 6, generator=g, dtype=torch.float64)).to(dtype), y


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("k", [1, 5, 20, 200])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_neighbours_vote_as_scikit_learns(k, temperature):
    (x, y), (asked, _) = task(200, 0), task(80, 1)
    theirs = neighbors.KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(x, y)
    assert nearest_neighbours(x, y, asked, k, temperature).tolist() == theirs.predict(asked).tolist()


def test_neighbours_do_not_depend_on_length_or_company_and_are_at_most_all():
    (x, y), (asked, _) = task(300, 0, torch.float32), task(1500, 1, torch.float32)
    want = nearest_neighbours(x, y, asked)
    scale = torch.rand(1500, 1, generator=generator(0, 0, "scale")) + 0.1
    assert torch.equal(nearest_neighbours(x, y, asked * scale), want)
    assert torch.equal(torch.cat([nearest_neighbours(x, y, part) for part in asked.split(7)]), want)
    assert torch.equal(nearest_neighbours(x, y, asked, 300), nearest_neighbours(x, y, asked, 10_000))


def test_a_cold_vote_is_that_of_the_nearest():
    """At a temperature where exp(cosine / T) is beyond float32."""
    (x, y), (asked, _) = task(300, 0, torch.float32), task(200, 1, torch.float32)
    assert torch.equal(
        nearest_neighbours(x, y, asked, 20, 1e-3), nearest_neighbours(x.double(), y, asked.double(), 20, 1e-3)
    )
    assert torch.equal(nearest_neighbours(x, y, asked, 20, 1e-7), nearest_neighbours(x, y, asked, 1))


def test_impossible_votes_are_refused():
    x, y = task(9, 0)
    for k in (0, -1):
        with pytest.raises(UsageError, match=f"k = {k} is impossible; allowed: at least 1"):
            nearest_neighbours(x, y, x, k)
    for t in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match=f"temperature = {t} is impossible; allowed: above 0"):
            nearest_neighbours(x, y, x, 1, t)


# ---------------------------------------------------------------- logistic regression


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logistic_regression_is_scikit_learns(ridge, dtype):
    """Theirs minimises C Σ loss + ‖w‖²/2, which is ours over N λ with C = 1 / (N λ)."""
    x, y = task(200, 0, dtype)
    theirs = linear_model.LogisticRegression(C=1 / (len(x) * ridge), tol=1e-8, max_iter=5000).fit(x.double(), y)
    p = torch.from_numpy(theirs.predict_proba(x.double()))
    f = logistic_regression(x, y, 3, ridge, iterations=500)
    assert f(x).dtype == dtype and not f(x).requires_grad
    torch.testing.assert_close(f(x).softmax(1).double(), p, rtol=0, atol=2e-3)


def test_the_ridge_is_the_one_that_loses_least_on_validation():
    (x, y), (v, w), (asked, _) = task(25, 0), task(200, 1), task(50, 2)
    fits = [logistic_regression(x, y, 3, ridge) for ridge in RIDGES]
    losses = [-f(v).log_softmax(1)[torch.arange(200), w].mean().item() for f in fits]
    best = losses.index(min(losses))
    assert best > 0, "otherwise the first would do"
    assert torch.equal(best_logistic_regression(x, y, (v, w), 3)(asked), fits[best](asked))


def test_the_linear_probe_standardises_by_the_training_split_alone():
    """Scales and shifts of single features, even one that is constant, change nothing."""
    (x, y), (v, w), (asked, truth) = task(150, 0), task(100, 1), task(300, 2)
    want = linear_probe(x, y, (v, w), asked)
    alone = [linear_probe(x, y, (v, w), asked[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat(alone), want[:4]) and len(want[:4].unique()) > 1
    scale, shift = torch.tensor([1e-3, 1e3, 1, 5, 1, 1]), torch.tensor([0, 9e3, -3, 1, 0, 0])
    moved = [torch.cat([part.double() * scale + shift, torch.full((len(part), 1), 4.0)], 1) for part in (x, v, asked)]
    assert torch.equal(linear_probe(moved[0], y, (moved[1], w), moved[2]), want)
    z, zv, za = ((part - x.mean(0)) / x.std(0) for part in (x, v, asked))
    fits = [linear_model.LogisticRegression(C=1 / (150 * r), tol=1e-8, max_iter=5000).fit(z, y) for r in RIDGES]
    losses = [-torch.from_numpy(f.predict_log_proba(zv))[torch.arange(100), w].mean().item() for f in fits]
    theirs = torch.from_numpy(fits[losses.index(min(losses))].predict(za))
    assert (want == theirs).double().mean() > 0.99 and (want == truth).double().mean() > 0.7


def test_the_probe_works_where_no_gradient_is_taken():
    (x, y), (v, w) = task(60, 0), task(30, 1)
    want = linear_probe(x, y, (v, w), v)
    with torch.no_grad():
        assert torch.equal(linear_probe(x, y, (v, w), v), want)
