"""Figures of collapse on features whose rank and spread are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.selfsup.collapse import alarms, rank_me, spread


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "features"), dtype=torch.float64)


def orthonormal(n: int, d: int) -> torch.Tensor:
    return torch.linalg.qr(some(n, d)).Q


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_rank_me_is_1_on_a_line_and_d_where_all_directions_are_alike(d):
    line = some(100, 1) * some(1, d, seed=1)
    assert rank_me(line) == pytest.approx(1, abs=1e-3)
    assert rank_me(torch.ones(100, d)) == pytest.approx(1, abs=1e-3)
    assert rank_me(orthonormal(100, d) * 5) == pytest.approx(d, rel=1e-4)
    assert rank_me(torch.zeros(100, d)) == 1


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.floats(0.01, 100), min_size=1, max_size=8), seed=st.integers(0, 100))
def test_rank_me_is_the_exponential_of_the_entropy_of_singular_values(values, seed):
    sigma = np.array(values)
    U = orthonormal(30, len(values)).numpy()
    V = np.linalg.qr(some(len(values), len(values), seed=seed).numpy())[0]
    p = sigma / sigma.sum()
    want = math.exp(-(p * np.log(p)).sum())
    z = torch.from_numpy(U * sigma @ V)
    assert rank_me(z) == pytest.approx(want, rel=1e-4)
    assert rank_me(z * 1e-3) == pytest.approx(rank_me(z), rel=1e-9), "whatever the scale"
    assert 1 - 1e-4 <= rank_me(z) <= len(values) * (1 + 1e-4)


def test_figures_of_features_that_are_not_finite_are_none():
    """A run whose loss has overflown is refused for that, and not for a decomposition that fails."""
    for bad in (math.nan, math.inf):
        z = some(20, 3)
        z[4, 1] = bad
        assert math.isnan(rank_me(z)) and not spread(z) > 0


@pytest.mark.parametrize("d", [2, 16, 128])
def test_spread_is_1_on_the_sphere_and_0_at_a_point(d):
    assert spread(some(20_000, d)) == pytest.approx(1, abs=0.02)
    length = some(20_000, 1).abs() + 0.1
    assert spread(some(20_000, d) * length) == pytest.approx(1, abs=0.02), "directions count alone"
    assert spread(some(1, d).expand(50, d)) == pytest.approx(0, abs=1e-12)
    assert spread(some(1, d)) == 0


def test_spread_is_equation_2():
    z = some(50, 6).numpy() + 1
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert spread(torch.from_numpy(z)) == pytest.approx(math.sqrt(6) * unit.std(0).mean())


def test_the_alarm_is_of_few_directions_and_of_a_point():
    healthy = some(100, 8)
    for z, wrong in [
        (healthy, False), (some(100, 1) * some(1, 8), True), (100 + healthy, True), (torch.ones(100, 8), True),
        (torch.ones(7, 8), False), (healthy * math.nan, True),
    ]:  # fmt: skip
        said = alarms(rank_me(z), spread(z), z)
        assert bool(said) == wrong and "\n" not in said
    said = alarms(1.234, 0.5, healthy)
    assert "RankMe 1.23 of 8" in said and "spread 0.500 of 1" in said and "--learning-rate" in said
