r"""QAC: the simplest actor–critic. The critic learns q by temporal differences; the policy follows what it says.

S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, algorithm 10.1.
R. Sutton, D. McAllester, S. Singh and Y. Mansour, "Policy Gradient Methods for Reinforcement Learning with Function
Approximation", NeurIPS 1999.

After a step from s by a ∼ π_θ to s' with reward r, and an action a' ∼ π_θ(· | s'),

    θ ← θ + α_θ ∇\log π_θ(a | s) q_w(s, a)                                                                       (1)

    w ← w + α_w ( r + γ q_w(s', a') − q_w(s, a) ) ∇q_w(s, a)                                                      (2)

(1) estimates the policy gradient theorem, Σ_s η(s) Σ_a ∇π(a | s) q_π(s, a), where q_w = q_π and s comes from η; (2) is
Sarsa with a function for a table (`tabular`, eq. (1)), and q_w(s', a') counts nothing where the episode is terminated.

| symbol | shape | here |
|---|---|---|
| s, a, r | (T, E) | T steps of E environments, of which (1) and (2) are the means |
| q_w | (b,) | a network of s with an output for each action, or of s and a vector a |

Differs from the book: Adam, E environments and T steps at a time; a' is drawn anew rather than the action that is taken
next, which has the same distribution. There is no baseline here: `a2c` is what it becomes with one.

Expected: `ptheta train qac --data CartPole-v1` learns, with much more noise than a2c: see docs/control.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import Actor, body
from ptheta.control.learning import OnPolicy, OnPolicyConfig, clipped
from ptheta.control.policies import Categorical, Gaussian
from ptheta.control.rollouts import Rollout
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eqs. (1) and (2) and of Adam."""

    rollout: Annotated[int, Between(1)] = 4
    """T, steps of each environment in an update."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """α_θ at first; it falls to zero by the last step."""
    critic_rate: Annotated[float, Between(0, open=True)] = 3e-3
    """α_w."""
    clip: Annotated[float, Between(0, open=True)] = 0.5
    """Norm that either gradient is cut to."""


class QAC(Actor):
    """π_θ and q_w."""

    name = "qac"

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
        A, m = self.spaces.actions, self.spaces.components
        if self.spaces.pixels and not A:
            raise UsageError(
                f"qac takes pictures only with a number of actions to choose from; {environment} has "
                f"{self.spaces.describe()}. Methods for it: a2c, trpo, reinforce."
            )
        net = body(g, self.spaces, hidden, A or m, activation, 0.01)
        self.policy = Categorical(net) if A else Gaussian(net, m, sigma)
        self.critic = body(g, self.spaces, hidden, A or 1, activation, 1.0, more=m)

    def decide(self, s: Tensor) -> Tensor:
        return self.policy.best(self.policy.given(s))

    def draw(self, s: Tensor, g: torch.Generator) -> Tensor:
        return self.policy.draw(self.policy.given(s), g)

    def q(self, s: Tensor, a: Tensor) -> Float[Tensor, " b"]:
        """Of normalised observations and a policy's own actions."""
        if self.spaces.actions:
            return self.critic(s).gather(1, a[:, None])[:, 0]
        return self.critic(torch.cat([s, a], 1))[:, 0]


Model = QAC


def actor_loss(log_pi: Float[Tensor, " n"], q: Float[Tensor, " n"]) -> Tensor:
    """Minus eq. (1): its gradient is that of log π alone."""
    return -(log_pi * q.detach()).mean()


def critic_loss(q: Float[Tensor, " n"], goal: Float[Tensor, " n"]) -> Tensor:
    """Eq. (2), a semi-gradient: half the squared difference from goals that are held fixed."""
    return (q - goal.detach()).square().mean() / 2


class Method(OnPolicy):
    """Eqs. (1) and (2) by Adam."""

    Config, Model = Config, QAC
    steps = 200_000

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        c = self.config
        return {
            "policy": torch.optim.Adam(self.model.policy.parameters(), c.learning_rate, fused=True),
            "critic": torch.optim.Adam(self.model.critic.parameters(), c.critic_rate, fused=True),
        }

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, model, policy = self.config, self.model, self.model.policy
        states, actions = s[:-1].flatten(0, 1), batch.actions.flatten(0, 1)
        with torch.no_grad():
            after = s[1:].clone()  # (T, E, …)
            for k, (t, e) in enumerate(batch.cut):
                after[t, e] = model.normalised(batch.cut_with[k][None])[0]
            after = after.flatten(0, 1)
            then = policy.draw(policy.given(after), generator(self.seed, self.step, "a'", s.device))
            goal = (
                rewards + c.gamma * torch.where(batch.terminated, 0.0, model.q(after, then).view_as(rewards))
            ).flatten()
        q = model.q(states, actions)
        given = policy.given(states)
        actor, critic = actor_loss(policy.log_prob(given, actions), q), critic_loss(q, goal)
        for group in self.optimizers["policy"].param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1 - self.taken / self.total)
        bad = torch.zeros((), device=s.device)
        for name, loss in (("policy", actor), ("critic", critic)):
            self.optimizers[name].zero_grad()
            loss.backward()
            bad = bad + clipped(getattr(model, name).parameters(), c.clip)
            self.optimizers[name].step()
        return {
            "loss": critic.detach() + bad, "q": q.detach().mean(), "entropy": policy.entropy(given).detach().mean(),
        }  # fmt: skip
