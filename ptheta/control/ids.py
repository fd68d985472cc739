r"""Environments by their gymnasium id: made, or refused with the nearest that there is and the way to get it.

M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

An id is NAME-vVERSION, NAMESPACE/NAME-vVERSION, or MODULE:ID of an environment that MODULE registers when it is
imported; without a version it is the newest.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import warnings
from typing import Any

from ptheta.engine.errors import InputError, UsageError

INSTALL = "pip install 'ptheta[control]'"
GRIDWORLD = "ptheta/GridWorld-v0"
COVERED = ("gymnasium.envs.classic_control", "gymnasium.envs.mujoco", "ptheta.")  # by what INSTALL installs
NAMED = ("CartPole", "Pendulum", "Acrobot", "MountainCar", "HalfCheetah", "Hopper", "Walker2d", "Swimmer")


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


def made(spec: str, render_mode: str | None = None) -> Any:
    """The environment of an id. Raises UsageError if there is none, InputError if it cannot be made."""
    gymnasium = imported()
    quieten(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gymnasium.make(spec, render_mode=render_mode, disable_env_checker=True)
    except Exception as error:  # what an environment's own code raises, too
        entry, missing = _entry(spec), isinstance(error, gymnasium.error.DependencyNotInstalled | ImportError)
        if isinstance(error, gymnasium.error.Error) and not missing and entry is None:
            raise _unknown(spec, isinstance(error, gymnasium.error.NamespaceNotFound)) from error
        newest = _newest(entry)
        fix = ""
        if newest not in (None, getattr(entry, "id", None)):
            fix = f" Try: {newest}"
        elif missing and str(getattr(entry, "entry_point", "")).startswith(COVERED):
            fix = f" Try: {INSTALL}"
        raise InputError(f"{shown(spec)} cannot be made: {told(error)}.{fix}") from error


def told(error: Exception) -> str:
    """What an exception says, in one line, and what kind it is where the words alone may not tell."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= 300 else text[:299] + "…"
    plain = isinstance(error, ImportError) or type(error).__module__.startswith("gymnasium.")
    return text if plain and text else f"{type(error).__name__}{': ' if text else ''}{text}"


def shown(text: str) -> str:
    """What a user called an environment, in one line of a sensible length."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def quieten(spec: Any) -> None:
    """Of MuJoCo: that a model's file is of an older style, which the engine would print for every copy and write into
    a file in the working directory. Whatever else it warns of goes to stderr, once."""
    entry = _entry(spec) if isinstance(spec, str) else None
    if (
        entry
        and str(entry.entry_point).startswith(("gymnasium.envs.", "ptheta."))
        and "mujoco" not in str(entry.entry_point)
    ):
        return
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except Exception:  # not there, or MUJOCO_GL names what is not: `made` will say so, if it is needed
        return
    if getattr(mujoco, "get_mju_user_warning", lambda: None)() is None:
        mujoco.set_mju_user_warning(_warned)


_said: set[str] = set()


def _warned(message: Any) -> None:
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    kind = text.split(" at ")[0].split(" in ")[0]  # what follows is a number of this copy
    if "deprecated" in text or kind in _said:
        return
    _said.add(kind)
    print(f"ptheta: MuJoCo warns, and may again: {' '.join(text.split())}", file=sys.stderr)


def _entry(spec: str) -> Any:
    """What is registered for an id; of one without a version, the newest."""
    name = spec.split(":")[-1]
    entries = imported().registry
    if name in entries:
        return entries[name]
    versions = [entry for entry in entries.values() if entry.id.rpartition("-v")[0] == name]
    return max(versions, key=lambda entry: entry.version or 0, default=None)


def _newest(entry: Any) -> str | None:
    """The id of an entry's newest version."""
    if entry is None:
        return None
    same = [e for e in imported().registry.values() if (e.namespace, e.name) == (entry.namespace, entry.name)]
    return max(same, key=lambda e: e.version or 0).id


def _unknown(spec: str, from_elsewhere: bool) -> UsageError:
    entries = imported().registry
    near = difflib.get_close_matches(spec.split(":")[-1], entries, n=1)
    hint = f" Did you mean {_newest(entries[near[0]])!r}?" if near else ""
    if from_elsewhere and not near:
        hint = " One that another package registers is MODULE:ID, as ale_py:ALE/Pong-v5."
    some = [_newest(entry) for entry in map(_entry, NAMED)]
    known = ", ".join([*map(str, some), GRIDWORLD])
    return UsageError(f"environment {shown(spec)!r} is unknown; allowed: any id of gymnasium, as {known}.{hint}")
