r"""The grid world of `gridworld` as an environment of gymnasium: one walker, who sees where he is.

It never terminates, as in the book; gymnasium's time limit cuts an episode after 100 steps. States are numbered in
rows; the first is drawn among all cells, or is the one that `start` names.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from ptheta.control.gridworld import ACTIONS, GridWorld, book
from ptheta.engine.errors import UsageError


class GridWorldEnvironment(gymnasium.Env):
    """world: default the book's 5 × 5. start: row and column of the first state (default: drawn).

    Raises UsageError for a start outside of the world."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self, world: GridWorld | None = None, start: tuple[int, int] | None = None, render_mode: str | None = None
    ):
        self.world, self.start, self.render_mode = world or book(), start, render_mode
        if start is not None and not (0 <= start[0] < self.world.rows and 0 <= start[1] < self.world.columns):
            last = (self.world.rows - 1, self.world.columns - 1)
            raise UsageError(f"start = {start} is outside of the world; allowed: (0, 0) to {last}.")
        self.observation_space = gymnasium.spaces.Discrete(self.world.states)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        if self.start is None:
            self.state = int(self.np_random.integers(self.world.states))
        else:
            self.state = self.start[0] * self.world.columns + self.start[1]
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if not 0 <= action < len(ACTIONS):
            raise UsageError(f"action {action} is impossible; allowed: 0 to {len(ACTIONS) - 1}: {', '.join(ACTIONS)}.")
        self.state, reward = self.world.step(self.state, int(action))
        return self.state, reward, False, False, {}

    def render(self) -> np.ndarray:
        """(H, W, 3) bytes: forbidden cells orange, the target blue, the walker black."""
        side = max(4, 200 // max(self.world.rows, self.world.columns))
        picture = np.full((self.world.rows * side, self.world.columns * side, 3), 255, np.uint8)
        for cells, colour in ((self.world.forbidden, (245, 166, 60)), ((self.world.target,), (80, 170, 230))):
            for row, column in cells:
                picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = colour
        picture[::side], picture[:, ::side] = 160, 160
        row, column = divmod(self.state, self.world.columns)
        r = side // 4
        picture[row * side + r : (row + 1) * side - r, column * side + r : (column + 1) * side - r] = 20
        return picture
