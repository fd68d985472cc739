r"""Learning from a replay: what every method does that learns more than once from what was lived through.

A step of E environments goes into the replay (`replay`), and then the method learns from `updates` minibatches of it.
Until `warmup` transitions are there, actions are drawn at random and nothing is learned. --steps counts steps of all
environments, the warm-up included.

Randomness is keyed by (seed, iteration); the replay and the environments are part of a checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptheta.control.envs import Environment, Envs
from ptheta.control.learning import Control
from ptheta.control.policies import Deterministic
from ptheta.control.replay import Replay, Transitions
from ptheta.data.order import generator
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Config
from ptheta.nets.mlp import MLP, Pass, through
from ptheta.nets.optimizers import vector


@dataclass(frozen=True)
class OffPolicyConfig(Config):
    """Hyperparameters of the experience."""

    envs: Annotated[int, Between(1, 4096)] = 1
    """E, environments that are stepped together."""
    gamma: Annotated[float, Between(0, 1)] = 0.99
    """γ."""
    replay: Annotated[int, Between(1)] = 1_000_000
    """N, transitions that are kept."""
    warmup: Annotated[int, Between(1)] = 1_000
    """Transitions by random actions before anything is learned."""
    updates: Annotated[int, Between(0)] = 1
    """Minibatches after each step of the environments."""
    batch_size: Annotated[int, Between(1)] = 256
    """Transitions in a minibatch."""


class OffPolicy(Control):
    """A subclass builds its model in `build`, and `optimizers`, each of one vector (`nets.optimizers`) and by the name
    of the part of the model that it is for; it has `explore` and `learn`."""

    def __init__(self, config: Any, data: Environment, seed: int, hardware: Hardware, steps: int):
        self.begin(config, data, seed, hardware, steps)
        self.build()
        self.targets: nn.Module = copy.deepcopy(self.model).requires_grad_(False)
        self.pairs = (
            [vector(getattr(self.targets, name)) for name in self.optimizers],
            [of.param_groups[0]["params"][0] for of in self.optimizers.values()],
        )
        self.envs = Envs(data, config.envs, seed)
        self.replay = Replay(min(config.replay, max(steps, config.warmup) + config.envs), data.spaces, hardware.device)

    def build(self) -> None:
        """`self.model` on its device, and `self.optimizers`. Raises UsageError for spaces that it cannot take."""
        raise NotImplementedError

    def explore(self, s: Tensor, g: torch.Generator) -> Tensor:
        """Actions for raw observations (E, …), with noise."""
        raise NotImplementedError

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        """The paper's rule, once; 0-d tensors, `loss` among them."""
        raise NotImplementedError

    # ------------------------------------------------------------ the loop

    def batches(self, start: int, rank: int, world: int) -> Iterator[int]:
        """How many transitions have been added to the replay."""
        while True:
            added = self.experience()
            while self.replay.size < min(self.config.warmup, self.replay.capacity):
                added += self.experience()
            yield added

    @torch.no_grad()
    def experience(self) -> int:
        """One step of each environment."""
        g = generator(self.seed, self.envs.taken, "actions", self.hardware.device)
        s = torch.from_numpy(self.envs.observations).to(self.hardware.device)
        if self.replay.size < self.config.warmup:
            a = self.at_random(g)
        else:
            a = self.explore(s, g)
        step = self.envs.step(a.cpu().numpy())
        after = step.observations
        if step.ended_with:
            after = after.copy()
            for e, last in step.ended_with.items():
                after[e] = last
            self.finished([(total, length) for _, total, length in self.envs.finished])
            self.envs.finished.clear()
        device = self.hardware.device
        rows = (torch.from_numpy(x).to(device) for x in (step.rewards, np.ascontiguousarray(after), step.terminated))
        self.replay.add(Transitions(s, a, *rows))
        self.ended(step.ended_with)
        return len(self.envs)

    def ended(self, environments: Any) -> None:
        """A chance to forget what belonged to these episodes."""

    def at_random(self, g: torch.Generator) -> Tensor:
        """Actions (E,) or (E, m), all alike."""
        spaces, E, device = self.data.spaces, len(self.envs), self.hardware.device
        if spaces.actions:
            return torch.randint(spaces.actions, (E,), generator=g, device=device)
        return 2 * torch.rand(E, spaces.components, generator=g, device=device) - 1

    def update(self, batch: int) -> dict[str, Tensor]:
        """`updates` times `learn`; the mean of what it tells."""
        g = self.chance()
        return self.told(
            batch, [self.learn(self.replay.draw(self.config.batch_size, g)) for _ in range(self.config.updates)]
        )

    def chance(self) -> torch.Generator:
        """What minibatches of this update are drawn by."""
        return generator(self.seed, self.step, "replay", self.hardware.device)

    def told(self, batch: int, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """An update is done: what is logged of it."""
        self.step += 1
        self.taken += batch
        means = found[0] if len(found) == 1 else mean_of(found)
        none = {} if found else {"loss": torch.zeros((), device=self.hardware.device)}
        return {**none, **means, **self.finished([]), "units": torch.tensor(batch)}

    def start_from(self, model: Any) -> None:
        super().start_from(model)
        self.targets.load_state_dict(self.model.state_dict())

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "targets": self.targets.state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.targets.load_state_dict(state["targets"])
        self.replay.load_state_dict(state["replay"])


def mean_of(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By name."""
    return {name: torch.stack([one[name] for one in found]).mean() for name in (found[0] if found else ())}


@torch.no_grad()
def follow(targets: Sequence[Tensor], parameters: Sequence[Tensor], tau: float) -> None:
    """θ' ← θ' + τ (θ − θ')."""
    torch._foreach_lerp_(list(targets), list(parameters), tau)


def uphill(policy: Deterministic, sloping: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], s: Tensor) -> Tensor:
    r"""The deterministic policy gradient (`ddpg`, eq. (1)), negative as optimisers want it, into the gradients of the
    policy's parameters and of no others: -\frac{1}{b} \sum ∇_θ μ_θ(s) ∇_a Q(s, a) |_{a = μ_θ(s)}. Returns the mean of
    Q.

    sloping: Of s and a, Q(s, a) (b,) and ∇_a Q(s, a) (b, m)."""
    actor = through(policy.net, s)
    Q, slope = sloping(s, policy.within(actor.y))
    actor.descend(policy.slope(actor.y) * slope * (-1 / len(s)))
    return Q.mean()


def sloping(critic: MLP, s: Tensor, a: Tensor) -> tuple[Float[Tensor, " b"], Float[Tensor, "b m"]]:
    """Q(s, a) and ∇_a Q(s, a) of a network of s and a together."""
    done = Pass(*critic.layers, critic.activation, torch.cat([s, a], 1))
    return done.y[:, 0], done.pull_to_x(torch.ones_like(done.y), slice(-a.shape[1], None))
