"""Environments go on from a checkpoint on disk bit for bit; those of unknown state are begun anew, in both runs."""

import gymnasium
import numpy as np
import pytest
import torch
from environments_by_hand import Scripted, Showing

from ptheta.control.envs import Environment, Envs
from ptheta.control.gridworld_environment import GridWorldEnvironment
from ptheta.control.snapshots import of_environment, restore, savable
from ptheta.data.order import generator
from ptheta.engine import checkpoint


def short(id: str, steps: int):
    """An environment with a time limit that is soon over."""

    def make():
        return gymnasium.make(id, max_episode_steps=steps)

    return make


def actions(envs: Envs, steps: int, seed: int = 0) -> np.ndarray:
    g = generator(seed, 0, "actions")
    if envs.spaces.actions:
        return torch.randint(envs.spaces.actions, (steps, len(envs)), generator=g).numpy()
    return 2 * torch.rand(steps, len(envs), envs.spaces.components, generator=g).numpy() - 1


def lived(envs: Envs, given: np.ndarray) -> list:
    """All that was said to a series of actions."""
    said = []
    for a in given:
        step = envs.step(a)
        said += [step.observations, step.rewards, step.terminated, step.truncated, *step.ended_with.values()]
    finished = [*envs.finished]
    envs.finished.clear()
    return [*said, np.array(finished), envs.returns.copy(), envs.lengths.copy()]


def equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def through_disk(state: dict, folder) -> dict:
    return checkpoint.load(checkpoint.save(folder, 1, state))


