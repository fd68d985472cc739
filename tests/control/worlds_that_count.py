"""Environments whose pictures tell their step, and policies for them."""

from pathlib import Path

import gymnasium
import numpy as np
import torch

from ptheta.control.a2c import Model
from ptheta.control.envs import Environment

CODE = (200, 40, 40)  # of the first picture; each step is 16 brighter in green


class Counting(gymnasium.Env):
    """Two for each step, and an episode of 4 to 12 of them; the picture tells the step. The last of them is seen once,
    as the next episode begins with 0 again."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    shape = (60, 90, 3)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.length = 0, int(self.np_random.integers(4, 13))
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.full(4, self.at, np.float32), 2.0, self.at == self.length, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.full(self.shape, (CODE[0], min(255, CODE[1] + 16 * self.at), CODE[2]), np.uint8)


class Wide(Counting):
    """With a picture that is too large for a film."""

    shape = (900, 1805, 3)


class Endless(Counting):
    """Without an end of its own."""

    def reset(self, *, seed=None, options=None):
        said = super().reset(seed=seed)
        self.length = -1
        return said


class Blind(Counting):
    """Without any way of drawing it."""

    metadata = {"render_modes": ["ansi"]}


class Broken(Counting):
    """That lacks what it draws with."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")


class Strange(Counting):
    """That draws what is no picture."""

    def render(self):
        return np.zeros((4, 4))


class Strong(gymnasium.Env):
    """A pendulum's spaces, but for twice the torque."""

    def __init__(self, render_mode: str | None = None):
        pendulum = gymnasium.make("Pendulum-v1").unwrapped
        self.observation_space = pendulum.observation_space
        self.action_space = gymnasium.spaces.Box(-4.0, 4.0, (1,), np.float32)


KINDS = (Counting, Wide, Endless, Blind, Broken, Strange, Strong)


def saved(folder: Path, environment: str, weight: tuple[float, ...] | None = None) -> str:
    """An untrained linear policy as a model folder; of two actions, it prefers the second where weight · s > 0."""
    model = Model(environment, Environment(environment).spaces.to_dict(), hidden=(), seed=3)
    if weight is not None:
        with torch.no_grad():
            matrix, bias = model.policy.net.parameters()
            bias.zero_(), matrix.zero_()
            matrix[1] = torch.tensor(weight)
    model.save_pretrained(folder, about={"data": environment})
    return str(folder)
