r"""Learning little of a large matrix: a product of two narrow ones is added to it.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

    W' = W + B A,    A ∈ R^{r × n},  B ∈ R^{m × r},  A ~ N(0, 1 / n),  B = 0                                      (1)

W stays as it is; A and B are learned, and W' = W where they begin. Merged into W they cost nothing in use.

Differs from the paper: its scale α / r is one; what learns is made faster or slower by its step size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Added(nn.Module):
    """Eq. (1)."""

    def __init__(self, m: int, n: int, rank: int, g: torch.Generator):
        super().__init__()
        self.A = nn.Parameter(n**-0.5 * torch.randn(rank, n, generator=g))
        self.B = nn.Parameter(torch.zeros(m, rank))

    def forward(self, W: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        return W + self.B @ self.A


def add(linear: nn.Linear, rank: int, g: torch.Generator) -> None:
    """Make the layer's weight W' of eq. (1)."""
    m, n = linear.weight.shape
    added = Added(m, n, rank, g).to(linear.weight)
    linear.weight.requires_grad_(False)
    parametrize.register_parametrization(linear, "weight", added)


@torch.no_grad()
def merged(module: nn.Module) -> dict[str, Tensor]:
    """The state of the module as it would be without additions: W' in the place of W, A and B."""
    state = {name: value for name, value in module.state_dict().items() if ".parametrizations." not in f".{name}"}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and parametrize.is_parametrized(part, "weight"):
            state[f"{name}.weight".removeprefix(".")] = part.weight
    return state
