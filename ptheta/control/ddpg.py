r"""DDPG: a deterministic policy that climbs the critic's slope, with a replay and slow targets.

T. Lillicrap et al., "Continuous Control with Deep Reinforcement Learning", ICLR 2016.
D. Silver et al., "Deterministic Policy Gradient Algorithms", ICML 2014.

With a = μ_θ(s) and states ρ of any policy that explores, the deterministic policy gradient needs no weights for actions
that were drawn by another policy, as none are summed over:

    ∇J(θ) = \mathbb E_{s ∼ ρ} [ ∇_θ μ_θ(s) ∇_a q_μ(s, a) |_{a = μ_θ(s)} ]                                         (1)

It is the limit of the stochastic gradient for π = N(μ_θ, σ²), σ → 0. The critic's goal is told by slow copies θ', w',

    y = r + γ (1 − terminated) Q_{w'}(s', μ_{θ'}(s')),      L(w) = \frac{1}{b} \sum ( Q_w(s, a) − y )^2           (2)

    θ' ← θ' + τ (θ − θ'),    w' ← w' + τ (w − w')                                                                (3)

and one explores by μ_θ(s) plus Gaussian noise σ ε, or Ornstein and Uhlenbeck's,

    x ← x − κ x + σ ε                                                                                            (4)

which begins with 0 in each episode; the sum is cut to the bounds.

| symbol | shape | here |
|---|---|---|
| s, a, r, s' | (b, …), (b, m), (b,), (b, …) | of the replay; a within [−1, 1], which are the environment's bounds |
| Q | (b,) | an MLP of s and a together |

Differs from the paper: Gaussian noise by default, of deviation σ in units of half the range; one step size; no weight
decay and no batch normalisation; actions enter the critic's first layer.

Expected: `ptheta train ddpg --data Pendulum-v1 --hidden 64 64 --batch-size 128`: −143 to −150 in five seeds, the means
of 100 test episodes; `--data HalfCheetah-v5 --steps 500000 --warmup 10000 --batch-size 128`: 9,000 to 9,820 in three.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.control.actors import Actor, body
from ptheta.control.learning import full, squares
from ptheta.control.offpolicy import OffPolicy, OffPolicyConfig, follow, sloping, uphill
from ptheta.control.policies import Deterministic
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.optimizers import vector

KAPPA = 0.15


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Hyperparameters of eqs. (2) to (4) and of Adam."""

    hidden: Annotated[tuple[int, ...], Between(1, 65536)] = (256, 256)
    """Units of the hidden layers of the policy, and of those of the critic."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size, of the policy."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size, of the critic."""
    tau: Annotated[float, Between(0, 1, open=True)] = 0.005
    """τ."""
    noise: Literal["gaussian", "ou"] = "gaussian"
    """How to explore."""
    sigma: Annotated[float, Between(0, 5)] = 0.1
    """σ, of bounds from −1 to 1."""


class DDPG(Actor):
    r"""μ_θ and Q_w."""

    name = "ddpg"

    def __init__(self, environment: str, spaces: dict[str, Any], hidden: Any = (256, 256), seed: int = 0):
        super().__init__()
        self.arguments = {"environment": environment, "spaces": spaces, "hidden": list(hidden), "seed": seed}
        g = self.set_up(environment, spaces, seed)
        if not self.spaces.bounded or self.spaces.pixels:
            raise UsageError(
                f"ddpg takes vectors of actions within bounds and observations that are vectors; {environment} has "
                f"{self.spaces.describe()}{'' if self.spaces.actions or self.spaces.bounded else ' without bounds'}. "
                "Methods for it: a2c, trpo, reinforce" + (", dqn." if self.spaces.actions else ".")
            )
        m = self.spaces.components
        one = torch.ones(m)
        self.policy = Deterministic(body(g, self.spaces, hidden, m, "relu", 0.01), -one, one)
        self.critic = body(g, self.spaces, hidden, 1, "relu", 1.0, more=m)

    def decide(self, s: Tensor) -> Tensor:
        return self.policy(s)

    def Q(self, s: Tensor, a: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Of normalised observations and a policy's own actions."""
        return self.critic(torch.cat([s, a], 1))[:, 0]


Model = DDPG


def goal(
    r: Float[Tensor, " b"], terminated: Bool[Tensor, " b"], after: Float[Tensor, " b"], gamma: float
) -> Float[Tensor, " b"]:
    """y of eq. (2). after: Q' of s'."""
    return r + gamma * torch.where(terminated, 0.0, after)


class Method(OffPolicy):
    """Eqs. (1) to (3) by Adam."""

    Config, Model = Config, DDPG
    default_data = "Pendulum-v1"
    steps = 20_000

    def build(self) -> None:
        c = self.config
        self.model = DDPG(self.data.name, self.data.spaces.to_dict(), c.hidden, self.seed).to(self.hardware.device)
        self.optimizers = {
            "policy": torch.optim.Adam([vector(self.model.policy)], c.learning_rate, fused=True),
            "critic": torch.optim.Adam([vector(self.model.critic)], c.critic_rate, fused=True),
        }
        self.x = torch.zeros(c.envs, self.data.spaces.components, device=self.hardware.device)

    def explore(self, s: Tensor, g: torch.Generator) -> Tensor:
        """μ(s) and noise, within bounds: eq. (4)."""
        c = self.config
        drawn = c.sigma * torch.randn(self.x.shape, generator=g, device=self.x.device)
        if c.noise == "ou":
            drawn = self.x = self.x - KAPPA * self.x + drawn
        return (self.model.policy(s) + drawn).clamp(-1, 1)

    def ended(self, environments: Any) -> None:
        for e in environments:
            self.x[e] = 0

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        c, model = self.config, self.model
        with torch.no_grad(), self.hardware.autocast():
            after = self.targets.Q(batch.after, self.targets.policy(batch.after))  # pyright: ignore
        y = goal(batch.r, batch.terminated, full(after), c.gamma)
        with self.hardware.autocast():
            loss = squares(model.critic, torch.cat([batch.s, batch.a], 1), y)
        self.optimizers["critic"].step()

        with self.hardware.autocast():
            value = uphill(model.policy, partial(sloping, model.critic), batch.s)
        self.optimizers["policy"].step()
        follow(*self.pairs, c.tau)
        return {"loss": loss, "value": value}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "noise": self.x}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.x = state["noise"].to(self.x.device)
