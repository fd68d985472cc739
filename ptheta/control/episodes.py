r"""Judging a policy: whole episodes, deterministic, of seeds that training never sees.

    \hat J = \frac{1}{N} \sum_{i=1}^N \sum_t r_{i,t},      standard error = s / \sqrt{N}                          (1)

without discount and with the environment's own rewards. Episode i of a split begins with a seed of (i, split) alone, so
that two policies are judged on the same beginnings, however many episodes are looked at.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ptheta.control.actors import Actor
from ptheta.control.envs import Environment, Envs
from ptheta.engine.method import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AT_ONCE = 16


@torch.inference_mode()
def judged(model: Actor, environment: Environment, split: str, episodes: int) -> tuple[Tensor, Tensor]:
    """Returns and lengths of N episodes, (N,) each."""
    device = model.moments.mean.device
    returns, lengths = torch.zeros(episodes), torch.zeros(episodes)
    normalised = model.frozen()
    for first in range(0, episodes, AT_ONCE):
        with contextlib.closing(Envs(environment, min(AT_ONCE, episodes - first), first, split)) as envs:
            going = np.ones(len(envs), bool)
            while going.any():
                s = normalised(torch.from_numpy(envs.observations).to(device))
                step = envs.step(model.decide(s).cpu().numpy(), going)
                for e in step.ended_with:
                    going[e] = False
            for e, total, length in envs.finished:
                returns[first + e], lengths[first + e] = total, length
    return returns, lengths


def figures(returns: Tensor, lengths: Tensor) -> dict[str, Estimate]:
    """Eq. (1) as `return_mean`, and `length_mean`."""
    return {"return_mean": Estimate.of(returns), "length_mean": Estimate.of(lengths)}


@torch.inference_mode()
def trace(model: Actor, environment: Environment, split: str = "valid", limit: int = 1000) -> dict[str, Any]:
    """What was observed, done and paid in one episode."""
    said: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
    normalised, device = model.frozen(), model.moments.mean.device
    with contextlib.closing(Envs(environment, 1, 0, split)) as envs:
        for _ in range(limit):
            a = model.decide(normalised(torch.from_numpy(envs.observations).to(device))).cpu().numpy()
            said["observations"].append(envs.observations[0].reshape(-1)[:8])
            step = envs.step(a)
            said["actions"].append(np.atleast_1d(a[0])[:8])
            said["rewards"].append(step.rewards[0])
            if step.ended_with:
                break
    return {name: np.array(values) for name, values in said.items()}


def drawn(model: Actor, environment: Environment) -> Figure:
    """One episode: observations (the first eight numbers), actions, and the return so far."""
    from matplotlib.figure import Figure

    said = trace(model, environment)
    figure = Figure(figsize=(8, 6))
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].plot(said["observations"], linewidth=1)
    axes[0].set_ylabel("observation")
    kind = "steps-post" if model.spaces.actions else "default"
    axes[1].plot(said["actions"], linewidth=1, drawstyle=kind)
    axes[1].set_ylabel("action")
    total = said["rewards"].cumsum()
    axes[2].plot(total, linewidth=1.5, color="tab:green")
    axes[2].set_ylabel("return so far")
    axes[2].set_xlabel("step")
    last = total[-1] if len(total) else math.nan
    axes[0].set_title(f"{model.name} on {environment.name}: an episode of {len(total)} steps, return {last:.4g}")
    figure.tight_layout()
    return figure
