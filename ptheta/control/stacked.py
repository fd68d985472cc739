r"""Several seeds of DDPG as one batch of networks.

With S seeds, of which each has its own environments, replay and generators, the S weight matrices of a layer are one
array, and a layer of all of them is one product,

    Y_s = X_s W_s^T + b_s,    s = 1, …, S                                                                        (1)

so that what an update costs besides its arithmetic is paid once. Losses are added up: no parameter is in two of them,
so that each gets the gradient of its own; Adam and the slow copies go component by component. A seed's own modules and
optimisers hold views of these arrays: it acts, is judged and is saved as if it were alone, and learns what it would
have learned, up to the order in which sums are taken.

| symbol | shape | here |
|---|---|---|
| X, Y | (S, b, inputs), (S, b, outputs) | |
| W, b | (S, outputs, inputs), (S, outputs) | |
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.learning import full
from ptheta.control.offpolicy import follow
from ptheta.control.replay import Transitions
from ptheta.nets.mlp import Pass
from ptheta.nets.optimizers import views


class Stacked:
    """The networks of several `ddpg.Method` of one configuration. It is made of them as they are, and what it learns is
    in them. Raises ValueError for methods that differ in more than their seeds."""

    def __init__(self, methods: list[Any]):
        first = methods[0]
        if any(m.config != first.config or m.data.fingerprint() != first.data.fingerprint() for m in methods):
            raise ValueError("only methods that differ in nothing but their seeds can be learned together.")
        self.methods, self.config = methods, first.config
        self.layers = len(first.config.hidden) + 1
        self.theta: dict[str, Tensor] = {}
        self.slow: dict[str, Tensor] = {}
        self.model: dict[str, list[Tensor]] = {}
        self.targets: dict[str, list[Tensor]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for name in first.optimizers:
            self.theta[name], self.model[name] = joined_views([getattr(m.model, name) for m in methods])
            self.slow[name], self.targets[name] = joined_views([getattr(m.targets, name) for m in methods])
            self.optimizers[name] = self._optimizer(name)

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        """Adam for all seeds, with the state of each one's own, whose tensors become views of it."""
        theta, own = self.theta[name], [m.optimizers[name] for m in self.methods]
        optimizer = torch.optim.Adam([theta.requires_grad_()], own[0].param_groups[0]["lr"], fused=True)
        theta.grad = torch.zeros_like(theta)
        for p, view in zip(self.model[name], views(theta.grad, getattr(self.methods[0].model, name))):
            p.grad = view
        vectors = [one.param_groups[0]["params"][0] for one in own]
        first = {"step": torch.zeros((), device=theta.device), "exp_avg": torch.zeros_like(vectors[0])}
        first["exp_avg_sq"] = torch.zeros_like(vectors[0])
        kept = [one.state.get(of, first) for one, of in zip(own, vectors)]
        whole = {k: torch.stack([state[k] for state in kept]) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.state[theta] = {"step": kept[0]["step"].clone(), **whole}
        for s, (one, of) in enumerate(zip(own, vectors)):
            of.data = theta.detach()[s]
            one.state[of] = {k: x if k == "step" else x[s] for k, x in optimizer.state[theta].items()}
        return optimizer

    def update(self, batches: list[int]) -> list[dict[str, Tensor]]:
        """What `ddpg.Method.update` does, for each; what each has to tell."""
        chances = [m.chance() for m in self.methods]
        found: list[list[dict[str, Tensor]]] = [[] for _ in self.methods]
        for _ in range(self.config.updates):
            drawn = [m.replay.draw(self.config.batch_size, g) for m, g in zip(self.methods, chances)]
            loss, value = self.learn(joined(drawn))
            for s, one in enumerate(found):
                one.append({"loss": loss[s], "value": value[s]})
        return [m.told(batch, one) for m, batch, one in zip(self.methods, batches, found)]

    @torch.no_grad()
    def learn(self, batch: Transitions) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """`ddpg`, eqs. (1) to (3), of (S, b, …); the losses and the mean values."""
        c, hardware, s, m = self.config, self.methods[0].hardware, batch.s, batch.a.shape[2]
        with hardware.autocast():
            after = full(self.Q(self.targets, batch.after, self.policy(self.targets, batch.after)))
        y = batch.r + c.gamma * torch.where(batch.terminated, 0.0, after)
        with hardware.autocast():
            critic = self.through("critic", torch.cat([s, batch.a], 2))
            off = critic.y - y[..., None]
            critic.descend(off * (2 / s.shape[1]))
            self.optimizers["critic"].step()

            policy = self.through("policy", s)
            a = policy.y.tanh()
            critic = self.through("critic", torch.cat([s, a], 2))
            down = critic.pull_to_x(torch.full_like(critic.y, -1 / s.shape[1]), slice(-m, None))
            policy.descend(down * (1 - a.square()))
            self.optimizers["policy"].step()
        follow(list(self.slow.values()), list(self.theta.values()), c.tau)
        return off.square().mean((1, 2)), critic.y.mean((1, 2))

    def through(self, name: str, x: Float[Tensor, "S b n"], of: dict[str, list[Tensor]] | None = None) -> Pass:
        """Eq. (1), layer after layer, and back."""
        parameters = (of or self.model)[name]
        return Pass(parameters[: self.layers], parameters[self.layers :], "relu", x)

    def policy(self, of: dict[str, list[Tensor]], s: Float[Tensor, "S b n"]) -> Float[Tensor, "S b m"]:
        """μ(s)."""
        return self.through("policy", s, of).y.tanh()

    def Q(
        self, of: dict[str, list[Tensor]], s: Float[Tensor, "S b n"], a: Float[Tensor, "S b m"]
    ) -> Float[Tensor, "S b"]:
        """Q(s, a)."""
        return self.through("critic", torch.cat([s, a], 2), of).y[..., 0]


@torch.no_grad()
def joined_views(modules: list[Any]) -> tuple[Float[Tensor, "S n"], list[Tensor]]:
    """The vectors of several networks of the same layers, and the parameters (S, …) of all, which are views of them, as
    those of the modules become."""
    whole = torch.stack([torch.cat([p.flatten() for p in module.parameters()]) for module in modules])
    for theta, module in zip(whole, modules):
        for p, view in zip(module.parameters(), views(theta, module)):
            p.data = view
    return whole, views(whole, modules[0])


def joined(drawn: list[Transitions]) -> Transitions:
    """(S, b, …)."""
    fields = ("s", "a", "r", "after", "terminated")
    return Transitions(*(torch.stack([getattr(one, name) for one in drawn]) for name in fields))
