"""The grid world against the book's table and sums over paths; the policy gradient theorem against the gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.gridworld import (
    ACTIONS,
    GridWorld,
    book,
    by_solve,
    by_theorem,
    differential,
    exact,
    greedy,
    policy_iteration,
    softmax,
    stationary,
    value_iteration,
)
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError

BOOK = """
5.8  5.6  6.2  6.5 5.8
6.5  7.2  8.0  7.2 6.5
7.2  8.0 10.0  8.0 7.2
8.0 10.0 10.0 10.0 8.0
7.2  9.0 10.0  9.0 8.1
"""  # values of the best policy, Zhao, figure 3.4 (a)


def some_theta(world: GridWorld, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    shape = (world.states, len(ACTIONS))
    return scale * torch.randn(shape, generator=generator(seed, 0, "theta"), dtype=torch.float64)


@st.composite
def worlds(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    target = draw(st.sampled_from(cells))
    forbidden = draw(st.sets(st.sampled_from([c for c in cells if c != target]), max_size=3))
    return GridWorld(rows, columns, target, tuple(sorted(forbidden)), draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])))


seeds = st.integers(0, 10_000)


# ---------------------------------------------------------------- the world


def test_the_best_values_are_the_books():
    v, q = value_iteration(book())
    want = torch.tensor([[float(x) for x in line.split()] for line in BOOK.strip().splitlines()], dtype=torch.float64)
    assert (v.view(5, 5) - want).abs().max() <= 0.05 + 1e-9
    target = 3 * 5 + 2
    assert ACTIONS[int(greedy(q)[target].argmax())] == "stay"


def test_steps_by_hand():
    world = book()
    assert world.step(0, ACTIONS.index("up")) == (0, -1) and world.step(0, ACTIONS.index("right")) == (1, 0)
    assert world.step(5, ACTIONS.index("right")) == (6, -1), "a forbidden cell is entered, and costs"
    assert world.step(6, ACTIONS.index("stay")) == (6, -1)
    assert world.step(22, ACTIONS.index("up")) == (17, 1) and world.step(17, ACTIONS.index("stay")) == (17, 1)
    assert world.step(17, ACTIONS.index("down")) == (22, 0), "the target is a cell like others"


@settings(max_examples=30, deadline=None)
@given(worlds())
def test_the_matrices_are_the_steps(world):
    P, r = world.matrices()
    assert torch.equal(P.sum(2), torch.ones(world.states, 5, dtype=P.dtype))
    for s in range(world.states):
        for a in range(5):
            after, reward = world.step(s, a)
            assert P[s, a, after] == 1 and r[s, a] == reward


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rows": 0, "columns": 3, "target": (0, 0)}, "a grid of 0 x 3 is impossible; allowed: sides from 1"),
        (
            {"rows": 2, "columns": 2, "target": (2, 0)},
            r"cell \(2, 0\) is outside of 2 x 2; allowed: \(0, 0\) to \(1, 1",
        ),
        ({"rows": 2, "columns": 2, "target": (0, 0), "forbidden": ((0, -1),)}, r"cell \(0, -1\) is outside"),
        ({"rows": 2, "columns": 2, "target": (0, 0), "forbidden": ((0, 0),)}, "is forbidden too"),
        ({"rows": 2, "columns": 2, "target": (0, 0), "gamma": 1.0}, "gamma = 1.0 is impossible; allowed: from 0 to be"),
    ],
)
def test_impossible_worlds_are_refused(settings_, message):
    with pytest.raises(UsageError, match=message):
        GridWorld(**settings_)


# ---------------------------------------------------------------- values


@settings(max_examples=30, deadline=None)
@given(worlds(), seeds)
def test_values_are_sums_over_steps(world, seed):
    """Eq. (2): Σ_t γ^t P_π^t r_π, and Bellman's equation."""
    pi = softmax(some_theta(world, seed))
    found = exact(world, pi)
    total, reward, discount = torch.zeros_like(found.v), found.r, 1.0
    while discount > 1e-13:
        total, reward, discount = total + discount * reward, found.P @ reward, discount * world.gamma
    torch.testing.assert_close(found.v, total, atol=1e-9, rtol=0)
    torch.testing.assert_close((pi * found.q).sum(1), found.v)


@settings(max_examples=30, deadline=None)
@given(worlds(), seeds)
def test_the_mean_reward_is_a_share_of_the_mean_value(world, seed):
    """Eqs. (3) and (4), Lemma 9.1 of the book; d_π is where many steps lead from anywhere."""
    found = exact(world, softmax(some_theta(world, seed)))
    torch.testing.assert_close(found.mean_reward, (1 - world.gamma) * found.mean_value)
    torch.testing.assert_close(found.d @ found.P, found.d)
    assert (found.d >= -1e-12).all() and found.d.sum() == pytest.approx(1)
    far = torch.linalg.matrix_power(found.P, 1 << 14)
    torch.testing.assert_close(far, found.d.expand_as(far), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.rho.sum() * (1 - world.gamma), torch.tensor(1.0, dtype=torch.float64))


