"""Returns against sums that are written out step by step, and against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.returns import Steps, advantages, discounted, n_step, standardised
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError


def lived(T: int, E: int, seed: int, ends: float = 0.2) -> tuple[Steps, torch.Tensor]:
    """Random steps and V(s_t), which is V(s'_{t−1}) where the episode goes on."""
    g = generator(seed, 0, "steps")
    r, v, after = (torch.randn(T, E, generator=g, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (torch.rand(T, E, generator=g) < ends for _ in range(2))
    on = ~(terminated | truncated)[:-1]
    after[:-1][on] = v[1:][on]
    return Steps(r, after, terminated, truncated), v


some = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.7]))
shares = st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0])


def by_hand(steps: Steps, gamma: float, t: int, e: int, n: int) -> float:
    """Rewards of at most n steps from t on, and what the episode would have been worth after them."""
    total, discount = 0.0, 1.0
    for k in range(n):
        total += discount * steps.rewards[t + k, e].item()
        discount *= gamma
        if steps.terminated[t + k, e]:
            return total
        if steps.truncated[t + k, e] or t + k == len(steps.rewards) - 1 or k == n - 1:
            return total + discount * steps.next_values[t + k, e].item()
    raise AssertionError("n is at least 1")


@settings(max_examples=60, deadline=None)
@given(some, shares, st.integers(1, 15))
def test_returns_are_the_sums_that_they_stand_for(shape, gamma, n):
    steps, _ = lived(*shape)
    T, E = steps.rewards.shape
    G, Gn = discounted(steps, gamma), n_step(steps, gamma, n)
    for t in range(T):
        for e in range(E):
            assert G[t, e].item() == pytest.approx(by_hand(steps, gamma, t, e, T + 1))
            assert Gn[t, e].item() == pytest.approx(by_hand(steps, gamma, t, e, n))


@settings(max_examples=60, deadline=None)
@given(some, shares, shares)
def test_advantages_are_weighted_means_over_n(shape, gamma, lam):
    """Eq. (4) against its definition: weights (1 − λ) λ^{n−1}, the rest on the last n there is before an end."""
    steps, v = lived(*shape)
    T, E = v.shape
    A = advantages(steps, v, gamma, lam)
    over = steps.terminated | steps.truncated
    for t in range(T):
        for e in range(E):
            last = next((k for k in range(t, T) if over[k, e]), T - 1) - t + 1
            weights = [(1 - lam) * lam ** (n - 1) for n in range(1, last)] + [lam ** (last - 1)]
            mean = sum(w * by_hand(steps, gamma, t, e, n) for n, w in enumerate(weights, 1))
            assert A[t, e].item() == pytest.approx(mean - v[t, e].item())


@settings(max_examples=40, deadline=None)
@given(some, shares)
def test_the_ends_of_lambda(shape, gamma):
    steps, v = lived(*shape)
    torch.testing.assert_close(advantages(steps, v, gamma, 1.0), discounted(steps, gamma) - v)
    torch.testing.assert_close(advantages(steps, v, gamma, 0.0), n_step(steps, gamma, 1) - v)


@settings(max_examples=40, deadline=None)
@given(some, shares, shares)
def test_nothing_leaks_from_one_episode_into_the_one_before_or_into_another_environment(shape, gamma, lam):
    steps, v = lived(*shape)
    T, E = v.shape
    over = steps.terminated | steps.truncated
    for t in range(T - 1):
        for e in range(E):
            if over[t, e]:
                rewards, after, values = steps.rewards.clone(), steps.next_values.clone(), v.clone()
                for x in (rewards, after, values):
                    x[t + 1 :, e] = 1e6
                changed = Steps(rewards, after, steps.terminated, steps.truncated)
                assert torch.equal(
                    advantages(changed, values, gamma, lam)[: t + 1], advantages(steps, v, gamma, lam)[: t + 1]
                )
                assert torch.equal(discounted(changed, gamma)[: t + 1], discounted(steps, gamma)[: t + 1])


def test_what_is_worth_nothing_more_is_not_read():
    """The value of a terminated episode's last observation may be NaN; both flags together mean terminated."""
    one = torch.ones(1, 1)
    for truncated in (False, True):
        steps = Steps(one, one * float("nan"), torch.tensor([[True]]), torch.tensor([[truncated]]))
        assert discounted(steps, 0.9) == 1 and n_step(steps, 0.9, 3) == 1 and advantages(steps, one, 0.9, 0.5) == 0
    steps = Steps(one, one * 10, torch.tensor([[False]]), torch.tensor([[True]]))
    assert discounted(steps, 0.9) == 10


def test_mistakes_are_refused():
    one, no = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"rewards \(2, 1\), next_values \(2,\).*allowed: one shape \(T, E\)"):
        Steps(one, one[:, 0], no, no)
    steps = Steps(one, one, no, no)
    for call, message in (
        (lambda: discounted(steps, 1.1), "gamma = 1.1 is impossible; allowed: from 0 to 1"),
        (lambda: advantages(steps, one, 0.9, -0.1), "lambda = -0.1 is impossible"),
        (lambda: advantages(steps, one[:1], 0.9, 0.9), r"values are \(1, 1\); allowed: \(2, 1\)"),
        (lambda: n_step(steps, 0.9, 0), "n = 0 is impossible; allowed: from 1 on"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_no_steps_have_no_returns():
    none, no = torch.ones(0, 3), torch.zeros(0, 3, dtype=torch.bool)
    steps = Steps(none, none, no, no)
    assert (
        discounted(steps, 0.9).shape == n_step(steps, 0.9, 2).shape == advantages(steps, none, 0.9, 0.9).shape == (0, 3)
    )


def test_standardised():
    A = torch.randn(7, 3, generator=generator(0, 0, "a"), dtype=torch.float64)
    found = standardised(A)
    assert found.mean().abs() < 1e-12 and found.std() == pytest.approx(1)
    assert standardised(torch.tensor([[3.0]])) == 0, "one step has no deviation, and no NaN"
    assert (
        not standardised(torch.full((4, 2), 0.1)).isnan().any()
        and standardised(torch.full((4, 2), 0.1)).abs().max() < 1e-6
    )
