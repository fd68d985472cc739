r"""Environments: any of gymnasium's, several stepped together, with what ended kept apart from what began.

M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.
F. Pardo, A. Tavakoli, V. Levdik and P. Kormushev, "Time Limits in Reinforcement Learning", ICML 2018.

Step t of environment e goes from s_t by a_t to s'_t. Where the episode ends there, the environment is reset at once and
s_{t+1} is the first observation of the next episode, so that no step is spent on a reset and no action is ignored;
s'_t, with which the old one ended, is given besides. An episode that is *terminated* is worth nothing more; one that is
*truncated* would have gone on.

| symbol | shape | here |
|---|---|---|
| s, s' | (E, …) | float32; dictionaries, tuples and whole numbers flattened; pictures (C, H, W) of bytes |
| a | (E,) or (E, m) | whole numbers from 0, or vectors within [−1, 1] that are stretched to the environment's bounds |

An action of an unbounded space is taken as it is; a component outside of [−1, 1] is done as the nearest within.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptheta.control.ids import imported, made, quieten, shown, told
from ptheta.control.snapshots import of_environment, restore, savable
from ptheta.control.spaces import Spaces, actions_for, spaces_of
from ptheta.engine.errors import InputError, UsageError

LONGEST = 100_000  # steps of an episode that is wanted whole
OLD = "it is of the old gym: port it to gymnasium 1.x"


class Environment:
    """An environment by its gymnasium id, or by a function or class that makes it: what methods of this room learn
    from. Of a function, `render_mode` is a parameter of its own, if it has one.

    Raises UsageError for an id that does not exist, InputError for one that cannot be made or does not keep to
    gymnasium's interface.
    """

    flattened = False  # whether a wrapper of gymnasium's flattens what it observes
    splits = ("valid", "test")  # episodes to judge by, of other seeds than those that are learned from

    def __init__(self, spec: Any, render_mode: str | None = None):
        if not isinstance(spec, str) and not callable(spec):
            what = f"{shown(repr(spec))} is no environment"
            raise UsageError(f"{what}; allowed: an id of gymnasium, or a function or class that makes one.")
        self.spec: Any = spec
        self.render_mode = render_mode
        self.name = spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__)
        with contextlib.closing(self.make()) as first:
            bare = first.env if self.flattened else first
            self.spaces: Spaces = spaces_of(self.name, first, bare.observation_space if self.flattened else None)
            self.savable = savable(first)
        self.n = int(np.prod(self.spaces.observation))
        self.origin = f"{self.name}, {self.spaces.describe()}"

    def fingerprint(self) -> str:
        """Of the name and of the spaces."""
        return hashlib.sha256(repr((self.name, self.spaces)).encode()).hexdigest()[:16]

    def make(self) -> Any:
        """One copy."""
        gymnasium = imported()
        env = made(self.spec, self.render_mode) if isinstance(self.spec, str) else self._called()
        if not isinstance(env, gymnasium.Env):
            raise InputError(f"{self.name} makes a {type(env).__name__}; allowed: a gymnasium.Env.")
        kinds = (gymnasium.spaces.Dict, gymnasium.spaces.Tuple, gymnasium.spaces.Discrete,
                 gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary)  # fmt: skip
        space: Any = getattr(env, "observation_space", None)
        self.flattened = isinstance(space, kinds) and space.is_np_flattenable
        return gymnasium.wrappers.FlattenObservation(env) if self.flattened else env

    def _called(self) -> Any:
        quieten(self.spec)
        try:
            mode = self.render_mode
            env = self.spec(render_mode=mode) if mode and _takes_render_mode(self.spec) else self.spec()
        except (InputError, UsageError):
            raise
        except Exception as error:  # of the user's own code: it stays in sight as the cause
            raise InputError(f"{self.name} cannot be made: {told(error)}{_place(error)}.") from error
        if mode and getattr(env, "render_mode", None) != mode:
            raise InputError(f"{self.name} draws nothing ({mode}); give it a parameter render_mode that it passes on.")
        return env


def _takes_render_mode(make: Any) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # of what is not written in Python
        return False
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _place(error: Exception) -> str:
    """Where an exception was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({os.path.basename(last.filename)}:{last.lineno})"


