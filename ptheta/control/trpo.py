r"""TRPO: the largest step that a bound on the change of the policy allows.

J. Schulman, S. Levine, P. Moritz, M. Jordan and P. Abbeel, "Trust Region Policy Optimization", ICML 2015.
S. Kakade and J. Langford, "Approximately Optimal Approximate Reinforcement Learning", ICML 2002.
V. François-Lavet, R. Fonteneau and D. Ernst, "How to Discount Deep Reinforcement Learning", NIPS workshop 2015.

Of two policies, with the advantages A of the old one π and states ρ_{\tilde π} that the new one visits,

    J(\tilde π) = J(π) + \sum_s ρ_{\tilde π}(s) \sum_a \tilde π(a | s) A_π(s, a)                                  (1)

The surrogate visits the states of the old one,

    L_π(\tilde π) = J(π) + \sum_s ρ_π(s) \sum_a \tilde π(a | s) A_π(s, a)                                        (2)

equals J to first order at \tilde π = π, and is a bound elsewhere,

    J(\tilde π) ≥ L_π(\tilde π) − \frac{4 ε γ}{(1 − γ)^2} \max_s KL(π(· | s) || \tilde π(· | s)),
    ε = \max_{s,a} |A_π(s, a)|                                                                                   (3)

So an iteration solves, over samples of the old policy,

    \max_θ \mathbb E [ \frac{π_θ(a | s)}{π_{old}(a | s)} A(s, a) ]    s.t.   \mathbb E [ KL(π_{old} || π_θ) ] ≤ δ   (4)

along the natural gradient x = F^{-1} g (`natural`): θ = θ_old + α^j β x for the first j = 0, 1, … for
which the constraint holds and (4) has grown, and θ_old, bit for bit, if there is none. A is `returns`, eq. (4), by a
critic that is fitted to A + V by least squares after the policy's step.

A mean over the states of now says nothing of those that a better policy no longer visits, and may visit again; (3) has
the largest divergence of all. So (4) holds for two means, over samples and over M, a few of all states that were ever
seen (`reservoir`), and F is that of both,

    \max ( \mathbb E_{s ∼ π_{old}} [ KL(π_{old} || π_θ) ], \mathbb E_{s ∼ M} [ KL(π_{old} || π_θ) ] ) ≤ δ            (5)

One learns to stay alive before one learns to plan: with a share p of the first half of a run behind, 0 to 1, and 1 in
the second half,

    1 − γ = (1 − γ_0)^{1−p} (1 − γ_1)^p                                                                          (6)

| symbol | shape | here |
|---|---|---|
| s, a, A | (N,) | N = T E steps of a rollout |
| g, x | (n,) | of the policy's parameters alone; its σ is among them |

Differs from the paper: γ grows, by eq. (6); the constraint is eq. (5), and products with F use every `fisher_every`-th
state (the paper: a tenth) and as many of M; δ falls linearly, as steps of a constant size would go on where samples
show nothing but noise; a critic and generalised advantages in place of sums of rewards (as in the authors' next paper).

Expected: `ptheta train trpo --data CartPole-v1` reaches a return of 475 and more within 100,000 steps; with
`--data HalfCheetah-v5 --steps 1000000`, 3,440 to 5,650 in three seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import ActorCritic
from ptheta.control.envs import Environment
from ptheta.control.learning import OnPolicy, OnPolicyConfig, least_squares
from ptheta.control.natural import conjugate_gradient, fisher, flat, gradient, longest, put
from ptheta.control.policies import Categorical, Gaussian, Given
from ptheta.control.reservoir import Reservoir
from ptheta.control.returns import advantages, standardised
from ptheta.control.rollouts import Rollout
from ptheta.data.order import generator
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between
from ptheta.nets.optimizers import vector


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eq. (4) and of the critic."""

    rollout: Annotated[int, Between(1)] = 64
    """T, steps of each environment in an iteration."""
    lam: Annotated[float, Between(0, 1)] = 0.98
    """λ of the advantages."""
    gamma_last: Annotated[float, Between(0, 1)] = 0.999
    """γ_1 of eq. (6), where it is above γ; γ_0 is γ."""
    delta: Annotated[float, Between(0, open=True)] = 0.01
    """δ at first, nats."""
    anneal: bool = True
    """Whether δ falls to zero by the last step."""
    damping: Annotated[float, Between(0)] = 0.1
    """c, which is added to the diagonal of F."""
    conjugate: Annotated[int, Between(1)] = 10
    """Iterations of conjugate gradients."""
    fisher_every: Annotated[int, Between(1)] = 4
    """Products with F use every so manieth state."""
    remembered: Annotated[int, Between(0)] = 512
    """States in M of eq. (5); 0 for eq. (4) as it is."""
    backtrack: Annotated[float, Between(0, 1, open=True)] = 0.8
    """α."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size for the critic."""
    critic_epochs: Annotated[int, Between(0)] = 8
    """Times that the critic sees a rollout."""
    critic_batch: Annotated[int, Between(1)] = 128
    """Steps in its minibatches."""


