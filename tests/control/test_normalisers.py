"""Running moments against NumPy over all that was seen, and returns against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.normalisers import CLIP, Moments, Returns
from ptheta.data.order import generator


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    st.integers(0, 999),
)
def test_moments_are_those_of_all_that_was_seen(sizes, offset, scale, seed):
    chunks = [offset + scale * some(n, 3, seed=seed + i) for i, n in enumerate(sizes)]
    moments = Moments(3)
    for chunk in chunks:
        moments.update(chunk)
    seen = torch.cat(chunks).numpy()
    assert moments.count == len(seen)
    np.testing.assert_allclose(moments.mean.numpy(), seen.mean(0), rtol=1e-12, atol=1e-12 * scale)
    error = 1e-12 * scale**2 + 1e-14 * abs(offset) * scale  # what rounding the numbers themselves does to a variance
    np.testing.assert_allclose((moments.squares / moments.count).numpy(), seen.var(0), rtol=1e-9, atol=error)


def test_a_large_offset_does_no_harm():
    """10^6 ± 10^{−2}: the textbook E[x²] − E[x]² has no right digit left."""
    x = 1e6 + 1e-2 * some(5000, 2)
    moments = Moments(2)
    for chunk in x.split(7):
        moments.update(chunk)
    np.testing.assert_allclose((moments.squares / 5000).sqrt().numpy(), x.numpy().std(0), rtol=1e-6)
    np.testing.assert_allclose(moments.mean.numpy(), x.numpy().mean(0), rtol=1e-14)
    textbook = x.square().mean(0) - x.mean(0).square()
    assert ((textbook / x.var(0) - 1).abs() > 0.01).all()


def test_the_order_and_the_cuts_do_not_matter():
    x = 3 + some(60, 4)
    one, other = Moments(4), Moments(4)
    one.update(x)
    for chunk in x.flip(0).split(11):
        other.update(chunk)
    for name in ("count", "mean", "squares"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-12)
    other.update(x[:0])  # nothing
    assert other.count == 60


def test_what_is_normalised_has_mean_0_and_deviation_1():
    x = (5 + some(4000, 3) * torch.tensor([0.1, 1, 100])).float()
    moments = Moments(3)
    moments.update(x)
    y = moments(x)
    assert y.mean(0).abs().max() < 1e-5 and (y.std(0, correction=0) - 1).abs().max() < 1e-5 and y.dtype == torch.float32
    want = (x.double() - x.double().mean(0)) / (x.double().var(0, correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(y, want.float(), rtol=1e-4, atol=1e-4)


def test_what_is_far_off_is_clipped_and_what_never_changes_is_zero():
    moments = Moments(2)
    moments.update(torch.tensor([[1.0, 7.0], [-1.0, 7.0]]))
    far = moments(torch.tensor([[25.0, 7.0], [-11.0, 8.0], [9.0, 7.0]]))
    torch.testing.assert_close(far, torch.tensor([[CLIP, 0], [-CLIP, CLIP], [9, 0]]))


def test_before_anything_was_seen_all_stays_as_it_is():
    s = torch.tensor([[-3.0, 0.25, 1e4]])
    assert torch.equal(Moments(3)(s), s)  # not clipped either
    mean, rate = Moments(3).scale()
    assert mean.tolist() == [0, 0, 0] and rate.tolist() == [1, 1, 1]


def test_moments_survive_a_state_dict():
    moments, other = Moments(2), Moments(2)
    moments.update(some(9, 2))
    other.load_state_dict(moments.state_dict())
    x = some(5, 2, seed=1)
    moments.update(x)
    other.update(x)
    assert all(torch.equal(a, b) for a, b in zip(moments.buffers(), other.buffers(), strict=True))


# ---------------------------------------------------------------- returns


def naive(rewards: np.ndarray, ended: np.ndarray, gamma: float, alive: np.ndarray | None = None) -> list[float]:
    """Every R_t, by summing each episode's rewards anew."""
    seen = []
    T, E = rewards.shape
    for e in range(E):
        begin = 0
        for t in range(T):
            if alive is None or alive[t, e]:
                seen.append(sum(gamma ** (t - k) * rewards[k, e] for k in range(begin, t + 1)))
            if ended[t, e]:
                begin = t + 1
    return seen


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 12), st.integers(1, 4), st.floats(0, 1), st.floats(0, 0.6), st.integers(0, 99), st.integers(0, 12)
)
def test_returns_are_a_naive_loops(T, E, gamma, share, seed, cut):
    rewards = some(T, E, seed=seed).float()
    ended = torch.rand(T, E, generator=generator(seed, 0, "ends")) < share
    returns = Returns(E)
    for part in (slice(0, cut), slice(cut, None)):  # R goes on from one rollout to the next
        returns.update(rewards[part], ended[part], gamma)
    want = naive(rewards.double().numpy(), ended.numpy(), gamma)
    assert returns.moments.count == T * E
    assert float(returns.moments.mean) == pytest.approx(np.mean(want), rel=1e-9, abs=1e-12)
    deviation = np.sqrt(np.var(want) + 1e-8)
    torch.testing.assert_close(returns(rewards), rewards / deviation, rtol=1e-5, atol=1e-6)


def test_a_sum_begins_anew_with_an_episode():
    returns = Returns(2)
    rewards = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    ended = torch.tensor([[False, True], [True, False], [False, False]])
    returns.update(rewards, ended, 0.5)
    # environment 0: 1, 1.5 | 1;   environment 1: 2 | 2, 3
    assert float(returns.moments.mean) == pytest.approx((1 + 1.5 + 1 + 2 + 2 + 3) / 6)
    assert returns.R.tolist() == [1, 3]


def test_steps_that_were_not_lived_are_not_seen():
    """Of whole episodes of unequal lengths, the rewards after an end are no rewards of 0."""
    rewards = torch.tensor([[1.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    alive = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    ended = torch.tensor([[False, True], [False, False], [False, False], [True, False]]) | ~alive
    returns = Returns(2)
    returns.update(rewards, ended, 0.9, alive)
    want = naive(rewards.double().numpy(), ended.numpy(), 0.9, alive.numpy())
    assert returns.moments.count == 5 == len(want)
    assert float(returns.moments.mean) == pytest.approx(np.mean(want))
    assert float(returns.moments.squares) == pytest.approx(np.var(want) * 5)


def test_the_mean_of_rewards_stays():
    """All rewards of one sign keep it: which policy is best does not change."""
    returns = Returns(1)
    rewards = 5 + some(50, 1).float().abs()
    returns.update(rewards, torch.zeros(50, 1, dtype=torch.bool), 0.9)
    y = returns(rewards)
    assert (y > 0).all() and torch.equal(y.argsort(0), rewards.argsort(0))
    torch.testing.assert_close(y / rewards, (y / rewards)[:1].expand(50, 1))
