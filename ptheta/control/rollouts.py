r"""Experience: T steps of E environments under one policy, or one whole episode of each.

With ended episodes' last observations kept apart (`envs`), the value that follows step t is

    V'_t = V(s_{t+1})  where the episode goes on,    V(s'_t)  where it was truncated,    0  where terminated       (1)

A rollout holds observations as they came, so that a normaliser may change between rollouts and never within one.

| symbol | shape | here |
|---|---|---|
| s | (T + 1, E, …) | the last row is what followed |
| a | (T, E) or (T, E, m) | as drawn: not clipped |
| alive | (T, E) | of whole episodes: whether the episode was still going on; elsewhere all true |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.control.envs import Envs
from ptheta.control.processes import Spread
from ptheta.control.returns import Steps

Draw = Callable[[Tensor], Tensor]  # from observations (E, …) to actions


@dataclass
class Rollout:
    """See the module's table."""

    observations: Tensor
    actions: Tensor
    rewards: Float[Tensor, "T E"]
    terminated: Bool[Tensor, "T E"]
    truncated: Bool[Tensor, "T E"]
    cut: list[tuple[int, int]]
    """(t, e) of the steps at which an episode was truncated, and"""
    cut_with: Tensor
    """(k, …): s'_t of each."""
    alive: Bool[Tensor, "T E"]
    finished: list[tuple[float, int]]
    """Return and length of the episodes that ended."""

    @property
    def taken(self) -> int:
        """Steps of all environments."""
        return int(self.alive.sum())

    def to(self, device: torch.device) -> Rollout:
        if device.type == "cpu":
            return self
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "cut_with", "alive"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def steps(self, values: Float[Tensor, "T1 E"], cut_values: Float[Tensor, " k"], rewards: Tensor) -> Steps:
        """What `returns` computes with: rewards (normalised or not), and eq. (1) from V of s and of `cut_with`."""
        after = values[1:].clone()
        if self.cut:
            t, e = torch.tensor(self.cut, device=after.device).T
            after[t, e] = cut_values
        return Steps(rewards, after, self.terminated, self.truncated)


def collect(envs: Envs | Spread, T: int, draw: Draw, device: torch.device) -> Rollout:
    """T steps of each environment."""
    E = len(envs)
    s = np.empty((T + 1, *envs.observations.shape), envs.dtype)
    rewards, terminated, truncated = np.empty((T, E), np.float32), np.empty((T, E), bool), np.empty((T, E), bool)
    actions, cut, cut_with = [], [], []
    with torch.inference_mode():
        for t in range(T):
            s[t] = envs.observations
            a = draw(_given(envs.observations, device)).cpu().numpy()
            step = envs.step(a)
            actions.append(a)
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            for e, last in step.ended_with.items():
                if step.truncated[e]:
                    cut.append((t, e))
                    cut_with.append(last)
    s[T] = envs.observations
    return _rollout(envs, s, np.stack(actions), rewards, terminated, truncated, cut, cut_with, None).to(device)


def collect_episodes(envs: Envs | Spread, draw: Draw, device: torch.device) -> Rollout:
    """One episode of each environment, from its beginning: none is left out for being long."""
    E = len(envs)
    if envs.lengths.any():  # amid an episode
        envs.reset()
    s, rewards, terminated, truncated, actions, alive, cut, cut_with = [], [], [], [], [], [], [], []
    going = np.ones(E, bool)
    with torch.inference_mode():
        while going.any():
            s.append(envs.observations)
            a = draw(_given(envs.observations, device)).cpu().numpy()
            step = envs.step(a, going)
            actions.append(a)
            alive.append(going.copy())
            rewards.append(step.rewards)
            terminated.append(step.terminated)
            truncated.append(step.truncated)
            for e, last in step.ended_with.items():
                if step.truncated[e]:
                    cut.append((len(s) - 1, e))
                    cut_with.append(last)
                going[e] = False
    s.append(envs.observations)
    return _rollout(
        envs, np.stack(s), np.stack(actions), np.stack(rewards), np.stack(terminated), np.stack(truncated), cut,
        cut_with, np.stack(alive),
    ).to(device)  # fmt: skip


def _given(observations: np.ndarray, device: torch.device) -> Tensor:
    s = torch.from_numpy(observations)
    return s if device.type == "cpu" else s.to(device)


def _rollout(
    envs: Envs | Spread, s: np.ndarray, a: np.ndarray, rewards: np.ndarray, terminated: np.ndarray,
    truncated: np.ndarray, cut: Any, cut_with: Any, alive: np.ndarray | None,
) -> Rollout:  # fmt: skip
    finished = [(total, length) for _, total, length in envs.finished]
    envs.finished.clear()
    last = np.stack(cut_with) if cut else np.empty((0, *s.shape[2:]), s.dtype)
    alive = np.ones_like(terminated) if alive is None else alive
    of = torch.from_numpy
    return Rollout(of(s), of(a), of(rewards), of(terminated), of(truncated), cut, of(last), of(alive), finished)
