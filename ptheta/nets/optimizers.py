r"""AdamW as the methods that learn from pictures use it, and Adam of one vector, for small networks.

A step of Adam of six small matrices is mostly what it costs to begin an operation on each. `adam` puts all that a
module learns behind each other,

    θ = (vec W_1, …, vec b_L),    g = ∂L/∂θ                                                                      (1)

of which its parameters and their gradients are views from then on: a step is one operation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) for what learns in a
    model: matrices and convolutions decay, biases and the scales of normalisations do not."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in learned if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        fused=True,
    )


@torch.no_grad()
def vector(module: nn.Module) -> Float[Tensor, " n"]:
    """θ of eq. (1): the module's parameters are views of it from then on, until the module is moved to another
    device."""
    theta = torch.cat([p.detach().flatten() for p in module.parameters()])
    for p, view in zip(module.parameters(), views(theta, module)):
        p.data = view
    return theta


def views(theta: Float[Tensor, "*S n"], module: nn.Module) -> list[Tensor]:
    """Of such a vector, or of several below each other, the part of each parameter of the module, in its shape."""
    parts = theta.split([p.numel() for p in module.parameters()], -1)
    return [part.view(*theta.shape[:-1], *p.shape) for part, p in zip(parts, module.parameters())]


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam (D. Kingma and J. Ba, ICLR 2015) of the one vector of eq. (1), which is its only parameter. Gradients are
    written into those that are there (`mlp.Pass.descend`). Its state can be read by the module's own parameters too,
    of which it has views."""
    theta = nn.Parameter(vector(module))
    theta.grad = torch.zeros_like(theta)
    for p, view in zip(module.parameters(), views(theta.grad, module)):
        p.grad = view
    optimizer = torch.optim.Adam([theta], learning_rate, fused=True)
    step = torch.zeros((), device=theta.device)
    optimizer.state[theta] = {"step": step, "exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.zeros_like(theta)}
    show(optimizer, module)
    return optimizer


def show(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """The state of a module's vector by the module's own parameters."""
    (theta,) = optimizer.param_groups[0]["params"]
    state = optimizer.state[theta]
    first, second = (views(state[name].detach(), module) for name in ("exp_avg", "exp_avg_sq"))
    for p, m, v in zip(module.parameters(), first, second):
        optimizer.state[p] = {"step": state["step"], "exp_avg": m, "exp_avg_sq": v}
