r"""NPG, the natural policy gradient: the step that is steepest in the policy, and not in its parameters.

S. Kakade, "A Natural Policy Gradient", NeurIPS 2001. S. Amari, "Natural Gradient Works Efficiently in Learning", Neural
Computation 10, 1998.

Of steps that change the policy alike, by the mean divergence of `natural`, eq. (1), the one along

    x = (F + c I)^{-1} ∇J(θ),        θ ← θ + η x                                                                 (1)

makes the most of J: it is the same step however the policy is written in parameters. ∇J is the policy gradient with
generalised advantages (`returns`, eq. (4)), and x is found by conjugate gradients. `trpo` takes the same direction, as
far as a bound on the divergence allows, and looks whether it was good; here the length is η's, and nobody looks.

| symbol | shape | here |
|---|---|---|
| s, a, A | (N,) | N = T E steps of a rollout |
| x | (n,) | of the policy's parameters alone; its σ is among them |

Differs from the paper: F by the states of a rollout, every `fisher_every`-th; a critic, fitted by least squares; η
falls to zero by the last step.

Expected: `ptheta train npg --env CartPole-v1` learns to hold the pole up; its returns over seeds are not measured yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import ActorCritic
from ptheta.control.learning import OnPolicy, OnPolicyConfig, least_squares
from ptheta.control.natural import conjugate_gradient, fisher, flat, gradient, put
from ptheta.control.policies import Categorical, Gaussian
from ptheta.control.returns import advantages, standardised
from ptheta.control.rollouts import Rollout
from ptheta.data.order import generator
from ptheta.engine.method import Between
from ptheta.nets.optimizers import vector


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eq. (1) and of the critic."""

    rollout: Annotated[int, Between(1)] = 64
    """T, steps of each environment in an iteration."""
    lam: Annotated[float, Between(0, 1)] = 0.95
    """λ of the advantages."""
    learning_rate: Annotated[float, Between(0, open=True)] = 0.1
    """η at first; it falls to zero by the last step."""
    damping: Annotated[float, Between(0)] = 0.1
    """c, which is added to the diagonal of F."""
    conjugate: Annotated[int, Between(1)] = 10
    """Iterations of conjugate gradients."""
    fisher_every: Annotated[int, Between(1)] = 2
    """Products with F use every so manieth state."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size for the critic."""
    critic_epochs: Annotated[int, Between(0)] = 8
    """Times that the critic sees a rollout."""
    critic_batch: Annotated[int, Between(1)] = 128
    """Steps in its minibatches."""


class NPG(ActorCritic):
    """π_θ and V_w."""

    name = "npg"


Model = NPG


def natural_step(
    policy: Categorical | Gaussian, s: Tensor, a: Tensor, A: Float[Tensor, " n"], rate: float, damping: float,
    conjugate: int = 10, fisher_every: int = 1,
) -> Tensor:  # fmt: skip
    """Eq. (1) for `policy`, whose parameters change in place; the mean divergence that it made, nats."""
    parameters = list(policy.parameters())
    given = policy.given(s)
    old = tuple(x.detach() for x in given)
    g = gradient((policy.log_prob(given, a) * A).mean(), parameters)
    x = conjugate_gradient(fisher(policy, s[::fisher_every], damping), g, conjugate)
    put(parameters, flat(p.detach() for p in parameters) + rate * x)
    with torch.no_grad():
        return policy.kl(old, policy.given(s)).mean()


class Method(OnPolicy):
    """Eq. (1), then least squares for V."""

    Config, Model = Config, NPG
    steps = 100_000

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        return {"value": torch.optim.Adam([vector(self.model.value)], self.config.critic_rate, fused=True)}

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, model = self.config, self.model
        V, cut = self.values(batch, s)
        A = advantages(batch.steps(V, cut, rewards), V[:-1], c.gamma, c.lam)
        states, actions = s[:-1].flatten(0, 1), batch.actions.flatten(0, 1)
        rate = c.learning_rate * max(0.0, 1 - self.taken / self.total)
        divergence = natural_step(
            model.policy, states, actions, standardised(A).flatten(), rate, c.damping, c.conjugate, c.fisher_every
        )
        g = generator(self.seed, self.step, "critic", s.device)
        critic = least_squares(
            model.value, self.optimizers["value"], states, (A + V[:-1]).flatten(), c.critic_epochs, c.critic_batch, g
        )
        return {"loss": critic + 0 * divergence, "kl": divergence}
