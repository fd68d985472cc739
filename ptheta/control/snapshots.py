r"""The whole state of an environment, to go on from bit for bit: physics, generator, time limit.

E. Todorov, T. Erez and Y. Tassa, "MuJoCo: A Physics Engine for Model-Based Control", IROS 2012.

Of MuJoCo, `mjSTATE_INTEGRATION` is what a step of the physics starts from (positions, velocities, activations,
controls, and the accelerations from which the solver of contacts starts). Rewards are computed from more than that: the
places of bodies as the last step left them, which are those before its integration. So all arrays of `MjData` are kept,
and put back over a state that the engine has computed anew. Of classic control, `state` is all there is.

An environment of any other kind has a state that only it knows: `savable` is false.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np
import torch

CLASSIC = "gymnasium.envs.classic_control."
OURS = "ptheta.control."
PLAIN = ("state", "steps_beyond_terminated", "last_u")  # of classic control; the last two may be None
WRAPPERS = {"TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "FlattenObservation"}


def savable(env: Any) -> bool:
    """Whether the state of an environment is known here."""
    while hasattr(env, "env"):
        if type(env).__name__ not in WRAPPERS or not type(env).__module__.startswith("gymnasium.wrappers."):
            return False  # a class of somebody else may remember anything
        env = env.env
    return _is_mujoco(env) or type(env).__module__.startswith((CLASSIC, OURS))


def _is_mujoco(env: Any) -> bool:
    """One of gymnasium's own: a class of somebody else may remember more than its physics."""
    return type(env).__module__.startswith("gymnasium.envs.mujoco.") and hasattr(env, "data")


def _arrays(data: Any) -> dict[str, np.ndarray]:
    """Those of MjData that hold numbers, by name."""
    found = {}
    for name in dir(data):
        if name.startswith("_"):
            continue
        try:
            value = getattr(data, name)
        except Exception:  # some are only there with an option of the model
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
            found[name] = value
    return found


def of_environment(env: Any) -> dict[str, Any]:
    """Tensors and JSON values."""
    state: dict[str, Any] = {"elapsed": None}
    while hasattr(env, "env"):
        if type(env).__name__ == "TimeLimit":
            state["elapsed"] = env._elapsed_steps
        env = env.env
    state["generator"] = copy.deepcopy(env.np_random.bit_generator.state)
    if not _is_mujoco(env):
        for name in PLAIN:
            value = getattr(env, name, None)
            state[name] = torch.as_tensor(np.array(value)) if isinstance(value, np.ndarray | tuple | list) else value
            if isinstance(value, np.generic):
                state[name] = value.item()
        return state
    mujoco: Any = importlib.import_module("mujoco")

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    physics = np.zeros(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, physics, kind)
    arrays = {name: torch.from_numpy(value.copy()) for name, value in _arrays(env.data).items()}
    return {**state, "physics": torch.from_numpy(physics), "arrays": arrays}


def restore(env: Any, state: dict[str, Any]) -> None:
    """The inverse of `of_environment`, into a copy of the same environment."""
    env.reset()  # so that wrappers and renderers are ready
    while hasattr(env, "env"):
        if type(env).__name__ == "TimeLimit":
            env._elapsed_steps = state["elapsed"]
        env = env.env
    env.np_random.bit_generator.state = state["generator"]
    if not _is_mujoco(env):
        for name in PLAIN:
            value = state[name]
            if hasattr(env, name):
                setattr(env, name, value.numpy().copy() if isinstance(value, torch.Tensor) else value)
        return
    mujoco: Any = importlib.import_module("mujoco")

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    physics = state["physics"].numpy()
    mujoco.mj_setState(env.model, env.data, physics, kind)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, physics, kind)
    now = _arrays(env.data)
    for name, value in state["arrays"].items():
        if name in now and now[name].shape == tuple(value.shape) and now[name].flags.writeable:
            now[name][...] = value.numpy()
