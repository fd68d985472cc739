r"""Learning from what the policy itself does: what every on-policy method does around its own rule.

    \max_θ J(θ) = \mathbb E_{π_θ} [ \sum_t γ^t r_t ]                                                             (1)

An iteration collects a rollout with π_θ (`rollouts`), lets the method improve θ by it once, and forgets it.
Observations and rewards are seen through normalisers (`normalisers`): that of observations moves between iterations, so
that the policy that is improved is the one that acted; rewards are divided by the deviation of returns. --steps counts
steps of all environments.

Randomness is keyed by (seed, iteration); the state of the environments is part of a checkpoint (`envs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptheta.control import episodes
from ptheta.control.actors import ActorCritic
from ptheta.control.envs import Environment
from ptheta.control.normalisers import Returns
from ptheta.control.processes import envs_of
from ptheta.control.rollouts import Rollout, collect
from ptheta.data.order import generator
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Config, Estimate
from ptheta.engine.pretrained import model_card
from ptheta.nets.mlp import through

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPISODES = 10  # that an evaluation looks at, unless told otherwise
RECENT = 100  # episodes of which the mean return is logged


@dataclass(frozen=True)
class OnPolicyConfig(Config):
    """Hyperparameters of the experience and of the networks."""

    envs: Annotated[int, Between(1, 4096)] = 16
    """E, environments that are stepped together."""
    gamma: Annotated[float, Between(0, 1)] = 0.99
    """γ of eq. (1)."""
    hidden: Annotated[tuple[int, ...], Between(1, 65536)] = (64, 64)
    """Units of the hidden layers of the policy, and of those of the critic; none for a linear policy."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of the hidden layers."""
    sigma: Annotated[float, Between(0.01, 5)] = 0.6
    """Deviation σ of continuous actions at first, of bounds from −1 to 1."""
    normalise_observations: bool = True
    """Whether observations are seen with mean 0 and deviation 1 (pictures never)."""
    normalise_rewards: bool = True
    """Whether rewards are learned from in units of the deviation of returns."""


