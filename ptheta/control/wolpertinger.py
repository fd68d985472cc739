r"""Wolpertinger: a deterministic actor for very many discrete actions.

G. Dulac-Arnold et al., "Deep Reinforcement Learning in Large Discrete Action Spaces", 2015.

Actions are points of \mathbb R^m. The actor says where the action should be, \hat a = μ_θ(s), and is no action itself;
the k actions that are nearest are looked at by the critic, which chooses,

    A_k(s) = the k actions nearest to μ_θ(s),        π(s) = \arg\max_{a ∈ A_k(s)} Q_w(s, a)                        (1)

at a cost that does not grow with their number. What is stored and learned from is the action that was done, and the
critic's goal is told by the whole policy, as it acts,

    y = r + γ (1 − terminated) Q_{w'}(s', π_{θ'}(s')),
    ∇J(θ) = \mathbb E [ ∇_θ μ_θ(s) ∇_a Q_w(s, a) |_{a = μ_θ(s)} ]                                                (2)

the actor's gradient being DDPG's, at the proto-action. Actions here are a grid within [−1, 1]^m, of as many values in
each component; those of an environment with A actions are A values of one component, in their order. Of a product of
sorted values, the k nearest points lie among the products of the k nearest values of each component: a point with a
value that is not one of those k would have k points that are nearer. So they are found without a search (3).

| symbol | shape | here |
|---|---|---|
| \hat a | (b, m) | the proto-action |
| A_k | (b, k, m) | |
| Q | (b, k) | an MLP of s and a together |

Differs from the paper: an exact search in a grid in place of an approximate one among any points; k is a number of
actions and not a share; Gaussian noise on the proto-action.

Expected: `ptheta train wolpertinger --data Pendulum-v1 --hidden 64 64 --batch-size 128`: −142 to −151 in five seeds,
the means of 100 test episodes; what `ddpg` reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import Actor, body
from ptheta.control.envs import Environment
from ptheta.control.learning import squares
from ptheta.control.offpolicy import OffPolicy, OffPolicyConfig, follow, sloping, uphill
from ptheta.control.policies import Deterministic
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.optimizers import vector

MOST = 20_000  # candidates k^m that are looked at for one state


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Hyperparameters of eqs. (1) and (2) and of Adam."""

    actions: Annotated[int, Between(2, 10**9)] = 100_000
    """How many actions a bounded space of vectors is cut into, at least (an environment with A actions has A)."""
    k: Annotated[int, Between(1, 10_000)] = 10
    """Actions that the critic looks at."""
    hidden: Annotated[tuple[int, ...], Between(1, 65536)] = (256, 256)
    """Units of the hidden layers of the actor, and of those of the critic."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size, of the actor."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size, of the critic."""
    tau: Annotated[float, Between(0, 1, open=True)] = 0.005
    """Share by which slow weights follow after each update."""
    sigma: Annotated[float, Between(0, 5)] = 0.1
    """Deviation of the noise on the proto-action, of bounds from −1 to 1."""


def nearest_values(x: Float[Tensor, " b"], values: int, k: int) -> Float[Tensor, "b k"]:
    """The k nearest to x of `values` numbers evenly from −1 to 1."""
    gap = 2 / (values - 1)
    first = torch.floor((x + 1) / gap - (k - 2) / 2).clamp(0, values - k)  # below x, k // 2 of them
    return -1 + gap * (first[:, None] + torch.arange(k, dtype=x.dtype, device=x.device))


def nearest(a: Float[Tensor, "b m"], values: int, k: int) -> Float[Tensor, "b k m"]:
    """Eq. (3): the k points of the grid, of `values` in each component, that are nearest to a."""
    b, m = a.shape
    each = min(k, values)
    near = nearest_values(a.flatten(), values, each).view(b, m, each)
    if m == 1:
        return near.transpose(1, 2)
    grid = torch.cartesian_prod(*(torch.arange(each, device=a.device) for _ in range(m)))  # (each^m, m)
    points = torch.stack([near[:, i, grid[:, i]] for i in range(m)], 2)  # (b, each^m, m)
    order = (points - a[:, None]).square().sum(2).topk(min(k, len(grid)), 1, largest=False).indices
    return points.gather(1, order[:, :, None].expand(-1, -1, m))