CASES = [
    *((id, 30) for id in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")),
    ("ptheta/GridWorld-v0", 30),
    *((f"{name}-v5", 12) for name in ("HalfCheetah", "Hopper", "Ant", "InvertedPendulum", "InvertedDoublePendulum")),
    *((f"{name}-v5", 12) for name in ("Walker2d", "Swimmer", "Reacher", "Pusher", "Humanoid", "HumanoidStandup")),
    *((f"{name}-v4", 12) for name in ("HalfCheetah", "Hopper", "Ant", "Reacher")),
]


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(("id", "limit"), CASES, ids=str)
def test_a_run_that_was_saved_goes_on_as_it_would_have(id, limit, tmp_path):
    environment = Environment(short(id, limit))
    assert environment.savable
    envs, resumed = Envs(environment, 2, 3), Envs(environment, 2, 3)
    given = actions(envs, 4 * limit)
    lived(envs, given[: limit // 2])  # to amid an episode
    lived(resumed, given[:3] / 2 if given.ndim == 3 else given[:3])  # what it was before must not matter
    state = envs.state_dict()
    want = lived(envs, given[limit // 2 :])
    resumed.load_state_dict(through_disk(state, tmp_path))
    assert equal(lived(resumed, given[limit // 2 :]), want)
    ends = [row for row in want[-3].tolist() if row[0] == 0]
    assert len(ends) >= 3  # of one environment: the time limit, and the generator after it, were the same


@pytest.mark.parametrize("id", ["CartPole-v1", "Hopper-v5"])
def test_to_save_changes_nothing(id):
    environment = Environment(short(id, 20))
    envs, saved = Envs(environment, 2, 0), Envs(environment, 2, 0)
    given = actions(envs, 60)
    want, found = [], []
    for a in given:
        want += lived(envs, a[None])
        saved.state_dict()
        found += lived(saved, a[None])
    assert equal(found, want)


def test_a_state_is_a_copy(tmp_path):
    envs = Envs(Environment("HalfCheetah-v5"), 1, 0)
    given = actions(envs, 30)
    lived(envs, given[:5])
    state = envs.state_dict()
    before = through_disk(state, tmp_path / "before")
    lived(envs, given)
    after = through_disk(state, tmp_path / "after")
    assert str(before) == str(after)
    resumed = Envs(Environment("HalfCheetah-v5"), 1, 9)
    resumed.load_state_dict(state)
    first = lived(resumed, given)
    resumed.load_state_dict(state)  # as often as one likes
    assert equal(lived(resumed, given), first)


def test_the_state_is_more_than_positions_and_velocities():
    """Or the proof above would prove little: Ant's rewards need what its last step left."""
    env = gymnasium.make("Ant-v5")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        env.step(rng.uniform(-1, 1, 8))
    state, data = of_environment(env), env.unwrapped.data  # pyright: ignore
    places, speeds = data.qpos.copy(), data.qvel.copy()
    a = rng.uniform(-1, 1, 8)
    want = env.step(a)
    restore(env, state)
    found = env.step(a)
    assert np.array_equal(found[0], want[0]) and found[1] == want[1]
    env.reset(seed=0)
    env.unwrapped.set_state(places, speeds)  # pyright: ignore
    assert not np.array_equal(env.step(a)[0], want[0])


# ---------------------------------------------------------------- whose state is not known


class Foreign(gymnasium.Wrapper):
    pass


class TimeLimit(gymnasium.Wrapper):
    """Of somebody else, by a name of gymnasium's."""


def test_only_what_is_known_is_savable():
    from gymnasium.envs.classic_control import CartPoleEnv
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

    def derived(kind):
        return type("Derived", (kind,), {})()

    known = [CartPoleEnv(), HopperEnv(), GridWorldEnvironment(), gymnasium.make("Hopper-v5"),
             gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1"), 9),
             gymnasium.wrappers.FlattenObservation(GridWorldEnvironment())]  # fmt: skip
    others = [Scripted([]), derived(CartPoleEnv), derived(HopperEnv), Foreign(CartPoleEnv()), TimeLimit(CartPoleEnv()),
              gymnasium.make("FrozenLake-v1"), gymnasium.wrappers.NormalizeObservation(CartPoleEnv())]  # fmt: skip
    assert all(map(savable, known)) and not any(map(savable, others))


def wrapped():
    return Foreign(gymnasium.make("CartPole-v1"))


def lake():
    return gymnasium.make("FrozenLake-v1")


def scripted():
    return Scripted([(1.0, False, False), (2.0, False, True)])


@pytest.mark.parametrize("factory", [wrapped, lake, scripted])
def test_what_is_not_known_begins_anew_at_a_checkpoint_in_both_runs(factory, tmp_path):
    environment = Environment(factory)
    envs, resumed = Envs(environment, 3, 1), Envs(environment, 3, 1)
    given = actions(envs, 120)
    lived(envs, given[:5])
    was = envs.observations
    state = through_disk(envs.state_dict(), tmp_path)
    assert not envs.lengths.any() and not envs.returns.any()
    if len(np.unique(was, axis=0)) == 3:  # its beginnings are drawn
        assert not np.array_equal(envs.observations, was)
    begun = envs.observations
    want = lived(envs, given)
    lived(resumed, given[:9])
    resumed.load_state_dict(state)
    if not isinstance(envs.envs[0], Scripted):  # which counts its own episodes
        assert np.array_equal(resumed.observations, begun)
        assert equal(lived(resumed, given), want)
        assert resumed.taken == envs.taken == 125
    assert resumed.resets == envs.resets == 2
    again = through_disk(envs.state_dict(), tmp_path)  # and at the next one it is another beginning
    assert again["resets"] == 3


def test_what_is_not_known_has_other_beginnings_after_each_checkpoint():
    envs = Envs(Environment(wrapped), 2, 0)
    begun = [envs.observations]
    for _ in range(4):
        envs.state_dict()
        begun.append(envs.observations)
    assert len(np.unique(np.concatenate(begun), axis=0)) == 10


def test_pictures_survive_a_checkpoint(tmp_path):
    space = gymnasium.spaces.Box(0, 255, (8, 9, 3), np.uint8)
    environment = Environment(lambda: Showing(space))
    envs = Envs(environment, 1, 0)
    state = through_disk(envs.state_dict(), tmp_path)
    resumed = Envs(environment, 1, 0)
    resumed.load_state_dict(state)
    assert resumed.observations.dtype == np.uint8 and resumed.observations.shape == (1, 3, 8, 9)