@dataclass
class Step:
    """What E environments said to one step. The arrays are new each time."""

    observations: np.ndarray
    """s_{t+1}, of the next episode where one ended."""
    rewards: np.ndarray
    """(E,) float32."""
    terminated: np.ndarray
    """(E,) bool."""
    truncated: np.ndarray
    """(E,) bool; false where terminated."""
    ended_with: dict[int, np.ndarray]
    """s'_t of the environments whose episode ended."""


def time_limit(env: Any) -> Any:
    """gymnasium's wrapper that cuts episodes, where there is one."""
    while hasattr(env, "env"):
        if type(env).__name__ == "TimeLimit":
            return env
        env = env.env
    return None


class Envs:
    """E copies of an environment in this process. Environment e is seeded by (seed, e, stream).

    first, total: These are `first` and those after it, of so many.
    staggered: The time limit cuts the first episode of environment e after (E − e) / E of its steps. Otherwise all
    copies of an environment that nothing but the limit ends are at the same time of their episodes for ever, and each
    rollout of a few steps has seen one part of them alone.
    """

    def __init__(
        self, environment: Environment, count: int, seed: int, stream: str = "train", staggered: bool = False,
        first: int = 0, total: int | None = None,
    ):  # fmt: skip
        self.first, self.total = first, total or count
        self.environment, self.spaces, self.seed, self.stream = environment, environment.spaces, seed, stream
        self.staggered = staggered
        self.envs = [environment.make() for _ in range(count)]
        self.steps = [getattr(env, "step") for env in self.envs]  # noqa: B009 (bound once)
        self.to_action = actions_for(self.spaces)
        self.shape = tuple(self.envs[0].observation_space.shape)
        self.moved = "picture" in (self.spaces.given or {})
        self.dtype = np.uint8 if self.spaces.pixels else np.float32
        self.taken = 0  # steps of each
        self.resets = 0
        self.finished: list[tuple[int, float, int]] = []  # environment, return, length; the caller empties it
        self.reset()

    def __len__(self) -> int:
        return len(self.envs)

    def reset(self) -> None:
        """Begin anew, each with a seed of (seed, stream, how many resets there were, e)."""
        self.observations = np.zeros((len(self), *self.spaces.observation), self.dtype)
        self.returns, self.lengths = np.zeros(len(self)), np.zeros(len(self), np.int64)
        for e in range(len(self)):
            key = hashlib.blake2b(
                f"{self.seed}/{self.stream}/{self.resets}/{self.first + e}".encode(), digest_size=4
            ).digest()
            self._begin(self.observations, e, seed=int.from_bytes(key, "little") >> 1)
            if self.staggered and (timer := time_limit(self.envs[e])) is not None:
                timer._elapsed_steps = (self.first + e) * timer._max_episode_steps // self.total
        self.resets += 1

    def step(self, actions: np.ndarray, going: np.ndarray | None = None) -> Step:
        """One step of each, or of those that are `going` (E,): the others stay where they are, without reward.

        Raises InputError for what is not finite or of another shape, for what an environment raises, and, where only
        some are going, for an episode that does not end."""
        E = len(self.envs)
        after = np.empty_like(self.observations) if going is None else self.observations.copy()
        rewards, terminated, truncated = np.zeros(E), np.zeros(E, bool), np.zeros(E, bool)
        ended_with: dict[int, np.ndarray] = {}
        done = self.to_action(actions)
        for e in range(E) if going is None else np.flatnonzero(going).tolist():
            try:
                said = self.steps[e](done[e])
            except (InputError, UsageError):
                raise
            except Exception as error:
                raise self._raised(e, "a step", error) from error
            try:
                o, rewards[e], over, cut, _ = said
                if over or cut:
                    terminated[e], truncated[e] = over, not over
            except (TypeError, ValueError) as error:
                raise self._misshapen(e, said) from error
            self._put(after, e, o)
            if over or cut:
                ended_with[e] = after[e].copy()
        if not np.isfinite(rewards).all():
            e = int(np.argmin(np.isfinite(rewards)))
            raise self._bad(e, "gives a reward that is not finite", actions)
        if self.dtype != np.uint8 and not np.isfinite(after).all():
            e = int(np.argmin(np.isfinite(after.reshape(E, -1)).all(1)))
            raise self._bad(e, "gives an observation that is not finite", actions)
        self.returns += rewards
        self.lengths += 1 if going is None else going
        for e in ended_with:
            self.finished.append((e, float(self.returns[e]), int(self.lengths[e])))
            self.returns[e], self.lengths[e] = 0.0, 0
            self._begin(after, e)
        if going is not None and self.lengths.max() >= LONGEST:
            raise InputError(
                f"an episode of {self.environment.name} has not ended after {LONGEST:,} steps; give it a time limit, "
                "as gymnasium.wrappers.TimeLimit does."
            )
        self.taken += 1
        self.observations = after
        return Step(after, rewards.astype(np.float32), terminated, truncated, ended_with)

    def _begin(self, rows: np.ndarray, e: int, **options: Any) -> None:
        """An episode's first observation."""
        try:
            said = self.envs[e].reset(**options)
        except (InputError, UsageError):
            raise
        except Exception as error:
            raise self._raised(e, "a reset", error) from error
        if not isinstance(said, tuple) or len(said) != 2:
            what = f"{len(said)} values" if isinstance(said, tuple) else f"a {type(said).__name__}"
            raise InputError(f"{self.environment.name} resets to {what}, not to (observation, info); {OLD}.")
        self._put(rows, e, said[0])
        if self.dtype != np.uint8 and not np.isfinite(rows[e]).all():
            raise self._bad(e, "gives, at a reset, an observation that is not finite")

    def _put(self, rows: np.ndarray, e: int, o: Any) -> None:
        try:
            if getattr(o, "shape", None) != self.shape:
                o = np.asarray(o)
                if o.shape != self.shape:
                    raise self._bad(e, f"gives an observation of shape {o.shape}; its space has {self.shape}")
            if self.moved:
                o = np.moveaxis(o, 2, 0)
            rows[e] = o if o.shape == rows.shape[1:] else o.reshape(rows.shape[1:])
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._bad(e, f"gives a {type(o).__name__} that is no observation of numbers") from error

    def _bad(self, e: int, what: str, actions: np.ndarray | None = None) -> InputError:
        mend = "mend the environment"
        if actions is not None and not np.isfinite(actions[e]).all():
            what, mend = f"{what}, after an action that is not finite either", "a smaller learning rate may help"
        return InputError(f"{self.environment.name} {what} ({self._when(e)}); {mend}. Checkpoints before it are kept.")

    def _misshapen(self, e: int, said: Any) -> InputError:
        """Of what is no observation, reward, terminated, truncated, info."""
        count = len(said) if isinstance(said, tuple | list) else 1
        if count == 4:
            return InputError(f"{self.environment.name} gives 4 values for a step, not the 5 of gymnasium; {OLD}.")
        what = f"{count} values for a step; allowed: 5" if count != 5 else "a reward or a flag that is no number"
        return self._bad(e, f"gives {what}")

    def _raised(self, e: int, doing: str, error: Exception) -> InputError:
        """What an environment raised, in one line; it stays in sight as the cause."""
        text = str(error)
        if isinstance(error, TypeError) and "keyword argument 'seed'" in text:
            return InputError(f"{self.environment.name} takes no seed at a reset; {OLD}.")
        within = traceback.extract_tb(error.__traceback__)[-1].filename.split(os.sep)
        if isinstance(error, TypeError | ValueError) and "unpack" in text and "gymnasium" in within:  # its wrappers
            return InputError(f"{self.environment.name} does not give what gymnasium wants of {doing} ({text}); {OLD}.")
        what = f"raises in {doing} {told(error)}{_place(error)}"
        return InputError(f"{self.environment.name} {what}; {self._when(e)}. Checkpoints before it are kept.")

    def _when(self, e: int) -> str:
        return f"copy {self.first + e}, its step {self.taken + 1:,}, step {self.lengths[e] + 1:,} of the episode"

    def close(self) -> None:
        for env in self.envs:
            env.close()

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit. An environment whose state cannot be read is reset here, in this run
        as in the one that is resumed."""
        if not self.environment.savable:
            self.reset()
            return {"taken": self.taken, "resets": self.resets}
        import torch

        return {
            "taken": self.taken, "resets": self.resets,
            "observations": torch.from_numpy(self.observations.copy()),
            "returns": torch.from_numpy(self.returns.copy()), "lengths": torch.from_numpy(self.lengths.copy()),
            "envs": {str(e): of_environment(env) for e, env in enumerate(self.envs)},
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.resets = state["taken"], state["resets"]
        self.finished.clear()
        if "envs" not in state:
            self.resets -= 1
            self.reset()
            return
        for e, env in enumerate(self.envs):
            restore(env, state["envs"][str(e)])
        self.observations = state["observations"].numpy().copy()
        self.returns, self.lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()