def test_a_policy_that_ends_where_it_starts_has_no_single_distribution():
    world = book()
    stay = torch.zeros(25, 5, dtype=torch.float64)
    stay[:, -1] = 1
    with pytest.raises(UsageError, match="several stationary distributions"):
        exact(world, stay)
    torch.testing.assert_close(
        stationary(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()), torch.tensor([0.5, 0.5]).double()
    )


# ---------------------------------------------------------------- the theorem


@settings(max_examples=25, deadline=None)
@given(worlds(), seeds)
def test_the_policy_gradient_theorem(world, seed):
    """Eq. (5), Theorem 9.2, for first states drawn alike and for a distribution of its own."""
    theta = some_theta(world, seed)
    drawn = torch.rand(world.states, generator=generator(seed, 0, "first"), dtype=torch.float64) + 0.01
    for first in (None, drawn / drawn.sum()):
        found = exact(world, softmax(theta), first)
        left = by_solve(theta, lambda t, first=first: exact(world, softmax(t), first).first_value)
        torch.testing.assert_close(by_theorem(theta, softmax, found.rho, found.q), left)


@settings(max_examples=25, deadline=None)
@given(worlds(), seeds)
def test_the_theorem_without_discount(world, seed):
    """Eq. (6), Theorem 9.5, with the differential values, of which Bellman's equation is checked too."""
    theta = some_theta(world, seed)
    pi = softmax(theta)
    v, q, mean = differential(world, pi)
    found = exact(world, pi)
    torch.testing.assert_close(mean, found.mean_reward)
    torch.testing.assert_close(found.r - mean + found.P @ v, v)
    assert (found.d @ v).abs() < 1e-9
    left = by_solve(theta, lambda t: exact(world, softmax(t)).mean_reward)
    torch.testing.assert_close(by_theorem(theta, softmax, found.d, q), left, atol=1e-9, rtol=1e-6)


def test_with_discount_eq_6_is_near_and_not_equal():
    """Theorem 9.3: the nearer γ is to 1, the nearer are the two."""
    apart = []
    for gamma in (0.5, 0.9, 0.99, 0.999):
        world = book(gamma)
        theta = some_theta(world)
        found = exact(world, softmax(theta))
        left = by_solve(theta, lambda t, world=world: exact(world, softmax(t)).mean_reward)
        right = by_theorem(theta, softmax, found.d, found.q)
        apart.append(((left - right).norm() / left.norm()).item())
    assert apart == sorted(apart, reverse=True) and apart[0] > 0.1 and apart[-1] < 0.01


def test_the_gradient_by_finite_differences():
    world, theta, h = GridWorld(2, 3, (1, 2), ((0, 1),)), some_theta(GridWorld(2, 3, (1, 2))), 1e-6
    for name in ("first_value", "mean_value", "mean_reward"):
        gradient = by_solve(theta, lambda t, name=name: getattr(exact(world, softmax(t)), name))
        for s, a in ((0, 1), (3, 4), (5, 0)):
            step = torch.zeros_like(theta)
            step[s, a] = h
            above, below = (getattr(exact(world, softmax(theta + d)), name) for d in (step, -step))
            assert gradient[s, a].item() == pytest.approx((above - below).item() / (2 * h), abs=1e-7)


def test_gradient_ascent_on_eq_5_finds_the_best_policy():
    """Near enough that every cell's greedy action is a best one."""
    world = GridWorld(3, 3, (2, 2), ((1, 1),))
    theta = torch.zeros(9, 5, dtype=torch.float64)
    before = exact(world, softmax(theta)).first_value
    for _ in range(600):
        found = exact(world, softmax(theta))
        theta = theta + 2 * by_theorem(theta, softmax, found.rho, found.q)
    best, q = value_iteration(world)
    found = exact(world, softmax(theta))
    assert before < found.first_value and found.first_value > 0.97 * best.mean()
    chosen = q.gather(1, theta.argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(chosen, best)


# ---------------------------------------------------------------- the best policy


@settings(max_examples=30, deadline=None)
@given(worlds())
def test_value_iteration_and_policy_iteration_agree(world):
    v, q = value_iteration(world)
    policy, values = policy_iteration(world)
    torch.testing.assert_close(values[-1], v, atol=1e-9, rtol=0)
    torch.testing.assert_close(q.max(1).values, v, atol=1e-9, rtol=0)
    for before, after in zip(values, values[1:]):
        assert (after >= before - 1e-9).all(), "no policy on the way is worse than the one before, anywhere"
    P, r = world.matrices()
    torch.testing.assert_close((policy * (r + world.gamma * P @ v)).sum(1), v, atol=1e-9, rtol=0)


def test_no_policy_of_a_small_world_is_better_than_the_best():
    """By enumeration: all 5^2 policies that do not draw."""
    world = GridWorld(1, 2, (0, 1))
    best, _ = value_iteration(world)
    P, r = world.matrices()
    for first in range(5):
        for second in range(5):
            rows = torch.tensor([first, second])
            P_pi, r_pi = P[torch.arange(2), rows], r[torch.arange(2), rows]
            v = torch.linalg.solve(torch.eye(2, dtype=P.dtype) - world.gamma * P_pi, r_pi)
            assert (v <= best + 1e-9).all()