class Wolpertinger(Actor):
    """Eq. (1). actions, k: as in the Config."""

    name = "wolpertinger"

    def __init__(
        self, environment: str, spaces: dict[str, Any], actions: int = 100_000, k: int = 10, hidden: Any = (256, 256),
        seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "environment": environment, "spaces": spaces, "actions": actions, "k": k, "hidden": list(hidden),
            "seed": seed,
        }  # fmt: skip
        g = self.set_up(environment, spaces, seed)
        if self.spaces.pixels or not (self.spaces.actions or self.spaces.bounded):
            raise UsageError(
                f"wolpertinger takes observations that are vectors, and actions within bounds; {environment} has "
                f"{self.spaces.describe()}. Methods for it: a2c, trpo, reinforce."
            )
        m = 1 if self.spaces.actions else self.spaces.components
        self.values = self.spaces.actions or max(2, round(actions ** (1 / m)))
        if not self.spaces.actions and self.values**m < actions:
            self.values += 1
        self.k = min(k, self.values**m)
        if min(self.k, self.values) ** m > MOST:
            raise UsageError(
                f"k = {k} of {m} components means {min(k, self.values) ** m:,} candidates a state; allowed: up to "
                f"{MOST:,}, so a smaller --k."
            )
        one = torch.ones(m)
        self.policy = Deterministic(body(g, self.spaces, hidden, m, "relu", 0.01), -one, one)
        self.critic = body(g, self.spaces, hidden, 1, "relu", 1.0, more=m)

    def Q(self, s: Tensor, a: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Of normalised observations and points."""
        return self.critic(torch.cat([s, a], 1))[:, 0]

    def chosen(self, s: Tensor, proto: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """π(s) of eq. (1), a point of the grid, for a proto-action."""
        near = nearest(proto, self.values, self.k)  # (b, k, m)
        b, k, m = near.shape
        q = self.Q(s.repeat_interleave(k, 0), near.reshape(b * k, m)).view(b, k)
        return near[torch.arange(b, device=s.device), q.argmax(1)]

    def as_action(self, point: Float[Tensor, "b m"]) -> Tensor:
        """What the environment is given: the number of a discrete action, or the point itself."""
        if self.spaces.actions:
            return ((point[:, 0] + 1) / 2 * (self.values - 1)).round().long()
        return point

    def as_point(self, a: Tensor) -> Float[Tensor, "b m"]:
        """The inverse of `as_action`."""
        return (2 * a.float() / (self.values - 1) - 1)[:, None] if self.spaces.actions else a

    def decide(self, s: Tensor) -> Tensor:
        return self.as_action(self.chosen(s, self.policy(s)))


Model = Wolpertinger


class Method(OffPolicy):
    """Eq. (2) by Adam."""

    Config, Model = Config, Wolpertinger
    default_data = "Pendulum-v1"
    steps = 20_000
    data: Environment

    def build(self) -> None:
        c = self.config
        self.model = Wolpertinger(self.data.name, self.data.spaces.to_dict(), c.actions, c.k, c.hidden, self.seed).to(
            self.hardware.device
        )
        self.optimizers = {
            "policy": torch.optim.Adam([vector(self.model.policy)], c.learning_rate, fused=True),
            "critic": torch.optim.Adam([vector(self.model.critic)], c.critic_rate, fused=True),
        }

    def explore(self, s: Tensor, g: torch.Generator) -> Tensor:
        """Eq. (1) of a proto-action with noise."""
        proto = self.model.policy(s)
        noise = self.config.sigma * torch.randn(proto.shape, generator=g, device=s.device)
        return self.model.as_action(self.model.chosen(s, (proto + noise).clamp(-1, 1)))

    def at_random(self, g: torch.Generator) -> Tensor:
        """Any of the actions."""
        a = super().at_random(g)
        return a if self.data.spaces.actions else nearest(a, self.model.values, 1)[:, 0]

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        c, model, slow = self.config, self.model, self.targets
        with torch.no_grad():
            then = slow.chosen(batch.after, slow.policy(batch.after))  # pyright: ignore
            y = batch.r + c.gamma * torch.where(batch.terminated, 0.0, slow.Q(batch.after, then))  # pyright: ignore
        loss = squares(model.critic, torch.cat([batch.s, model.as_point(batch.a)], 1), y)
        self.optimizers["critic"].step()

        value = uphill(model.policy, partial(sloping, model.critic), batch.s)
        self.optimizers["policy"].step()
        follow(*self.pairs, c.tau)
        return {"loss": loss, "value": value}
