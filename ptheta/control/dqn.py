r"""Double DQN: the value of each action, learned from a replay; the policy is whichever is largest.

V. Mnih et al., "Human-Level Control through Deep Reinforcement Learning", Nature 518, 2015.
H. van Hasselt, A. Guez and D. Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.

Here for contrast: policy methods are defined against it. With slow weights w',

    y = r + γ (1 − terminated) Q_{w'}(s', \arg\max_b Q_w(s', b))                                                 (1)

    L(w) = \frac{1}{2b} \sum ( Q_w(s, a) − y )^2                                                                 (2)

where one network chooses the action and the other judges it: the maximum of noisy values is too large on average. One
explores with a random action in a share ε of steps, which falls linearly from 1 to `epsilon` over the first `explore`
share of the run, and w' ← w' + τ (w − w') after each update.

| symbol | shape | here |
|---|---|---|
| Q(s, ·) | (b, A) | an MLP, after convolutions for pictures |
| a, y | (b,) | |

Differs from the papers: w' follows slowly in place of a copy every 10,000 steps; Adam; observations are normalised, by
moments that go on moving; errors are not cut to [−1, 1]. What cuts them fits a median in place of a mean: where states
look alike of which a few are the last, it does not see those, and values grow beyond any sum of rewards.

Expected: `ptheta train dqn --data CartPole-v1` reaches 500 within 100,000 steps in ten seeds of ten, and may fall
again; of the ten models that were kept, each has 500 in each of 100 test episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptheta.control.actors import Actor, body
from ptheta.control.learning import clipped
from ptheta.control.offpolicy import OffPolicy, OffPolicyConfig, follow
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.mlp import through
from ptheta.nets.optimizers import vector


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Hyperparameters of eqs. (1) and (2) and of Adam."""

    envs: Annotated[int, Between(1, 4096)] = 4
    """E, environments that are stepped together."""
    replay: Annotated[int, Between(1)] = 100_000
    """N, transitions that are kept."""
    updates: Annotated[int, Between(0)] = 2
    """Minibatches after each step of the environments."""
    batch_size: Annotated[int, Between(1)] = 64
    """Transitions in a minibatch."""
    hidden: Annotated[tuple[int, ...], Between(1, 65536)] = (128, 128)
    """Units of the hidden layers."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size at first; it falls to zero by the last step."""
    tau: Annotated[float, Between(0, 1, open=True)] = 0.01
    """τ."""
    epsilon: Annotated[float, Between(0, 1)] = 0.05
    """ε at last."""
    explore: Annotated[float, Between(0, 1, open=True)] = 0.15
    """Share of the run over which ε falls to that."""
    normalise_observations: bool = True
    """Whether observations are seen with mean 0 and deviation 1 (pictures never)."""


class DQN(Actor):
    """Q_w."""

    name = "dqn"

    def __init__(self, environment: str, spaces: dict[str, Any], hidden: Any = (128, 128), seed: int = 0):
        super().__init__()
        self.arguments = {"environment": environment, "spaces": spaces, "hidden": list(hidden), "seed": seed}
        g = self.set_up(environment, spaces, seed)
        if not self.spaces.actions:
            raise UsageError(
                f"dqn takes a number of actions to choose from; {environment} has {self.spaces.describe()}. "
                "Methods for it: ddpg, a2c, trpo, reinforce."
            )
        self.Q = body(g, self.spaces, hidden, self.spaces.actions, "relu", 1.0)

    def decide(self, s: Tensor) -> Int[Tensor, " b"]:
        return self.Q(s).argmax(1)


Model = DQN


def goal(
    r: Float[Tensor, " b"], terminated: Bool[Tensor, " b"], after: Float[Tensor, "b A"], slow: Float[Tensor, "b A"],
    gamma: float,
) -> Float[Tensor, " b"]:  # fmt: skip
    """Eq. (1). after, slow: Q_w and Q_{w'} of s'."""
    best = after.argmax(1, keepdim=True)
    return r + gamma * torch.where(terminated, 0.0, slow.gather(1, best)[:, 0])


class Method(OffPolicy):
    """Eq. (2) by Adam."""

    Config, Model = Config, DQN
    steps = 100_000

    def build(self) -> None:
        c = self.config
        self.model = DQN(self.data.name, self.data.spaces.to_dict(), c.hidden, self.seed).to(self.hardware.device)
        self.optimizers = {"Q": torch.optim.Adam([vector(self.model.Q)], c.learning_rate, fused=True)}

    def explore(self, s: Tensor, g: torch.Generator) -> Tensor:
        """The best action, or any."""
        c, moments = self.config, self.model.moments
        if c.normalise_observations and not self.data.spaces.pixels:
            moments.update(s if moments.count > 0 else self.replay.s[: self.replay.size])
        share = min(1.0, self.taken / max(1.0, c.explore * self.total))
        epsilon = 1 + share * (c.epsilon - 1)
        drawn = torch.rand(len(s), generator=g, device=s.device) < epsilon
        return torch.where(drawn, self.at_random(g), self.model.decide(self.model.normalised(s)))

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        c, model, optimizer = self.config, self.model, self.optimizers["Q"]
        s, after = model.normalised(batch.s), model.normalised(batch.after)
        with torch.no_grad():
            y = goal(batch.r, batch.terminated, model.Q(after), self.targets.Q(after), c.gamma)  # pyright: ignore
        done = through(model.Q, s)
        said = done.y.requires_grad_().gather(1, batch.a[:, None])[:, 0]
        loss = (said - y).square().mean() / 2
        done.descend(*torch.autograd.grad(loss, done.y))
        for group in optimizer.param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1 - self.taken / self.total)
        bad = clipped(self.pairs[1], 10.0)
        optimizer.step()
        follow(*self.pairs, c.tau)
        return {"loss": loss.detach() + bad, "value": said.detach().mean()}
