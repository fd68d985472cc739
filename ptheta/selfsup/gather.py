r"""What losses that compare pictures need of the other processes: their vectors, with gradients.

With W processes of b pictures each, process r computes the loss L_r of its own pictures against those of all. The
loss of the whole batch is the mean of the L_r, and so is its gradient: each vector's gradient is the sum of what all
L_r have to say of it, which is what `all_gather` passes back, and the mean over processes is what training takes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def gathered(u: Float[Tensor, "b d"], world: int) -> Float[Tensor, "wb d"]:
    """The rows of all `world` processes in their order, with gradient; u itself where there is one."""
    if world == 1:
        return u
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(u.contiguous()))


@torch.no_grad()
def gathered_without_gradient(u: Shaped[Tensor, "b d"], world: int) -> Shaped[Tensor, "wb d"]:
    """The rows of all `world` processes in their order."""
    if world == 1:
        return u.detach()
    parts = [torch.empty_like(u) for _ in range(world)]
    torch.distributed.all_gather(parts, u.contiguous())
    return torch.cat(parts)
