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
import importlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptheta.control.snapshots import of_environment, restore, savable
from ptheta.engine.errors import InputError, UsageError, unknown

INSTALL = "pip install 'ptheta[control]'"
GRIDWORLD = "ptheta/GridWorld-v0"


@dataclass(frozen=True)
class Spaces:
    """What is observed and what can be done."""

    observation: tuple[int, ...]
    """(n,), or (C, H, W) of pictures."""
    actions: int | None
    """How many there are, or None if they are vectors."""
    low: tuple[float, ...] = ()
    """Bounds of each component of a vector."""
    high: tuple[float, ...] = ()
    first: int = 0
    """What the environment calls its first action."""

    @property
    def pixels(self) -> bool:
        return len(self.observation) == 3

    @property
    def components(self) -> int:
        """m."""
        return len(self.low)

    @property
    def bounded(self) -> bool:
        return bool(self.low) and bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: no infinities."""
        bounds = {name: [b if np.isfinite(b) else None for b in getattr(self, name)] for name in ("low", "high")}
        return {**asdict(self), **bounds, "observation": list(self.observation)}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Spaces:
        low, high = (
            tuple(sign * np.inf if b is None else float(b) for b in d[name])
            for name, sign in (("low", -1), ("high", 1))
        )
        return cls(tuple(d["observation"]), d["actions"], low, high, d["first"])

    def describe(self) -> str:
        does = f"{self.actions} actions" if self.actions else f"actions of {self.components} numbers"
        return f"observations {'×'.join(map(str, self.observation))}, {does}"


class Environment:
    """An environment by its gymnasium id, or by a function that makes it: what methods of this room learn from.

    Raises UsageError for an id that does not exist, InputError for one that cannot be made or does not keep to
    gymnasium's interface.
    """

    splits = ("valid", "test")  # episodes to judge by, of other seeds than those that are learned from

    def __init__(self, spec: Any, render_mode: str | None = None):
        self.spec, self.render_mode = spec, render_mode
        self.name = spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__)
        first = self.make()
        self.spaces = spaces_of(self.name, first)
        self.savable = savable(first)
        first.close()
        self.n = int(np.prod(self.spaces.observation))
        self.origin = f"{self.name}, {self.spaces.describe()}"

    def fingerprint(self) -> str:
        """Of the name and of the spaces."""
        return hashlib.sha256(repr((self.name, self.spaces)).encode()).hexdigest()[:16]

    def make(self) -> Any:
        """One copy."""
        gymnasium = imported()
        if not isinstance(self.spec, str):
            env = self.spec()
            if not isinstance(env, gymnasium.Env):
                raise InputError(f"{self.name} makes a {type(env).__name__}; allowed: a gymnasium.Env.")
        else:
            env = self._of_id(gymnasium)
        kinds = (gymnasium.spaces.Dict, gymnasium.spaces.Tuple, gymnasium.spaces.Discrete,
                 gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary)  # fmt: skip
        if isinstance(getattr(env, "observation_space", None), kinds):
            env = gymnasium.wrappers.FlattenObservation(env)
        return env

    def _of_id(self, gymnasium: Any) -> Any:
        error = gymnasium.error
        quieten(gymnasium.registry.get(self.spec))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return gymnasium.make(self.spec, render_mode=self.render_mode, disable_env_checker=True)
        except (error.NameNotFound, error.NamespaceNotFound, error.VersionNotFound, error.UnregisteredEnv, error.Error,
                ImportError) as reason:  # fmt: skip
            missing = isinstance(reason, error.DependencyNotInstalled | ImportError)
            if not missing and self.spec not in gymnasium.registry and ":" not in self.spec:
                raise _unknown_id(self.spec, gymnasium) from reason
            fix = f" Try: {INSTALL}" if missing else ""
            raise InputError(f"{self.spec} cannot be made: {' '.join(str(reason).split())}.{fix}") from reason


def quieten(entry: Any) -> None:
    """Of gymnasium's MuJoCo: that a model's file is of an older style, which the engine would print for every copy and
    write into a file in the working directory."""
    if entry is None or not str(entry.entry_point).startswith("gymnasium.envs.mujoco"):
        return
    with contextlib.suppress(ImportError):  # `make` will say so
        importlib.import_module("mujoco").set_mju_user_warning(lambda message: None)


def _unknown_id(spec: str, gymnasium: Any) -> UsageError:
    newest: dict[str, int] = {}
    for one in gymnasium.registry.values():
        newest[one.name] = max(newest.get(one.name, 0), one.version or 0)
    ours = ("CartPole", "Pendulum", "Acrobot", "MountainCar", "HalfCheetah", "Hopper", "Walker2d", "Swimmer")
    said = unknown("environment", spec, gymnasium.registry)
    near = str(said).split("Did you mean ")[1].rstrip("?. ") if "Did you mean" in str(said) else None
    hint = f" Did you mean {near}?" if near else ""
    some = ", ".join(f"{name}-v{newest[name]}" for name in ours if name in newest)
    return UsageError(f"environment {spec!r} is unknown; allowed: any id of gymnasium, as {some}, {GRIDWORLD}.{hint}")


def imported() -> Any:
    """gymnasium, with the grid world registered, or InputError."""
    try:
        import gymnasium
    except ImportError as error:
        raise InputError(f"environments need gymnasium, which is not installed. Try: {INSTALL}") from error
    if GRIDWORLD not in gymnasium.registry:
        gymnasium.register(
            GRIDWORLD, "ptheta.control.gridworld_environment:GridWorldEnvironment", max_episode_steps=100
        )
    return gymnasium


def spaces_of(name: str, env: Any) -> Spaces:
    """The spaces of an environment, or InputError for those that no method here can take."""
    gymnasium = imported()
    seen: Any = getattr(env, "observation_space", None)
    done: Any = getattr(env, "action_space", None)
    if not isinstance(seen, gymnasium.Space) or not isinstance(done, gymnasium.Space):
        raise InputError(f"{name} has no gymnasium spaces; it may be of the old gym: port it to gymnasium 1.x.")
    if not isinstance(seen, gymnasium.spaces.Box):
        raise InputError(f"{name} has observations of {type(seen).__name__}; allowed: Box, or what can be flattened.")
    shape = tuple(seen.shape)
    if len(shape) == 3 and seen.dtype == np.uint8:
        observation = (shape[2], *shape[:2]) if shape[2] in (1, 3, 4) else shape
    else:
        observation = (int(np.prod(shape)),)
    if isinstance(done, gymnasium.spaces.Discrete):
        return Spaces(observation, int(done.n), first=int(done.start))
    if not isinstance(done, gymnasium.spaces.Box) or len(done.shape) != 1:
        raise InputError(f"{name} has actions of {done}; allowed: Discrete, or a Box of one dimension.")
    low, high = (tuple(float(b) for b in bounds) for bounds in (done.low, done.high))
    if np.isinf(low).all() and np.isinf(high).all():
        low, high = (-np.inf,) * len(low), (np.inf,) * len(high)
    elif not (np.isfinite(low).all() and np.isfinite(high).all() and np.less(low, high).all()):
        raise InputError(f"{name} has actions from {low} to {high}; allowed: finite, low below high, or no bounds.")
    return Spaces(observation, None, low, high)


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


class Envs:
    """E copies of an environment in this process. Environment e is seeded by (seed, e, stream)."""

    def __init__(self, environment: Environment, count: int, seed: int, stream: str = "train"):
        self.environment, self.spaces, self.seed, self.stream = environment, environment.spaces, seed, stream
        self.envs = [environment.make() for _ in range(count)]
        self.steps = [getattr(env, "step") for env in self.envs]  # noqa: B009 (bound once)
        self.to_action = actions_for(self.spaces)
        self.shape = tuple(self.envs[0].observation_space.shape)
        self.moved = self.shape != self.spaces.observation and self.spaces.pixels
        self.dtype = np.uint8 if self.spaces.pixels else np.float32
        self.taken = 0  # steps of each
        self.resets = 0
        self.finished: list[tuple[int, float, int]] = []  # environment, return, length; the caller empties it
        self.reset()

    def __len__(self) -> int:
        return len(self.envs)

    def reset(self) -> None:
        """Begin anew, with seeds that no reset before had."""
        self.observations = np.zeros((len(self), *self.spaces.observation), self.dtype)
        for e, env in enumerate(self.envs):
            key = hashlib.blake2b(f"{self.seed}/{self.stream}/{self.resets}/{e}".encode(), digest_size=4).digest()
            self._put(self.observations, e, self._first(env, seed=int.from_bytes(key, "little") >> 1))
        self.returns, self.lengths = np.zeros(len(self)), np.zeros(len(self), np.int64)
        self.resets += 1

    def step(self, actions: np.ndarray, going: np.ndarray | None = None) -> Step:
        """One step of each, or of those that are `going` (E,): the others stay where they are, without reward.

        Raises InputError for what is not finite or of another shape."""
        E = len(self.envs)
        after = np.empty_like(self.observations) if going is None else self.observations.copy()
        rewards, terminated, truncated = np.zeros(E), np.zeros(E, bool), np.zeros(E, bool)
        ended_with: dict[int, np.ndarray] = {}
        done = self.to_action(actions)
        for e in range(E) if going is None else np.flatnonzero(going).tolist():
            said = self.steps[e](done[e])
            try:
                o, rewards[e], over, cut, _ = said
            except ValueError as error:
                raise self._bad(e, f"gives {len(said)} values for a step; allowed: the 5 of gymnasium 1.x") from error
            self._put(after, e, o)
            if over or cut:
                terminated[e], truncated[e] = over, not over
                ended_with[e] = after[e].copy()
        self.returns += rewards
        self.lengths += 1 if going is None else going
        if not np.isfinite(rewards).all():
            raise self._bad(int(np.argmin(np.isfinite(rewards))), "gives a reward that is not finite")
        if self.dtype != np.uint8 and not np.isfinite(after).all():
            flat = np.isfinite(after.reshape(E, -1)).all(1)
            raise self._bad(int(np.argmin(flat)), "gives an observation that is not finite")
        for e in ended_with:
            self.finished.append((e, float(self.returns[e]), int(self.lengths[e])))
            self.returns[e], self.lengths[e] = 0.0, 0
            self._put(after, e, self._first(self.envs[e]))
        self.taken += 1
        self.observations = after
        return Step(after, rewards.astype(np.float32), terminated, truncated, ended_with)

    def _first(self, env: Any, **options: Any) -> Any:
        said = env.reset(**options)
        if not isinstance(said, tuple) or len(said) != 2:
            raise InputError(
                f"{self.environment.name} resets to a {type(said).__name__}, not to (observation, info); it is of the "
                "old gym: port it to gymnasium 1.x."
            )
        return said[0]

    def _put(self, rows: np.ndarray, e: int, o: Any) -> None:
        if getattr(o, "shape", None) != self.shape:
            o = np.asarray(o)
            if o.shape != self.shape:
                raise self._bad(e, f"gives an observation of shape {o.shape}; its space has {self.shape}")
        if self.moved:
            o = np.moveaxis(o, 2, 0)
        rows[e] = o if o.shape == rows.shape[1:] else o.reshape(rows.shape[1:])

    def _bad(self, e: int, what: str) -> InputError:
        return InputError(
            f"{self.environment.name} {what} (copy {e}, its step {self.taken + 1:,}, step {self.lengths[e] + 1:,} of "
            "the episode); mend the environment. Checkpoints before it are kept."
        )

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


def actions_for(spaces: Spaces) -> Callable[[np.ndarray], Any]:
    """Actions of a policy as an environment takes them."""
    if spaces.actions is not None:
        first = spaces.first
        return lambda a: (a + first).tolist() if first else a.tolist()
    if not spaces.bounded:
        return lambda a: a
    low, high = np.array(spaces.low, np.float32), np.array(spaces.high, np.float32)
    middle, half = (low + high) / 2, (high - low) / 2
    return lambda a: np.clip(middle + half * a, low, high)
