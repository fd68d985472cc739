"""The grid world as an environment: its steps, its values by many episodes against the exact ones, its picture."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from ptheta.control.envs import Environment, Envs
from ptheta.control.gridworld import ACTIONS, GridWorld, book, exact
from ptheta.control.gridworld_environment import GridWorldEnvironment
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError

WORLDS = [book(), GridWorld(3, 4, (2, 3), ((0, 1),), 0.8, 2.0, -3.0, -0.5, -0.1)]


@pytest.mark.parametrize("world", WORLDS, ids=["book", "other"])
def test_every_step_is_the_exact_matrices(world):
    env = GridWorldEnvironment(world)
    env.reset(seed=0)
    P, r = world.matrices()
    for s in range(world.states):
        for a in range(len(ACTIONS)):
            env.state = s
            after, reward, terminated, truncated, _ = env.step(a)
            assert P[s, a].argmax() == after == env.state and P[s, a, after] == 1
            assert reward == r[s, a] and (after, reward) == world.step(s, a)
            assert not terminated and not truncated


@pytest.mark.filterwarnings("ignore:.*not having a spec")
def test_it_keeps_to_gymnasiums_interface():
    check_env(Environment("ptheta/GridWorld-v0", "rgb_array").make().unwrapped)
    check_env(GridWorldEnvironment(WORLDS[1], start=(1, 1)))


def test_it_is_cut_after_100_steps_and_never_terminates():
    env = Environment("ptheta/GridWorld-v0").make()
    env.reset(seed=0)
    flags = [env.step(4)[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]


def test_a_run_is_seen_as_unit_vectors():
    envs = Envs(Environment("ptheta/GridWorld-v0"), 40, 0)
    states = [env.unwrapped.state for env in envs.envs]
    assert np.array_equal(envs.observations, np.eye(25, dtype=np.float32)[states])
    assert envs.spaces.actions == 5 and len(set(states)) > 10


def test_first_states_are_all_alike_or_the_one_that_is_named():
    env, n = GridWorldEnvironment(), 5000
    env.reset(seed=1)
    found = np.bincount([env.reset()[0] for _ in range(n)], minlength=25)
    assert (np.abs(found - n / 25) < 4 * np.sqrt(n / 25 * 24 / 25)).all()
    named = GridWorldEnvironment(WORLDS[1], start=(1, 2))
    assert {named.reset(seed=seed)[0] for seed in range(20)} == {1 * 4 + 2}


@pytest.mark.parametrize("start", [(5, 0), (0, 5), (-1, 0), (0, -1)])
def test_a_start_outside_of_the_world_is_refused(start):
    with pytest.raises(UsageError, match=r"^start = .* is outside of the world; allowed: \(0, 0\) to \(4, 4\)\.$"):
        GridWorldEnvironment(start=start)


@pytest.mark.parametrize("action", [-1, 5])
def test_an_action_that_is_none_is_refused(action):
    env = GridWorldEnvironment()
    env.reset(seed=0)
    with pytest.raises(
        UsageError, match=rf"^action {action} is impossible; allowed: 0 to 4: up, right, down, left, stay"
    ):
        env.step(action)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("world", WORLDS, ids=["book", "other"])
def test_discounted_returns_have_the_exact_values_for_their_mean(world):
    """n episodes of a random policy from one state: the mean is within four standard errors of v_π, and what a horizon
    of 90 steps leaves out is far less."""
    g = generator(0, 0, "policy")
    pi = torch.rand(world.states, len(ACTIONS), generator=g, dtype=torch.float64) + 0.05
    pi /= pi.sum(1, keepdim=True)
    start, n, T = (1, 0), 900, 90
    env = GridWorldEnvironment(world, start=start)
    env.reset(seed=0)
    u, edges = torch.rand(n, T, generator=g, dtype=torch.float64).numpy(), pi.cumsum(1).numpy()
    returns = np.zeros(n)
    for i in range(n):
        s, _ = env.reset()
        for t in range(T):
            s, reward, *_ = env.step(int(np.searchsorted(edges[s, :-1], u[i, t])))
            returns[i] += world.gamma**t * reward
    error = returns.std(ddof=1) / np.sqrt(n)
    v = exact(world, pi).v[start[0] * world.columns + start[1]]
    assert abs(returns.mean() - float(v)) < 4 * error and error < 0.1
    assert world.gamma**T * 3 / (1 - world.gamma) < error / 10


# ---------------------------------------------------------------- pictures


def cells(picture: np.ndarray, world: GridWorld) -> np.ndarray:
    """The colour near a corner of each cell, past its line."""
    side = picture.shape[0] // world.rows
    return picture[side // 8 :: side, side // 8 :: side]


@pytest.mark.parametrize("world", WORLDS, ids=["book", "other"])
def test_a_picture_shows_the_world_and_the_walker(world):
    env = GridWorldEnvironment(world, start=(1, 0), render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    side = picture.shape[0] // world.rows
    assert picture.shape == (world.rows * side, world.columns * side, 3) and picture.dtype == np.uint8
    shown = cells(picture, world)
    for row in range(world.rows):
        for column in range(world.columns):
            at = (row, column)
            want = (80, 170, 230) if at == world.target else (245, 166, 60) if at in world.forbidden else (255,) * 3
            assert tuple(shown[row, column]) == want
    dark = (picture == 20).all(2)
    for action in ("right", "down", "stay"):
        rows, columns = np.nonzero(dark)
        assert {*(rows // side)} == {env.state // world.columns}
        assert {*(columns // side)} == {env.state % world.columns} and len(rows) > side * side / 5
        env.step(ACTIONS.index(action))
        dark = (env.render() == 20).all(2)


def test_the_widest_world_is_still_drawn():
    env = GridWorldEnvironment(GridWorld(1, 400, (0, 0)), start=(0, 399))
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (4, 1600, 3) and (picture[:, -4:] == 20).any() and not (picture[:, :-4] == 20).any()
