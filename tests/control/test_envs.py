"""Environments that are stepped together, against plain loops, and what they may be."""

import gymnasium
import numpy as np
import pytest
from environments_by_hand import Scripted, Showing
from gymnasium import spaces as S

from ptheta.control.envs import Environment, Envs
from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError


def some(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers from −1.5 to 1.5."""
    import torch

    return 3 * torch.rand(*shape, generator=generator(seed, 0, "some")).numpy() - 1.5


def of(factory, count: int, seed: int = 0, stream: str = "train") -> Envs:
    return Envs(Environment(factory), count, seed, stream)


# ---------------------------------------------------------------- steps


def plain_loop(id: str, seed: int, actions: list) -> tuple[list, list, list, list, dict, list]:
    """What gymnasium's own loop sees: one environment, reset where an episode ends."""
    env = gymnasium.make(id)
    now, _ = env.reset(seed=seed)
    seen, rewards, terminated, truncated, last, totals, episode = [now], [], [], [], {}, [], []
    for t, action in enumerate(actions):
        now, reward, over, cut, _ = env.step(action)
        episode.append(float(reward))
        if over or cut:
            last[t] = now
            totals.append((sum(episode), len(episode)))
            episode = []
            now, _ = env.reset()
        seen.append(now)
        rewards.append(reward)
        terminated.append(over)
        truncated.append(cut and not over)
    env.close()
    return seen, rewards, terminated, truncated, last, totals


@pytest.mark.parametrize(("id", "steps"), [("CartPole-v1", 150), ("Pendulum-v1", 420), ("Acrobot-v1", 60)])
def test_steps_are_those_of_a_plain_loop(id, steps, monkeypatch):
    seeds, E = [], 3
    begun = gymnasium.Env.reset

    def reset(self, *, seed=None, options=None):
        seeds.append(seed)
        return begun(self, seed=seed, options=options)

    monkeypatch.setattr(gymnasium.Env, "reset", reset)
    envs = Envs(Environment(id), E, seed=7)
    if envs.spaces.actions:
        given = (np.abs(some(steps, E)) * 100).astype(np.int64) % envs.spaces.actions
        done = given
    else:  # Pendulum's torque is from −2 to 2
        given = some(steps, E, 1)
        done = np.clip(2 * given, -2, 2).astype(np.float32)
    first = envs.observations
    said = [envs.step(a) for a in given]
    assert len({*seeds[:E]}) == E and {*seeds[E:]} <= {None}
    for e in range(E):
        seen, rewards, terminated, truncated, last, totals = plain_loop(id, seeds[e], list(done[:, e]))
        assert np.array_equal(np.array(seen, np.float32), [first[e], *(step.observations[e] for step in said)])
        assert np.array_equal(np.array(rewards, np.float32), [step.rewards[e] for step in said])
        assert terminated == [step.terminated[e] for step in said]
        assert truncated == [step.truncated[e] for step in said]
        ends = {t: step.ended_with[e] for t, step in enumerate(said) if e in step.ended_with}
        assert ends.keys() == last.keys() and all(np.array_equal(ends[t], last[t].astype(np.float32)) for t in last)
        assert [(total, n) for which, total, n in envs.finished if which == e] == totals
        assert id == "Acrobot-v1" or len(totals) >= 2


def test_an_episode_ends_and_the_next_begins_in_one_step():
    made = []
    script = [(1.0, False, False), (2.0, False, False), (4.0, True, False)]
    envs = of(lambda: made.append(Scripted(script)) or made[-1], 2)
    assert envs.observations.tolist() == [[0, 0], [0, 0]]
    said = [envs.step(np.array([a, 3 - a])) for a in (0, 1, 2, 3, 0, 1, 2)]
    assert [s.observations[0].tolist() for s in said] == [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert [s.rewards.tolist() for s in said] == [[r, r] for r in (1, 2, 4, 1, 2, 4, 1)]
    assert [s.terminated[1] for s in said] == [False, False, True, False, False, True, False]
    assert not any(s.truncated.any() for s in said)
    ended = {t: {e: o.tolist() for e, o in s.ended_with.items()} for t, s in enumerate(said) if s.ended_with}
    assert ended == {2: {0: [0, 3], 1: [0, 3]}, 5: {0: [1, 3], 1: [1, 3]}}
    assert [env.done for env in made[1:]] == [[0, 1, 2, 3, 0, 1, 2], [3, 2, 1, 0, 3, 2, 1]]  # none was ignored
    assert envs.finished == [(0, 7.0, 3), (1, 7.0, 3)] * 2


@pytest.mark.parametrize(
    ("flags", "terminated", "truncated"),
    [((True, True), True, False), ((True, False), True, False), ((False, True), False, True)],
)
def test_of_both_flags_terminated_wins(flags, terminated, truncated):
    step = of(lambda: Scripted([(1.0, *flags)]), 1).step(np.array([0]))
    assert (step.terminated[0], step.truncated[0]) == (terminated, truncated) and 0 in step.ended_with


def test_what_was_given_stays_as_it_was():
    """An environment may hand out one array again and again."""

    class Same(Scripted):
        seen_ = np.zeros(2, np.float32)

        def seen(self):
            self.seen_[:] = super().seen()
            return self.seen_

    envs = of(lambda: Same([(1.0, False, False), (1.0, False, True)]), 1)
    first = envs.observations
    a, b = envs.step(np.array([0])), envs.step(np.array([0]))
    assert [x.tolist() for x in (first, a.observations, b.observations)] == [[[0, 0]], [[0, 1]], [[1, 0]]]
    assert b.ended_with[0].tolist() == [0, 2]


def test_those_that_are_not_going_stay_where_they_are():
    made = []
    script = [(1.0, False, False), (2.0, True, False)]
    envs = of(lambda: made.append(Scripted(script)) or made[-1], 3)
    step = envs.step(np.array([1, 1, 1]), np.array([True, False, True]))
    assert step.observations.tolist() == [[0, 1], [0, 0], [0, 1]] and step.rewards.tolist() == [1, 0, 1]
    step = envs.step(np.array([1, 1, 1]), np.array([False, False, True]))
    assert step.observations.tolist() == [[0, 1], [0, 0], [1, 0]] and step.rewards.tolist() == [0, 0, 2]
    assert step.terminated.tolist() == [False, False, True] and list(step.ended_with) == [2]
    assert [len(env.done) for env in made[1:]] == [1, 0, 2] and envs.finished == [(2, 3.0, 2)]
    assert envs.lengths.tolist() == [1, 0, 0] and envs.returns.tolist() == [1, 0, 0]


# ---------------------------------------------------------------- seeds


def test_copies_differ_and_runs_are_equal():
    def first(*args):
        envs = Envs(Environment("CartPole-v1"), *args)
        a = envs.observations
        for _ in range(40):  # past the first reset
            envs.step(np.ones(len(envs), np.int64))
        return np.stack([a, envs.observations])

    one = first(4, 0)
    assert np.array_equal(one, first(4, 0)) and np.array_equal(one[:, :2], first(2, 0))
    assert all(len(np.unique(rows, axis=0)) == 4 for rows in one)
    for other in (first(4, 1), first(4, 0, "valid")):
        assert not (one == other).all(2).any()


def test_no_seed_of_a_reset_comes_twice():
    made = []
    envs = of(lambda: made.append(Scripted([(0.0, True, False)])) or made[-1], 16)
    for _ in range(99):
        envs.reset()
    seeds = [seed for env in made for seed in env.seeds]
    assert len(seeds) == 1600 and len(set(seeds)) == 1600 and all(0 <= seed < 2**31 for seed in seeds)
    envs.step(np.zeros(16, np.int64))  # where an episode ends, the generator goes on
    assert {env.seeds[-1] for env in made[1:]} == {None}


# ---------------------------------------------------------------- actions


def test_vectors_are_stretched_to_the_bounds_and_clipped():
    space = S.Box(np.array([-2, 0, 1], np.float32), np.array([1, 10, 1.5], np.float32))
    made = []
    envs = of(lambda: made.append(Scripted([(0.0, False, False)] * 9, space)) or made[-1], 5)
    a = np.array([[-1, -1, -1], [1, 1, 1], [0, 0, 0], [9, -9, 1.001], [0.5, -0.5, 0.25]], np.float32)
    envs.step(a)
    got = np.array([env.done[0] for env in made[1:]])
    want = [[-2, 0, 1], [1, 10, 1.5], [-0.5, 5, 1.25], [1, 0, 1.5], [0.25, 2.5, 1.3125]]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert all(space.contains(row) for row in got)
    assert envs.spaces.components == 3 and envs.spaces.bounded


def test_the_largest_bounds_do_not_overflow():
    most = np.finfo(np.float32).max
    made = []
    envs = of(lambda: made.append(Scripted([(0.0, False, False)], S.Box(-most, most, (1,)))) or made[-1], 3)
    envs.step(np.array([[0], [1], [-0.5]], np.float32))
    assert [float(env.done[0][0]) for env in made[1:]] == pytest.approx([0, most, -most / 2])


def test_unbounded_vectors_pass_through():
    made = []
    envs = of(lambda: made.append(Scripted([(0.0, False, False)], S.Box(-np.inf, np.inf, (2,)))) or made[-1], 2)
    a = np.array([[-7, 1e6], [0.5, -3]], np.float32)
    envs.step(a)
    assert np.array_equal([env.done[0] for env in made[1:]], a) and not envs.spaces.bounded


def test_discrete_actions_begin_where_the_environment_says():
    made = []
    envs = of(lambda: made.append(Scripted([(0.0, False, False)] * 3, S.Discrete(3, start=5))) or made[-1], 3)
    envs.step(np.array([0, 1, 2]))
    assert [env.done for env in made[1:]] == [[5], [6], [7]] and envs.spaces.actions == 3
    assert {type(a) for env in made for a in env.done} == {int}


REFUSED_ACTIONS = [
    S.Box(np.array([0, -1], np.float32), np.array([np.inf, 1], np.float32)),
    S.Box(-np.inf, 0, (1,)),
    S.Box(np.array([1, -1], np.float32), np.array([1, 1], np.float32)),
    S.Box(-1, 1, (2, 2)),
    S.Box(-1, 1, ()),
    S.Box(0, 9, (2,), np.int64),
    S.MultiDiscrete([2, 3]),
    S.Dict({"a": S.Discrete(2)}),
]


@pytest.mark.parametrize("space", REFUSED_ACTIONS, ids=str)
def test_actions_that_no_policy_here_has_are_refused(space):
    with pytest.raises(InputError, match=r"Scripted has actions .*allowed: .*\.$"):
        Environment(type("Scripted", (Scripted,), {"__init__": lambda self: Scripted.__init__(self, [], space)}))


# ---------------------------------------------------------------- observations

FLATTENED = [
    S.Dict({"z": S.Box(-1, 1, (2, 3)), "a": S.Discrete(3, start=2), "m": S.Dict({"b": S.MultiBinary(3)})}),
    S.Tuple((S.MultiDiscrete([2, 4], start=[1, -2]), S.Box(0, 255, (2,), np.uint8))),
    S.Discrete(7),
    S.Discrete(5, start=-3),
    S.MultiDiscrete([3, 2, 5]),
    S.MultiDiscrete(np.array([[3, 2], [5, 4]])),
    S.MultiBinary((2, 2)),
    S.Box(-1, 1, (4, 2)),
    S.Box(-1, 1, ()),
    S.Box(0, 255, (8, 8), np.uint8),
    S.Box(-1, 1, (5, 5, 3)),
    S.Box(-9, 9, (6,), np.int64),
]


@pytest.mark.parametrize("space", FLATTENED, ids=str)
def test_observations_are_gymnasiums_own_flattened(space):
    made = []
    envs = of(lambda: made.append(Showing(space)) or made[-1], 2)
    found = [envs.observations, *(envs.step(np.zeros(2, np.int64)).observations for _ in range(3))]
    for e, env in enumerate(made[1:]):
        want = np.array([S.flatten(space, x) for x in env.shown])
        assert np.array_equal(np.array([rows[e] for rows in found]), want.astype(np.float32))
    assert envs.spaces.observation == (S.flatdim(space),) and envs.observations.dtype == np.float32


@pytest.mark.parametrize("shape", [(12, 16, 3), (12, 16, 1), (16, 12, 6), (4, 12, 16), (4, 4, 4), (3, 64, 5)])
def test_pictures_have_their_channels_first(shape):
    made = []
    envs = of(lambda: made.append(Showing(S.Box(0, 255, shape, np.uint8))) or made[-1], 1)
    last = shape[2] in (1, 3, 4) or shape == (16, 12, 6)
    want = made[1].shown[0].transpose(2, 0, 1) if last else made[1].shown[0]
    assert np.array_equal(envs.observations[0], want)
    assert envs.observations.dtype == np.uint8 and envs.spaces.pixels and envs.spaces.observation == want.shape


@pytest.mark.parametrize("space", [S.Sequence(S.Discrete(3)), S.Text(4), S.Graph(S.Box(0, 1, (2,)), None),
                                   S.Dict({"a": S.Sequence(S.Discrete(2))})], ids=str)  # fmt: skip
def test_observations_of_no_fixed_size_are_refused(space):
    with pytest.raises(InputError, match=r"has observations of \w+; allowed: Box, or what can be flattened\.$"):
        Environment(lambda: Showing(space))


# ---------------------------------------------------------------- what an environment may be


def test_a_class_or_a_function_makes_an_environment():
    from gymnasium.envs.classic_control import CartPoleEnv

    def with_limit():
        return gymnasium.make("CartPole-v1")

    by_id, by_class, by_function = Environment("CartPole-v1"), Environment(CartPoleEnv), Environment(with_limit)
    assert by_id.spaces == by_class.spaces == by_function.spaces
    assert [e.name for e in (by_id, by_class, by_function)] == ["CartPole-v1", "CartPoleEnv", "with_limit"]
    assert by_id.origin == "CartPole-v1, observations 4, 2 actions"
    assert len({e.fingerprint() for e in (by_id, by_class, by_function, Environment("Acrobot-v1"))}) == 4
    assert by_id.fingerprint() == Environment("CartPole-v1").fingerprint()


def test_a_render_mode_reaches_a_function_too():
    from ptheta.control.gridworld_environment import GridWorldEnvironment

    def draws_already():
        return GridWorldEnvironment(render_mode="rgb_array")

    def passes_on(**options):
        return GridWorldEnvironment(**options)

    for spec in (GridWorldEnvironment, "ptheta/GridWorld-v0", draws_already, passes_on):
        env = Environment(spec, render_mode="rgb_array").make()
        assert env.render_mode == "rgb_array" and env.reset() and env.render().shape == (200, 200, 3)
    with pytest.raises(
        InputError, match=r"^draws_nothing draws nothing \(rgb_array\); give it a parameter render_mode"
    ):
        Environment(draws_nothing, render_mode="rgb_array")


def draws_nothing():
    return gymnasium.make("CartPole-v1")


@pytest.mark.parametrize("what", [3, None, ["CartPole-v1"], Scripted([])], ids=["3", "None", "list", "instance"])
def test_what_is_no_environment_is_refused(what):
    with pytest.raises(UsageError, match=r"is no environment; allowed: an id of gymnasium, or a function or class"):
        Environment(what)


def test_what_makes_no_environment_is_refused():
    with pytest.raises(InputError, match=r"makes a dict; allowed: a gymnasium\.Env\.$"):
        Environment(dict)


def test_staggered_copies_are_at_different_times_of_their_episodes():
    """The limit of 200 steps cuts the first episode of copy e of 4 after 200 − 50 e, and every other one after 200."""
    envs = Envs(Environment("Pendulum-v1"), 4, 0, staggered=True)
    ended: dict[int, list[int]] = {e: [] for e in range(4)}
    for t in range(1, 451):
        step = envs.step(np.zeros((4, 1), np.float32))
        for e in step.ended_with:
            assert step.truncated[e] and not step.terminated[e]
            ended[e].append(t)
    assert ended == {0: [200, 400], 1: [150, 350], 2: [100, 300], 3: [50, 250, 450]}