class Control:
    """What all methods of this room share: judging, drawing, saving. A subclass names `Config`, `Model`, `steps`."""

    Config: type
    Model: type
    unit = "env_steps"
    steps: int
    default_data = "CartPole-v1"
    figure = "return_mean"
    better: Literal["lower", "higher"] = "higher"
    keep: Literal["best", "last"] = "best"
    model: Any
    envs: Any
    optimizers: dict[str, torch.optim.Optimizer]

    def begin(self, config: Any, data: Environment, seed: int, hardware: Hardware, steps: int) -> None:
        """What every constructor keeps. Raises UsageError for several processes."""
        if hardware.world > 1:
            raise UsageError(
                f"methods of control learn in one process, not in {hardware.world}; to train several seeds at once, "
                "use --seeds."
            )
        self.config, self.data, self.seed, self.hardware, self.total = config, data, seed, hardware, steps
        self.taken, self.step, self.recent = 0, 0, []
        self.means: dict[str, Tensor] = {}

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> Environment:
        return spec if isinstance(spec, Environment) else Environment(spec)

    def finished(self, ended: list[tuple[float, int]]) -> dict[str, Tensor]:
        """Episodes that ended, into the mean that is logged."""
        if ended or not self.means:
            self.recent = [*self.recent, *([total, length] for total, length in ended)][-RECENT:]
            means = torch.tensor(self.recent, dtype=torch.float64).mean(0) if self.recent else ()
            self.means = {name: mean for name, mean in zip(("return", "length"), means)}
        return self.means

    def evaluate(self, data: Environment, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """return_mean and length_mean of deterministic episodes: `episodes`, eq. (1)."""
        return episodes.figures(*episodes.judged(self.model, data, split, limit or EPISODES))

    def pictures(self) -> dict[str, Figure]:
        return {"episode": episodes.drawn(self.model, self.data)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step, "taken": self.taken, "recent": self.recent,
            "model": self.model.state_dict(), "envs": self.envs.state_dict(),
            "optimizers": {
                name: checkpoint.optimizer_state(self.model, optimizer) for name, optimizer in self.optimizers.items()
            },
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.taken, self.recent, self.means = state["step"], state["taken"], state["recent"], {}
        self.model.load_state_dict(state["model"])
        self.envs.load_state_dict(state["envs"])
        for name, optimizer in self.optimizers.items():
            checkpoint.load_optimizer_state(self.model, optimizer, state.get("optimizers", {}).get(name, {}))

    def save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder, about={"data": self.data.name}, card=self.card())

    def card(self) -> str:
        """The text of the model card."""
        learned = f"A policy for {self.data.name} ({self.data.spaces.describe()}), {self.taken:,} steps of it"
        code = "action = model.act(observation)   # as the environment gives and takes them"
        return model_card(self, "reinforcement-learning", learned, code)

    def start_from(self, model: Any) -> None:
        """The weights and moments of another model of the same kind (`--init`)."""
        own, theirs = self.model.state_dict(), model.state_dict()
        if own.keys() != theirs.keys() or any(own[k].shape != theirs[k].shape for k in own):
            raise InputError(
                f"--init holds a {model.name} for {getattr(model, 'environment', '?')} that does not fit; allowed: one "
                "of the same observations, actions and layers."
            )
        self.model.load_state_dict(theirs)


class OnPolicy(Control):
    """A subclass has `improve`, and `experience` if it does not learn from `config.rollout` steps of each
    environment."""

    Model = ActorCritic
    staggered = True  # `envs`; not where episodes are looked at as a whole

    def __init__(self, config: Any, data: Environment, seed: int, hardware: Hardware, steps: int):
        self.begin(config, data, seed, hardware, steps)
        self.envs = envs_of(data, config.envs, seed, self.staggered, torch.get_num_threads())
        self.model = self.Model(
            data.name, data.spaces.to_dict(), config.hidden, config.activation, config.sigma, seed
        ).to(hardware.device)
        self.returns = Returns(config.envs).to(hardware.device)
        self.optimizers = self.optimizers_of()

    def optimizers_of(self) -> dict[str, torch.optim.Optimizer]:
        """By name."""
        raise NotImplementedError

    def improve(self, batch: Rollout, s: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        """The paper's rule, once, from a rollout, its normalised observations (T + 1, E, …) and rewards (T, E)."""
        raise NotImplementedError

    @property
    def gamma(self) -> float:
        """γ of this iteration."""
        return self.config.gamma

    # ------------------------------------------------------------ the loop

    def batches(self, start: int, rank: int, world: int) -> Iterator[Rollout]:
        """Rollouts of the policy as it is. Until they are no longer asked for, PyTorch has one thread, unless there are
        pictures to read: threads wait for each other longer than these networks take; `envs_of` has use for them."""
        before = torch.get_num_threads()
        if not self.data.spaces.pixels:
            torch.set_num_threads(1)
        try:
            while True:
                yield self.experience()
        finally:
            torch.set_num_threads(before)

    def experience(self) -> Rollout:
        """One rollout."""
        return collect(self.envs, self.config.rollout, self.drawing(), self.hardware.device)

    def drawing(self) -> Any:
        """The policy as a function of raw observations, with the numbers of this iteration."""
        g = generator(self.seed, self.step, "actions", self.hardware.device)
        policy, normalised = self.model.policy, self.model.frozen()
        return lambda s: policy.draw(policy.given(normalised(s)), g)

    def update(self, batch: Rollout) -> dict[str, Tensor]:
        """One iteration."""
        rewards = batch.rewards
        if self.config.normalise_rewards:
            self.returns.update(rewards, batch.terminated | batch.truncated, self.gamma, batch.alive)
            rewards = self.returns(rewards)
        with torch.no_grad():
            s = self.model.normalised(batch.observations)
        logs = self.improve(batch, s, rewards)
        if self.config.normalise_observations and not self.data.spaces.pixels:
            self.model.moments.update(batch.observations[:-1][batch.alive])
        self.step += 1
        self.taken += batch.taken
        return {**logs, **self.finished(batch.finished), "units": torch.tensor(batch.taken)}

    def values(self, batch: Rollout, s: Tensor) -> tuple[Tensor, Tensor]:
        """V without gradient, of s (T + 1, E) and of what truncated episodes ended with (k,)."""
        with torch.no_grad():
            V = self.model.V(s.flatten(0, 1)).view(s.shape[:2])
            return V, self.model.V(self.model.normalised(batch.cut_with)) if batch.cut else V.new_zeros(0)

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "returns": self.returns.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.returns.load_state_dict(state["returns"])


def least_squares(
    value: nn.Module, optimizer: torch.optim.Optimizer, s: Tensor, R: Float[Tensor, " n"], epochs: int, size: int,
    g: torch.Generator,
) -> Tensor:  # fmt: skip
    """V towards R at s by minibatches of a size; the mean of (V − R)² before it."""
    with torch.no_grad():
        before = (value(s)[:, 0] - R).square().mean()
    for _ in range(epochs):
        order = torch.randperm(len(s), generator=g, device=s.device)
        for x, goal in zip(s[order].split(size), R[order].split(size)):
            squares(value, x, goal)
            optimizer.step()
    return before


def squares(net: nn.Module, x: Tensor, y: Float[Tensor, " b"]) -> Tensor:
    """The mean of (net(x) − y)², after its gradient was put into those of the net's parameters."""
    done = through(net, x)
    off = full(done.y) - y[:, None]
    done.descend((off * (2 / len(y))).to(done.y.dtype))
    return off.square().mean()


def full(x: Tensor) -> Tensor:
    """In float32, where it was computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def clipped(parameters: Any, norm: float) -> Tensor:
    """Gradients no longer than `norm`, in place; 0, or NaN if they are not finite: what a loss that is added to it
    shows."""
    return 0 * torch.nn.utils.clip_grad_norm_(parameters, norm)