class TRPO(ActorCritic):
    """π_θ and V_w."""

    name = "trpo"


Model = TRPO


def surrogate(log_pi: Float[Tensor, " n"], log_old: Float[Tensor, " n"], A: Float[Tensor, " n"]) -> Tensor:
    """Eq. (4), the mean over samples."""
    return ((log_pi - log_old).exp() * A).mean()


@dataclass
class Trust:
    """A step within the trust region."""

    improved: Tensor
    """How much (4) has grown."""
    kl: Tensor
    """Mean KL(old || new), nats, at most δ; the larger of the two of eq. (5)."""
    tries: int
    """j + 1, or 0 where no try was good and θ is what it was."""


def trust_region_step(
    policy: Categorical | Gaussian, s: Tensor, a: Tensor, A: Float[Tensor, " n"], delta: float, damping: float = 0.1,
    conjugate: int = 10, fisher_every: int = 1, backtrack: float = 0.8, tries: int = 10, past: Tensor | None = None,
) -> Trust:  # fmt: skip
    """Eq. (4) by one step of `policy`, whose parameters change in place; eq. (5) with the states of M in `past`.

    tries: Values of j.
    Raises InputError where F is no longer finite or positive."""
    parameters = list(policy.parameters())
    given = policy.given(s)
    old: Given = tuple(x.detach() for x in given)
    log_pi = policy.log_prob(given, a)
    log_old = log_pi.detach()
    g = gradient(surrogate(log_pi, log_old, A), parameters)
    some, past = s[::fisher_every], s[:0] if past is None else past
    with torch.no_grad():
        old_past = policy.given(past) if len(past) else ()
    product = fisher(policy, torch.cat([some, past[: len(some)]]), damping)
    x = conjugate_gradient(product, g, conjugate)
    beta = longest(product, x, delta)
    before, start = flat(p.detach() for p in parameters), A.mean()
    with torch.no_grad():
        for j in range(tries if beta > 0 else 0):
            put(parameters, before + backtrack**j * beta * x)
            given = policy.given(s)
            improved = surrogate(policy.log_prob(given, a), log_old, A) - start
            divergence = policy.kl(old, given).mean()
            if len(past):
                divergence = torch.maximum(divergence, policy.kl(old_past, policy.given(past)).mean())
            if divergence <= delta and improved > 0:
                return Trust(improved, divergence, j + 1)
        put(parameters, before)
    return Trust(torch.zeros_like(start), torch.zeros_like(start), 0)


class Method(OnPolicy):
    """Eq. (5), then least squares for V."""

    Config, Model = Config, TRPO
    steps = 100_000

    def __init__(self, config: Config, data: Environment, seed: int, hardware: Hardware, steps: int):
        super().__init__(config, data, seed, hardware, steps)
        self.past = Reservoir(config.remembered)

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        return {"value": torch.optim.Adam([vector(self.model.value)], self.config.critic_rate, fused=True)}

    @property
    def gamma(self) -> float:
        """Eq. (6)."""
        c, p = self.config, min(1.0, 2 * self.taken / self.total)
        return 1 - (1 - c.gamma) ** (1 - p) * (1 - max(c.gamma, c.gamma_last)) ** p

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, model = self.config, self.model
        V, cut = self.values(batch, s)
        A = advantages(batch.steps(V, cut, rewards), V[:-1], self.gamma, c.lam)
        R = (A + V[:-1]).flatten()
        states, actions = s[:-1].flatten(0, 1), batch.actions.flatten(0, 1)
        delta = c.delta * max(0.01, 1 - self.taken / self.total) if c.anneal else c.delta
        past = model.normalised(self.past.rows(batch.observations[0]))
        done = trust_region_step(
            model.policy, states, actions, standardised(A).flatten(), delta, c.damping, c.conjugate, c.fisher_every,
            c.backtrack, past=past,
        )  # fmt: skip
        self.past.add(batch.observations[:-1].flatten(0, 1), generator(self.seed, self.step, "past"))
        g = generator(self.seed, self.step, "critic", s.device)
        critic = least_squares(model.value, self.optimizers["value"], states, R, c.critic_epochs, c.critic_batch, g)
        return {
            "loss": critic, "improved": done.improved, "kl": done.kl, "tries": torch.tensor(float(done.tries)),
            "entropy": self.entropy(states[:1]),
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"])

    @torch.no_grad()
    def entropy(self, s: Tensor) -> Tensor:
        """Of the policy, nats."""
        return self.model.policy.entropy(self.model.policy.given(s)).mean()
