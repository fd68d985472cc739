r"""What a method of this room leaves behind: a model that acts.

    a = \arg\max_a π_θ(a | \hat s)       or a draw from it,       \hat s = normalised(s)                          (1)

with observations normalised as they were in training (`normalisers`, eq. (2)). `act` takes what the environment gives
and gives what the environment takes; everything else speaks of a policy's own actions: whole numbers from 0, or vectors
within [−1, 1] (`envs`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptheta.control.flattening import rows
from ptheta.control.normalisers import CLIP, Moments
from ptheta.control.policies import LEAST, Categorical, Gaussian, Given
from ptheta.control.spaces import Spaces, actions_for
from ptheta.data.order import generator
from ptheta.engine.pretrained import Pretrained
from ptheta.nets.mlp import MLP
from ptheta.nets.pixels import Pixels


class Actor(Pretrained):
    """Base of the models. One sets `name`, calls `set_up`, and has `decide` and, if it can, `draw`."""

    environment: str
    spaces: Spaces

    def set_up(self, environment: str, spaces: dict[str, Any], seed: int) -> torch.Generator:
        """The normaliser, and a generator for the weights."""
        self.environment, self.spaces, self.seed = environment, Spaces.from_dict(spaces), seed
        self.moments = Moments(*(() if self.spaces.pixels else self.spaces.observation))
        self._actions = actions_for(self.spaces)
        return generator(seed, 0, f"{self.name} weights")

    def normalised(self, s: Tensor) -> Tensor:
        r"""\hat s; pictures as they are."""
        return s if self.spaces.pixels else self.moments(s)

    def frozen(self) -> Any:
        r"""A function s → \hat s by the moments of now, for a loop that asks often."""
        if self.spaces.pixels or self.moments.count == 0:  # as `normalised` would do it then
            return lambda s: s
        mean, rate = self.moments.scale()
        return lambda s: ((s - mean) * rate).clamp_(-CLIP, CLIP)

    def decide(self, s: Tensor) -> Tensor:
        r"""The best action for normalised observations."""
        raise NotImplementedError

    def draw(self, s: Tensor, g: torch.Generator) -> Tensor:
        r"""An action drawn from the policy; of a deterministic one, the action itself."""
        return self.decide(s)

    @torch.no_grad()
    def act(self, observation: Any, deterministic: bool = True, seed: int = 0) -> Any:
        """Eq. (1): the environment's action for an observation, or an array of them for rows (b, …).

        observation: As the environment gives it, or as methods of this room see it (`flattening`).
        seed: Of the draw: another for each step.
        Raises InputError for another shape, values that are not finite, and pictures that are not bytes."""
        given, one = rows(self.spaces.given, self.spaces.observation, observation)
        device = self.moments.mean.device
        s = self.normalised(torch.from_numpy(given).to(device))
        a = self.decide(s) if deterministic else self.draw(s, generator(seed, 0, "act", device))
        done = self._actions(a.cpu().numpy())
        return done[0] if one else np.asarray(done)


def body(
    g: torch.Generator, spaces: Spaces, hidden: Any, outputs: int, activation: Any, last_gain: float, more: int = 0
) -> nn.Module:
    """A network from observations, and `more` numbers beside them, to outputs: an MLP, after `Pixels` for pictures."""
    if not spaces.pixels:
        return MLP(g, spaces.observation[0] + more, tuple(hidden), outputs, activation, last_gain)
    read = Pixels(g, spaces.observation)
    return nn.Sequential(read, MLP(g, len(read.b), tuple(hidden), outputs, activation, last_gain))


class ActorCritic(Actor):
    r"""π_θ(a | s), and V_w(s) with parameters of its own."""

    least = LEAST
    """What σ of actions that are vectors is above."""

    def __init__(
        self, environment: str, spaces: dict[str, Any], hidden: Any = (64, 64), activation: str = "tanh",
        sigma: float = 0.6, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "environment": environment, "spaces": spaces, "hidden": list(hidden), "activation": activation,
            "sigma": sigma, "seed": seed,
        }  # fmt: skip
        g = self.set_up(environment, spaces, seed)
        outputs = self.spaces.actions or self.spaces.components
        net = body(g, self.spaces, hidden, outputs, activation, 0.01)
        self.policy = Categorical(net) if self.spaces.actions else Gaussian(net, outputs, sigma, self.least)
        self.value = body(g, self.spaces, hidden, 1, activation, 1.0)

    def decide(self, s: Tensor) -> Tensor:
        return self.policy.best(self.policy.given(s))

    def draw(self, s: Tensor, g: torch.Generator) -> Tensor:
        return self.policy.draw(self.policy.given(s), g)

    def V(self, s: Tensor) -> Float[Tensor, " b"]:
        """Of normalised observations."""
        return self.value(s)[..., 0]

    def forward(self, s: Tensor) -> tuple[Given, Float[Tensor, " b"]]:
        """What the policy and the critic say of normalised observations (b, …)."""
        return self.policy.given(s), self.V(s)

    @torch.no_grad()
    def log_prob(self, observations: Float[Tensor, "b n"], actions: Tensor) -> Float[Tensor, " b"]:
        """log π(a | s), of the policy's own actions."""
        return self.policy.log_prob(self.policy.given(self.normalised(observations)), actions)
