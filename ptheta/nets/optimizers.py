r"""AdamW as the methods that learn from pictures use it, and small networks as one vector.

An optimiser's step for six small matrices is mostly what it costs to begin an operation on each. `vector` puts all that
a module learns behind each other,

    θ = (vec W_1, …, vec b_L),    g = ∂L/∂θ                                                                      (1)

of which its parameters and their gradients are views from then on: an optimiser of θ makes one step.
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
def vector(module: nn.Module) -> nn.Parameter:
    """θ of eq. (1). The module's parameters are views of it from then on, and their gradients of its own if they are
    learned: they are written to (`mlp.Pass.descend`), never replaced, and set to zero by
    `zero_grad(set_to_none=False)`. It ends where the module is moved to another device or type."""
    parameters = list(module.parameters())
    theta = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]), parameters[0].requires_grad)
    for p, view in zip(parameters, views(theta.data, module)):
        p.data = view
    if theta.requires_grad:
        theta.grad = torch.zeros_like(theta)
        for p, view in zip(parameters, views(theta.grad, module)):
            p.grad = view
    return theta


def views(theta: Float[Tensor, "*S n"], module: nn.Module) -> list[Tensor]:
    """Of such a vector, or of several below each other, the part of each parameter of the module, in its shape."""
    parts = theta.split([p.numel() for p in module.parameters()], -1)
    return [part.view(*theta.shape[:-1], *p.shape) for part, p in zip(parts, module.parameters())]
