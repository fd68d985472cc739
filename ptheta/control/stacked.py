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
from ptheta.control.replay import Transitions
from ptheta.nets.mlp import Pass


class Stacked:
    """The networks of several `ddpg.Method` of one configuration. It is made of them as they are, and what it learns is
    in them. Raises ValueError for methods that differ in more than their seeds."""

    def __init__(self, methods: list[Any]):
        first = methods[0]
        if any(m.config != first.config or m.data.fingerprint() != first.data.fingerprint() for m in methods):
            raise ValueError("only methods that differ in nothing but their seeds can be learned together.")
        self.methods, self.config = methods, first.config
        self.model = stacked([m.model for m in methods])
        self.targets = stacked([m.targets for m in methods])
        self.layers = len(first.config.hidden) + 1
        self.groups = {
            name: [p for k, p in self.model.items() if k.startswith(f"{name}.")] for name in ("policy", "critic")
        }
        for p in self.model.values():
            p.requires_grad_()
        self.optimizers = {name: self._optimizer(name) for name in self.groups}

    def _optimizer(self, group: str) -> torch.optim.Optimizer:
        """Adam for all seeds, with the state of each one's own, whose tensors become views of it."""
        rate = self.methods[0].optimizers[group].param_groups[0]["lr"]
        optimizer = torch.optim.Adam(self.groups[group], rate, fused=True)
        for name, p in self.model.items():
            if not name.startswith(f"{group}."):
                continue
            own = [dict(m.model.named_parameters())[name] for m in self.methods]
            states = [m.optimizers[group].state for m in self.methods]
            if all(q in state for q, state in zip(own, states)):
                kept = [state[q] for q, state in zip(own, states)]
                optimizer.state[p] = {
                    "step": kept[0]["step"].clone(),
                    **{k: torch.stack([one[k] for one in kept]) for k in ("exp_avg", "exp_avg_sq")},
                }
            else:
                optimizer.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p),
                }  # fmt: skip
            whole = optimizer.state[p]
            for s, (q, state) in enumerate(zip(own, states)):
                state[q] = {k: whole[k] if k == "step" else whole[k][s] for k in ("step", "exp_avg", "exp_avg_sq")}
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

            policy = self.through("policy.net", s)
            a = policy.y.tanh()
            critic = self.through("critic", torch.cat([s, a], 2))
            down = critic.pull_to_x(torch.full_like(critic.y, -1 / s.shape[1]), slice(-m, None))
            policy.descend(down * (1 - a.square()))
            self.optimizers["policy"].step()
        torch._foreach_lerp_(list(self.targets.values()), list(self.model.values()), c.tau)
        return off.square().mean((1, 2)), critic.y.mean((1, 2))

    def through(self, name: str, x: Float[Tensor, "S b n"]) -> Pass:
        """Eq. (1), layer after layer, and back."""
        W, b = ([self.model[f"{name}.{part}.{i}"] for i in range(self.layers)] for part in "Wb")
        return Pass(W, b, "relu", x)

    def policy(self, of: dict[str, Tensor], s: Float[Tensor, "S b n"]) -> Float[Tensor, "S b m"]:
        """μ(s)."""
        return self.net(of, "policy.net", s).tanh()

    def Q(self, of: dict[str, Tensor], s: Float[Tensor, "S b n"], a: Float[Tensor, "S b m"]) -> Float[Tensor, "S b"]:
        """Q(s, a)."""
        return self.net(of, "critic", torch.cat([s, a], 2))[..., 0]

    def net(self, of: dict[str, Tensor], name: str, x: Float[Tensor, "S b n"]) -> Float[Tensor, "S b k"]:
        """Eq. (1), layer after layer, with ReLU between them."""
        for i in range(self.layers):
            W, b = of[f"{name}.W.{i}"], of[f"{name}.b.{i}"]
            x = torch.baddbmm(b[:, None], x, W.transpose(1, 2))
            x = x.relu() if i < self.layers - 1 else x
        return x


@torch.no_grad()
def stacked(modules: list[Any]) -> dict[str, Tensor]:
    """Parameters by name, (S, …); those of the modules become views of them."""
    whole = {
        name: torch.stack([dict(m.named_parameters())[name] for m in modules])
        for name, _ in modules[0].named_parameters()
    }
    for s, module in enumerate(modules):
        for name, p in module.named_parameters():
            p.data = whole[name][s]
    return whole


def joined(drawn: list[Transitions]) -> Transitions:
    """(S, b, …)."""
    fields = ("s", "a", "r", "after", "terminated")
    return Transitions(*(torch.stack([getattr(one, name) for one in drawn]) for name in fields))
