r"""Experience that is learned from more than once: the last N transitions, drawn alike.

L.-J. Lin, "Self-Improving Reactive Agents Based on Reinforcement Learning, Planning and Teaching", Machine Learning 8,
1992.

A transition is (s, a, r, s', terminated): of a step that was truncated, s' is what the episode ended with, and it is
not terminated, so that its value counts (`envs`).

| symbol | shape | here |
|---|---|---|
| s, s' | (N, …) | float32, or bytes of pictures: as the environment gave them |
| a | (N,) or (N, m) | whole numbers, or vectors within [−1, 1] |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.control.spaces import Spaces
from ptheta.engine.errors import UsageError

FIELDS = ("s", "a", "r", "after", "terminated")


@dataclass
class Transitions:
    """b of them."""

    s: Tensor
    a: Tensor
    r: Float[Tensor, " b"]
    after: Tensor
    """s'."""
    terminated: Bool[Tensor, " b"]


class Replay:
    """The last N transitions, in tensors that are there from the beginning. Raises UsageError for N < 1."""

    def __init__(self, capacity: int, spaces: Spaces, device: torch.device):
        if capacity < 1:
            raise UsageError(f"a replay of {capacity} transitions is impossible; allowed: at least 1.")
        seen = torch.uint8 if spaces.pixels else torch.float32
        done = ((), torch.int64) if spaces.actions else ((spaces.components,), torch.float32)
        self.capacity, self.size, self.at = capacity, 0, 0
        self.s = torch.zeros(capacity, *spaces.observation, dtype=seen, device=device)
        self.after = torch.zeros_like(self.s)
        self.a = torch.zeros(capacity, *done[0], dtype=done[1], device=device)
        self.r = torch.zeros(capacity, device=device)
        self.terminated = torch.zeros(capacity, dtype=torch.bool, device=device)

    def add(self, new: Transitions) -> None:
        """The oldest make room. Raises UsageError for more than fit."""
        k = len(new.r)
        if k > self.capacity:
            raise UsageError(f"{k} transitions at once do not fit a replay of {self.capacity}; make it larger.")
        first = min(k, self.capacity - self.at)
        for name in FIELDS:
            kept, x = getattr(self, name), getattr(new, name)
            kept[self.at : self.at + first] = x[:first]
            if first < k:
                kept[: k - first] = x[first:]
        self.at = (self.at + k) % self.capacity
        self.size = min(self.size + k, self.capacity)

    def draw(self, count: int, g: torch.Generator) -> Transitions:
        """So many, each drawn from all, with return."""
        rows = torch.randint(self.size, (count,), generator=g, device=self.r.device)
        return Transitions(*(getattr(self, name).index_select(0, rows) for name in FIELDS))

    def state_dict(self) -> dict[str, Any]:
        """What is filled."""
        return {"at": self.at, "size": self.size, **{name: getattr(self, name)[: self.size] for name in FIELDS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UsageError for a replay that was longer."""
        if state["size"] > self.capacity:
            raise UsageError(f"{state['size']} transitions do not fit a replay of {self.capacity}; make it larger.")
        self.at, self.size = state["at"], state["size"]
        for name in FIELDS:
            getattr(self, name)[: self.size] = state[name].to(self.r.device)
