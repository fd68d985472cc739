r"""A2C: policy and value learned together from a few steps of many environments.

V. Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", ICML 2016 (A3C; A2C is its synchronous form).
S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, algorithm 10.2.

With A_t an estimate of the advantage q_π(s_t, a_t) − v_π(s_t) by V_w, of `returns`, eq. (4) (λ = 1 is the n-step form
of the paper), and R_t = A_t + V_w(s_t), both without gradient, one step of RMSprop on

    L = − \frac{1}{N} \sum_t \log π_θ(a_t | s_t) A_t + c_v \frac{1}{N} \sum_t ( V_w(s_t) − R_t )^2
        − c_e \frac{1}{N} \sum_t H(π_θ(· | s_t))                                                                 (1)

over the N = T E steps of a rollout, where the gradient is no longer than `clip`. Its first term is the policy gradient
theorem with V_w for a baseline: `reinforce`, eq. (2).

| symbol | shape | here |
|---|---|---|
| s, a, A, R | (T, E) | T steps of E environments |
| θ, w | | networks of their own |

Differs from the paper: no threads that write to shared weights, but E environments in step; policy and value share no
layers; observations and rewards are normalised; σ is above e^{−2}, as the gradient of log π grows with 1 / σ: where
nothing more is to be gained, its noise would move the policy ever further.

Expected: `ptheta train a2c --data CartPole-v1` reaches a return of 475 and more within 100,000 steps; with
`--data InvertedPendulum-v5 --steps 1000000`, 1,000 in three seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import ActorCritic
from ptheta.control.learning import OnPolicy, OnPolicyConfig, clipped
from ptheta.control.returns import advantages, standardised
from ptheta.control.rollouts import Rollout
from ptheta.engine.method import Between
from ptheta.nets.mlp import through
from ptheta.nets.optimizers import vector

EPSILON = 3e-4  # of RMSprop: with less, gradients of nothing but noise make steps of full size


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eq. (1) and of RMSprop."""

    rollout: Annotated[int, Between(1)] = 8
    """T, steps of each environment in an update."""
    lam: Annotated[float, Between(0, 1)] = 0.95
    """λ of the advantages."""
    learning_rate: Annotated[float, Between(0, open=True)] = 2e-3
    """RMSprop's step size at first; it falls to zero by the last step."""
    value_weight: Annotated[float, Between(0)] = 0.5
    """c_v."""
    entropy: Annotated[float, Between(0)] = 0.0
    """c_e."""
    clip: Annotated[float, Between(0, open=True)] = 0.5
    """Norm that the gradient is cut to."""
    standardise: bool = False
    """Whether advantages have deviation 1 in each batch."""


class A2C(ActorCritic):
    """π_θ and V_w."""

    name = "a2c"
    least = math.exp(-2)


Model = A2C


def loss(
    log_pi: Float[Tensor, " n"], A: Float[Tensor, " n"], V: Float[Tensor, " n"], R: Float[Tensor, " n"],
    H: Float[Tensor, " n"], value_weight: float, entropy: float,
) -> Tensor:  # fmt: skip
    """Eq. (1)."""
    return -(log_pi * A).mean() + value_weight * (V - R).square().mean() - entropy * H.mean()


class Method(OnPolicy):
    """Eq. (1) by RMSprop."""

    Config, Model = Config, A2C
    steps = 100_000

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        c = self.config
        return {
            "all": torch.optim.RMSprop([vector(self.model)], c.learning_rate, alpha=0.99, eps=EPSILON, foreach=True)
        }

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, policy, optimizer = self.config, self.model.policy, self.optimizers["all"]
        (T, E), N = rewards.shape, rewards.numel()
        actor = through(policy.net, s[:-1].flatten(0, 1))
        critic = through(self.model.value, torch.cat([s.flatten(0, 1), self.model.normalised(batch.cut_with)]))
        given, V = policy.said(actor.y.requires_grad_()), critic.y.requires_grad_()[:, 0]
        values, cut = V.detach()[: N + E].view(T + 1, E), V.detach()[N + E :]
        A = advantages(batch.steps(values, cut, rewards), values[:-1], c.gamma, c.lam)
        R = (A + values[:-1]).flatten()
        A = (standardised(A) if c.standardise else A).flatten()
        log_pi, H = policy.log_prob(given, batch.actions.flatten(0, 1)), policy.entropy(given)
        L = loss(log_pi, A, V[:N], R, H, c.value_weight, c.entropy)

        for group in optimizer.param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1 - self.taken / self.total)
        optimizer.zero_grad(set_to_none=False)
        L.backward()  # to what the networks said, and to σ
        actor.descend()
        critic.descend()
        bad = clipped(optimizer.param_groups[0]["params"], c.clip)
        optimizer.step()
        return {"loss": L.detach() + bad, "entropy": H.detach().mean(), "value": V.detach().mean()}
