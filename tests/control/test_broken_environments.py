"""Environments that break the rules: what is said of them, where it was, and what stays in sight."""

import gymnasium
import numpy as np
import pytest
from environments_by_hand import Scripted, Showing
from gymnasium import spaces as S

from ptheta.control import envs as module
from ptheta.control.envs import Environment, Envs
from ptheta.engine.errors import InputError, UsageError


def of(factory, count: int) -> Envs:
    return Envs(Environment(factory), count, 0)


def broken(what):
    """A class of an environment that answers its second step, or its second reset, in another way."""

    class Broken(Scripted):
        def __init__(self):
            super().__init__([(1.0, False, False), (1.0, False, False), (1.0, True, False)] * 9)

        def step(self, action):
            o, reward, over, cut, info = super().step(action)
            return what(o, reward, over, cut, info) if self.at == 2 else (o, reward, over, cut, info)

    return Broken


FAULTS = {
    "NaN observation": (lambda o, r, *x: (o * np.nan, r, *x), "an observation that is not finite"),
    "infinite observation": (lambda o, r, *x: (o.astype(float) + 1e300, r, *x), "an observation that is not finite"),
    "NaN reward": (lambda o, r, *x: (o, np.nan, *x), "a reward that is not finite"),
    "infinite reward": (lambda o, r, *x: (o, -np.inf, *x), "a reward that is not finite"),
    "shape": (lambda o, r, *x: (o[:1], r, *x), r"an observation of shape \(1,\); its space has \(2,\)"),
    "text": (lambda o, r, *x: (["a", "b"], r, *x), "a ndarray that is no observation of numbers"),
    "ragged": (lambda o, r, *x: ([[1], [1, 2]], r, *x), "a list that is no observation of numbers"),
    "reward": (lambda o, r, *x: (o, [1, 2], *x), "a reward or a flag that is no number"),
    "nothing": (lambda *x: None, "1 values for a step; allowed: 5"),
    "three": (lambda o, r, over, *x: (o, r, over), "3 values for a step; allowed: 5"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_answer_is_refused_and_says_where(fault):
    what, says = FAULTS[fault]
    envs = of(broken(what), 2)
    envs.step(np.zeros(2, np.int64), np.array([False, True]))
    with pytest.raises(InputError, match=rf"^Broken gives {says} \(copy 1, its step 2, step 2 of the episode\)") as got:
        envs.step(np.zeros(2, np.int64), np.array([False, True]))
    assert "\n" not in str(got.value) and "mend the environment" in str(got.value)


def test_a_diverged_policy_is_not_put_down_to_the_environment():
    envs = Envs(Environment("Pendulum-v1"), 2, 0)
    with pytest.raises(InputError, match=r"not finite, after an action that is not finite either.*learning rate"):
        envs.step(np.array([[0.0], [np.nan]], np.float32))


@pytest.mark.parametrize("when", ["at first", "after an episode"])
@pytest.mark.parametrize("what", ["NaN", "shape"])
def test_a_reset_that_is_no_beginning_is_refused(when, what):
    class Reset(Scripted):
        def __init__(self):
            super().__init__([(1.0, True, False)])

        def seen(self):
            if self.at or self.episode < (1 if when == "after an episode" else 0):
                return super().seen()
            return super().seen() * np.nan if what == "NaN" else np.zeros(3)

    says = "at a reset, an observation that is not finite" if what == "NaN" else r"an observation of shape \(3,\)"
    with pytest.raises(InputError, match=f"^Reset gives,? {says}.*copy 0, its step 1, step 1 of the episode"):
        of(Reset, 1).step(np.array([0]))


class OldStep(Scripted):
    def __init__(self):
        super().__init__([(1.0, False, False)] * 9)

    def step(self, action):  # pyright: ignore
        return super().step(action)[:2] + (False, {})


class OldReset(OldStep):
    def reset(self, *, seed=None, options=None):  # pyright: ignore
        return super().reset(seed=seed)[0]


class OldSeed(OldStep):
    def reset(self):  # pyright: ignore
        return super().reset()


class OldWords(OldStep):
    def __init__(self):
        super().__init__()
        self.observation_space = S.Discrete(3)

    def reset(self, *, seed=None, options=None):  # pyright: ignore
        return 1


def limited(old):
    return lambda: gymnasium.wrappers.TimeLimit(old(), 10)


@pytest.mark.parametrize("old", [OldStep, OldReset, OldSeed, OldWords, limited(OldStep), limited(OldReset),
                                 limited(OldSeed)])  # fmt: skip
def test_the_old_interface_is_named(old):
    with pytest.raises(InputError, match=r"; it is of the old gym: port it to gymnasium 1\.x\.$") as got:
        of(old, 2).step(np.array([0, 0]))
    assert "\n" not in str(got.value)


def test_classes_of_the_old_gym_are_named():
    class OldSpace:
        shape, dtype = (2,), np.float32

    class Foreign:
        observation_space = action_space = OldSpace()

    class Mixed(Scripted):
        def __init__(self):
            super().__init__([])
            self.observation_space = OldSpace()  # pyright: ignore

    class Bare(gymnasium.Env):
        pass

    with pytest.raises(InputError, match=r"^Foreign makes a Foreign; allowed: a gymnasium\.Env\.$"):
        Environment(Foreign)
    for one in (Mixed, Bare):
        with pytest.raises(InputError, match="has no gymnasium spaces; it may be of the old gym"):
            Environment(one)


@pytest.mark.parametrize("where", ["step", "reset", "constructor"])
def test_what_an_environment_raises_stays_in_sight(where):
    class Raising(Scripted):
        def __init__(self):
            super().__init__([(1.0, True, False)] * 2)
            if where == "constructor":
                raise RuntimeError("no licence\nfor this")

        def reset(self, **options):
            if where == "reset" and self.episode == 0:
                raise RuntimeError("no licence\nfor this")
            return super().reset(**options)

        def step(self, action):
            if where == "step":
                raise RuntimeError("no licence\nfor this")
            return super().step(action)

    doing = {"step": "raises in a step ", "reset": "raises in a reset ", "constructor": "cannot be made: "}[where]
    says = rf"^Raising {doing}RuntimeError: no licence for this \(test_broken_environments\.py:\d+\)"
    with pytest.raises(InputError, match=says) as got:
        of(Raising, 1).step(np.array([0]))
    cause = got.value.__cause__
    assert type(cause) is RuntimeError and str(cause) == "no licence\nfor this"


def test_a_refusal_of_the_environment_itself_is_passed_on():
    def step(self, action):
        raise UsageError("mine")

    with pytest.raises(UsageError, match="^mine$"):
        of(type("Own", (OldStep,), {"step": step}), 1).step(np.array([0]))


def test_an_episode_that_does_not_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 20)
    envs = of(lambda: Showing(S.Box(0, 1, (1,))), 2)
    with pytest.raises(InputError, match=r"has not ended after 20 steps; give it a time limit"):
        for _ in range(21):
            envs.step(np.array([0, 0]), np.array([True, False]))
    for _ in range(30):  # where no episode is wanted whole, it may be as long as it likes
        envs.step(np.array([0, 0]))
