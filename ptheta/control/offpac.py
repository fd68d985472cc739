r"""OffPAC, off-policy actor–critic: a policy learned from what another one does.

S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, algorithm 10.3.
T. Degris, M. White and R. Sutton, "Off-Policy Actor-Critic", ICML 2012.

Actions come from a behaviour policy β that is given. With states from its distribution d_β, the gradient of
J(θ) = Σ_s d_β(s) v_π(s) is

    ∇J(θ) ≈ \mathbb E_{s ∼ ρ, a ∼ β} [ \frac{π_θ(a | s)}{β(a | s)} ∇\log π_θ(a | s) ( q_π(s, a) − v_π(s) ) ]      (1)

where ρ is d_β carried on by π, which is taken for d_β. With

    δ = r + γ v_w(s') − v_w(s),      ρ_t = π_θ(a | s) / β(a | s)

a step of the algorithm is

    θ ← θ + α_θ ρ_t δ ∇\log π_θ(a | s),      w ← w + α_w ρ_t δ ∇v_w(s)                                           (2)

with the weight in both: without it the critic would learn v_β. The weights are cut at `rho_max`, as a few large ones
would be all that is learned from.

| symbol | shape | here |
|---|---|---|
| s, a, r, ρ_t, δ | (T, E) | T steps of E environments by β, of which (2) are the means |
| β | | all actions alike, or the policy of a model folder or run (a2c, trpo, reinforce, offpac) |

Differs from the book: Adam; E environments and T steps at a time; the weights are cut.

Expected: `ptheta train offpac --steps 100000` reached 97.5 in the grid world, what the best policy has, from uniformly
random actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.actors import ActorCritic
from ptheta.control.ids import GRIDWORLD
from ptheta.control.learning import OnPolicy, OnPolicyConfig, clipped
from ptheta.control.rollouts import Rollout
from ptheta.control.spaces import Spaces
from ptheta.data.order import generator
from ptheta.engine import pretrained
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Hyperparameters of eq. (2) and of Adam."""

    behaviour: str = "uniform"
    """β: `uniform`, or a run or model folder whose policy it is."""
    rollout: Annotated[int, Between(1)] = 8
    """T, steps of each environment in an update."""
    learning_rate: Annotated[float, Between(0, open=True)] = 3e-3
    """α_θ at first; it falls to zero by the last step."""
    critic_rate: Annotated[float, Between(0, open=True)] = 1e-2
    """α_w."""
    rho_max: Annotated[float, Between(0, open=True)] = 10.0
    """Largest weight."""
    entropy: Annotated[float, Between(0)] = 0.0
    """Weight of the policy's entropy, which is added to the objective."""
    normalise_observations: bool = False
    """Whether observations are seen with mean 0 and deviation 1 (pictures never)."""
    gamma: Annotated[float, Between(0, 1)] = 0.9
    """γ."""


class OffPAC(ActorCritic):
    """π_θ and v_w."""

    name = "offpac"


Model = OffPAC


def actor_loss(
    log_pi: Float[Tensor, " n"], log_beta: Float[Tensor, " n"], delta: Float[Tensor, " n"], rho_max: float = math.inf
) -> Tensor:
    """Minus eq. (1), of which δ estimates the last factor; its gradient is that of log π alone."""
    rho = (log_pi.detach() - log_beta).exp().clamp(max=rho_max)
    return -(rho * delta.detach() * log_pi).mean()


def critic_loss(
    v: Float[Tensor, " n"], goal: Float[Tensor, " n"], log_pi: Float[Tensor, " n"], log_beta: Float[Tensor, " n"],
    rho_max: float = math.inf,
) -> Tensor:  # fmt: skip
    """Eq. (2), right: a semi-gradient, half of squared differences with weights ρ."""
    rho = (log_pi.detach() - log_beta).exp().clamp(max=rho_max)
    return (rho * (v - goal.detach()).square()).mean() / 2


