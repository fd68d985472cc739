"""Environments whose every answer is known beforehand."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

Answer = tuple[float, bool, bool]  # reward, terminated, truncated


class Scripted(gymnasium.Env):
    """Answers its steps by a script, again from the start after a reset, and sees (episodes before, steps in this one).

    `done` holds the actions that it was given, `seeds` what it was reset with.
    """

    def __init__(self, script: list[Answer], actions: Space | None = None):
        self.script = script
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = actions or Discrete(4)
        self.episode, self.at = -1, 0
        self.done: list[Any] = []
        self.seeds: list[int | None] = []

    def seen(self) -> np.ndarray:
        return np.array([self.episode, self.at], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.at = self.episode + 1, 0
        return self.seen(), {}

    def step(self, action: Any):
        self.done.append(action)
        reward, terminated, truncated = self.script[self.at]
        self.at += 1
        return self.seen(), reward, terminated, truncated, {}


class Showing(gymnasium.Env):
    """Shows samples of a space; `shown` are those, one after the other. Never ends."""

    def __init__(self, space: Space, actions: Space | None = None):
        self.observation_space, self.action_space = space, actions or Discrete(2)
        self.shown: list[Any] = []

    def look(self) -> Any:
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.look(), {}

    def step(self, action: Any):
        return self.look(), 0.0, False, False, {}


class Dot(gymnasium.Env):
    """A picture of bytes (16, 16, 3) with a white dot at the left or at the right; to name its side pays 1. It sees
    eight dots an episode."""

    def __init__(self):
        self.observation_space = Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = Discrete(2)

    def look(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        picture = np.zeros((16, 16, 3), np.uint8)
        row, column = self.np_random.integers(14), self.np_random.integers(6) + 8 * self.side
        picture[row : row + 3, column : column + 3] = 255
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.at = 0
        return self.look(), {}

    def step(self, action: Any):
        reward, self.at = float(action == self.side), self.at + 1
        return self.look(), reward, self.at == 8, False, {}
