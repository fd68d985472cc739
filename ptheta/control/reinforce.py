r"""REINFORCE: the gradient of the return from whole episodes, with or without a baseline.

R. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", Machine
Learning 8, 1992. S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, algorithm 9.1.

With G_t = \sum_{k ≥ 0} γ^k r_{t+k}, an unbiased estimate of q_π(s_t, a_t),

    ∇J(θ) = \mathbb E [ \sum_t γ^t ∇\log π_θ(a_t | s_t) ( G_t − b(s_t) ) ]                                       (1)

for any baseline b of the state alone, because

    \mathbb E_{a ∼ π} [ b(s) ∇\log π_θ(a | s) ] = b(s) ∇ \sum_a π_θ(a | s) = 0                                   (2)

Least variance, component by component, has

    b^*(s) = \frac{\mathbb E_a [ |∇\log π_θ(a | s)|^2 q_π(s, a) ]}{\mathbb E_a [ |∇\log π_θ(a | s)|^2 ]}          (3)

and V_w(s) ≈ v_π(s), found by least squares on G_t, is near it and cheaper.

| symbol | shape | here |
|---|---|---|
| s, a, r, G | (T, E) | E whole episodes, the rest of shorter ones left out |
| loss | () | minus (1), over the mean length of the batch's episodes |

Differs from the papers: several episodes a step, as many of each environment, so that long ones are not left out; Adam;
the factor γ^t of (1) is left out as everywhere in practice (`--discount-states` puts it in: then (1) is exact), as an
episode's late steps would hardly be learned from; with a baseline, G_t − b(s_t) has deviation 1 in each batch,
and an episode that a time limit cuts goes on in G by V_w of what it was cut with: else late steps would seem worse than
early ones in the same states. Without a baseline it counts as if it ended there.

Expected: `ptheta train reinforce --data CartPole-v1` reached a return of 475 and more within 200,000
steps in each of ten seeds, and lost it again for a while in some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.control.actors import ActorCritic
from ptheta.control.learning import OnPolicy, OnPolicyConfig, clipped
from ptheta.control.returns import discounted, standardised
from ptheta.control.rollouts import Rollout, collect_episodes
from ptheta.engine.method import Between


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eq. (1) and of Adam."""

    envs: Annotated[int, Between(1, 4096)] = 4
    """E, episodes in a step."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-2
    """Adam's step size for the policy, at first; it falls to zero by the last step."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-2
    """Adam's step size for the baseline."""
    baseline: bool = True
    """Whether V_w is taken away from returns."""
    discount_states: bool = False
    """Whether step t counts by γ^t, as eq. (1) has it."""
    entropy: Annotated[float, Between(0)] = 0.0
    """Weight of the policy's entropy, which is added to the objective."""
    normalise_rewards: bool = False
    """Whether rewards are learned from in units of the deviation of returns."""


class Reinforce(ActorCritic):
    """π_θ, and the baseline V_w."""

    name = "reinforce"


Model = Reinforce


def loss(
    log_pi: Float[Tensor, "T E"], weight: Float[Tensor, "T E"], alive: Bool[Tensor, "T E"], gamma: float = 1.0
) -> Tensor:
    """Minus eq. (1), whose gradient is that of the log-probabilities alone. weight: G_t − b(s_t)."""
    t = torch.arange(len(weight), dtype=weight.dtype, device=weight.device)[:, None]
    return -(gamma**t * weight.detach() * log_pi * alive).sum() / weight.shape[1]


def best_baseline(squared: Float[Tensor, "S A"], policy: Float[Tensor, "S A"], q: Float[Tensor, "S A"]) -> Tensor:
    """Eq. (3). squared: |∇log π(a | s)|²."""
    weight = policy * squared
    return (weight * q).sum(1) / weight.sum(1)


class Method(OnPolicy):
    """Eq. (1) by Adam."""

    Config, Model = Config, Reinforce
    staggered = False
    steps = 200_000

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        c = self.config
        return {
            "policy": torch.optim.Adam(self.model.policy.parameters(), c.learning_rate),
            "value": torch.optim.Adam(self.model.value.parameters(), c.critic_rate),
        }

    def experience(self) -> Rollout:
        return collect_episodes(self.envs, self.drawing(), self.hardware.device)

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, alive = self.config, batch.alive
        V, cut = self.values(batch, s)
        if not c.baseline:
            V, cut = torch.zeros_like(V), torch.zeros_like(cut)
        G = discounted(batch.steps(V, cut, rewards * alive), c.gamma)
        A = G
        if c.baseline:
            A = torch.zeros_like(G).masked_scatter(alive, standardised((G - V[:-1])[alive][:, None])[:, 0])
        for group in self.optimizers["policy"].param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1 - self.taken / self.total)

        policy, flat = self.model.policy, s[:-1].flatten(0, 1)
        given = policy.given(flat)
        log_pi = policy.log_prob(given, batch.actions.flatten(0, 1)).view_as(G)
        entropy = (policy.entropy(given).view_as(G) * alive).sum() / alive.sum()
        each = loss(log_pi, A, alive, c.gamma if c.discount_states else 1.0)
        per_step = each * alive.shape[1] / alive.sum()  # over the mean length: Adam does not see the scale
        self.optimizers["policy"].zero_grad()
        (per_step - c.entropy * entropy).backward()
        bad = clipped(policy.parameters(), 1.0)
        self.optimizers["policy"].step()

        critic = torch.zeros(())
        if c.baseline:
            critic = (self.model.V(flat).view_as(G) - G)[alive].square().mean()
            self.optimizers["value"].zero_grad()
            critic.backward()
            bad = bad + clipped(self.model.value.parameters(), 10.0)
            self.optimizers["value"].step()
        return {
            "loss": per_step.detach() + bad, "critic_loss": critic.detach(), "entropy": entropy.detach(),
            "gain": G[0].mean(),
        }  # fmt: skip
