r"""Masks that end where the picture has edges: what is said of a place is said of those beside it that look as one.

X. Cheng, P. Wang and R. Yang, "Depth Estimation via Affinity Learned with Convolutional Spatial Propagation Network",
ECCV 2018.

What prompts change is a map for every 8 pixels (`fine`), and an answer made from it alone ends in steps. With f a map
of the picture for every 2 pixels, and δ one of the nine steps to a neighbour or to itself, a picture has kernels

    K_r(p, ·) = \operatorname{softmax}_δ( (W ∗ GELU(W ∗ f))_{r,δ}(p) + 3 [δ = 0] ),    r = 4, 2, 1                (1)

and each of its answers, to whatever prompt, becomes a mean over a neighbourhood that the picture has chosen,

    m(p) ← \sum_δ K_r(p, δ) m(p + r δ),    for r = 4, then 2, then 1                                             (2)

so that a place reaches 7 others in each direction, 14 pixels. At the picture's end m is continued. The kernels are made
once a picture.

| symbol | shape | here |
|---|---|---|
| f | (i, c, H, W) | of i pictures |
| K | (i, 27, H, W) | r by r, δ row by row |
| m | (b, k, H, W) | logits of k answers to each of b prompts, of which b / i belong to each picture |
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

RATES, HIDDEN, OWN = (4, 2, 1), 32, 3.0
KERNELS = 9 * len(RATES)


class Kernels(nn.Module):
    """Eq. (1). channels: c."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, HIDDEN, 3, padding=1), nn.Conv2d(HIDDEN, KERNELS, 1)

    def forward(self, f: Float[Tensor, "i c H W"]) -> Float[Tensor, "i 27 H W"]:
        each = self.last(gelu(self.first(f))).unflatten(1, (len(RATES), 9))
        own = torch.zeros(9, 1, 1, dtype=each.dtype, device=each.device)
        own[4] = OWN
        return (each + own).softmax(2).flatten(1, 2)


def propagated(m: Float[Tensor, "b k H W"], K: Float[Tensor, "i 27 H W"]) -> Float[Tensor, "b k H W"]:
    """Eq. (2)."""
    of_picture = m.reshape(len(K), -1, *m.shape[2:])
    for r, kernel in zip(RATES, K.to(m.dtype).unflatten(1, (len(RATES), 9)).unbind(1)):
        of_picture = Step.apply(of_picture, kernel, r) if torch.is_grad_enabled() else step(of_picture, kernel, r)
    return of_picture.view_as(m)


def step(m: Float[Tensor, "i n H W"], kernel: Float[Tensor, "i 9 H W"], r: int) -> Float[Tensor, "i n H W"]:
    """Eq. (2) at one rate."""
    near = pad(m, (r, r, r, r), mode="replicate")
    return sum((kernel[:, n : n + 1] * there for n, there in enumerate(neighbours(near, r))), torch.zeros_like(m))


def neighbours(near: Float[Tensor, "*i H2 W2"], r: int) -> list[Float[Tensor, "*i H W"]]:
    """m(p + r δ) for the nine δ, of a map that was continued by r."""
    H, W = (side - 2 * r for side in near.shape[-2:])
    return [near[..., y : y + H, x : x + W] for y in (0, r, 2 * r) for x in (0, r, 2 * r)]


class Step(torch.autograd.Function):
    """`step` and its gradients, a picture after the other, so that what is added up stays in the cache: a third of the
    time of what is derived from `step`."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, kernel: Tensor, r: int) -> Tensor:
        near, out = pad(m, (r, r, r, r), mode="replicate"), torch.zeros_like(m)
        for to, of, shares in zip(out, near, kernel):
            for share, there in zip(shares, neighbours(of, r)):
                to.addcmul_(there, share)
        ctx.save_for_backward(near, kernel)
        ctx.r = r
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (near, kernel), r, g = ctx.saved_tensors, ctx.r, grads[0]
        of_near, of_kernel = torch.zeros_like(near), torch.empty_like(kernel)
        for one, of, shares, to, to_shares in zip(g, near, kernel, of_near, of_kernel):
            for share, there, back, to_share in zip(shares, neighbours(of, r), neighbours(to, r), to_shares):
                to_share.copy_((one * there).sum(0))
                back.addcmul_(one, share)
        size = near.new_empty(g.shape)
        return torch.ops.aten.replication_pad2d_backward(of_near, size, [r, r, r, r]), of_kernel, None