class Uniform:
    """All actions alike: of A, or of vectors within [−1, 1]."""

    def __init__(self, spaces: Spaces):
        self.spaces = spaces

    def draw(self, s: Tensor, g: torch.Generator) -> Tensor:
        A, m = self.spaces.actions, self.spaces.components
        if A:
            return torch.randint(A, (len(s),), generator=g, device=s.device)
        return 2 * torch.rand(len(s), m, generator=g, device=s.device) - 1

    def log_prob(self, s: Tensor, a: Tensor) -> Float[Tensor, " n"]:
        each = math.log(self.spaces.actions) if self.spaces.actions else self.spaces.components * math.log(2)
        return torch.full((len(s),), -each, device=s.device)


class Learned:
    """The policy of a model folder or run. Raises UsageError where it has none, or one for other spaces."""

    def __init__(self, source: str, spaces: Spaces, device: torch.device):
        path = Path(source)
        folder = pretrained.resolve(path / "model" if (path / "model" / "config.json").exists() else source)
        config = pretrained.read_config(folder)
        kind = type("Behaviour", (ActorCritic,), {"name": config["method"]})
        if set(config.get("model", {})) != {"environment", "spaces", "hidden", "activation", "sigma", "seed"}:
            raise UsageError(
                f"behaviour {source} is of {config['method']}, which draws no actions with a known probability; "
                "allowed: uniform, or a run of a2c, trpo, reinforce or offpac."
            )
        self.model = kind.from_pretrained(folder).to(device)
        if self.model.spaces != spaces:
            raise UsageError(
                f"behaviour {source} is for {self.model.spaces.describe()}; allowed: one for {spaces.describe()}."
            )

    def draw(self, s: Tensor, g: torch.Generator) -> Tensor:
        return self.model.draw(self.model.normalised(s), g)

    def log_prob(self, s: Tensor, a: Tensor) -> Float[Tensor, " n"]:
        return self.model.log_prob(s, a)


class Method(OnPolicy):
    """Eq. (2) by Adam."""

    Config, Model = Config, OffPAC
    default_data = GRIDWORLD
    steps = 200_000

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        c = self.config
        uniform = c.behaviour == "uniform"
        self.behaviour: Any = (
            Uniform(self.data.spaces) if uniform else Learned(c.behaviour, self.data.spaces, self.hardware.device)
        )
        return {
            "policy": torch.optim.Adam(self.model.policy.parameters(), c.learning_rate, fused=True),
            "value": torch.optim.Adam(self.model.value.parameters(), c.critic_rate, fused=True),
        }

    def drawing(self) -> Any:
        """β as a function of raw observations, with the numbers of this iteration."""
        g = generator(self.seed, self.step, "actions", self.hardware.device)
        return lambda s: self.behaviour.draw(s, g)

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        c, model = self.config, self.model
        raw, actions = batch.observations[:-1].flatten(0, 1), batch.actions.flatten(0, 1)
        V, cut = self.values(batch, s)
        steps = batch.steps(V, cut, rewards)
        goal = (rewards + c.gamma * steps.bootstrap).flatten()
        with torch.no_grad():
            log_beta = self.behaviour.log_prob(raw, actions)
        given, v = model(s[:-1].flatten(0, 1))
        log_pi = model.policy.log_prob(given, actions)
        H = model.policy.entropy(given).mean()
        actor = actor_loss(log_pi, log_beta, goal - v, c.rho_max)
        critic = critic_loss(v, goal, log_pi, log_beta, c.rho_max)
        for group in self.optimizers["policy"].param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1 - self.taken / self.total)
        bad = torch.zeros((), device=s.device)
        for name, loss in (("policy", actor - c.entropy * H), ("value", critic)):
            self.optimizers[name].zero_grad()
            loss.backward()
            bad = bad + clipped(getattr(model, name).parameters(), 1.0)
            self.optimizers[name].step()
        rho = (log_pi.detach() - log_beta).exp()
        return {
            "loss": critic.detach() + bad, "entropy": H.detach(), "rho": rho.mean(),
            "effective": rho.sum().square() / rho.square().sum().clamp(min=1e-12) / len(rho),
        }  # fmt: skip
