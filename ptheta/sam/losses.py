r"""What masks and expected IoUs are learned by.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 3, "losses and training"; appendix A).
T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
F. Milletari, N. Navab and S.-A. Ahmadi, "V-Net", 3DV 2016 (Dice loss).

With p = σ(m) at each of n pixels, y the truth, and p_y = p where y = 1, else 1 − p,

    focal = −\frac 1 n \sum α_y (1 − p_y)^γ \log p_y,        α_1 = 0.25, α_0 = 0.75, γ = 2                        (1)

    dice = 1 − \frac{2 \sum p y + 1}{\sum p^2 + \sum y + 1}                                                      (2)

    L = λ · focal + dice,    λ = 20                                                                              (3)

of several masks for one prompt by `matching`, so that each of the three learns to be one of the answers; and the
expected IoU s is told from what came out,

    L_s = ( s − \max_{Y'} |M ∩ Y'| / |M ∪ Y'| )²,        M = {m > 0}                                             (4)

with Y' = Y, or of a click that may mean several things any of the masks that hold it: s tells how good a mask is, not
how likely it was meant.

(2) is V-Net's, with squares of p. With p itself, as many write it, the small p of the whole background are most of the
sum where masks are small, and from scratch nothing is learned for hundreds of updates (docs/sam.md).

| symbol | shape | here |
|---|---|---|
| m | (b, h, w); (b, k, h, w) | logits of a mask; of k masks for each of b prompts |
| y | (b, h, w) | 0 or 1 |
| focal, dice, L | (b,) | |
| s, IoU | (b, k) | |
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

ALPHA, GAMMA = 0.25, 2.0


def focal(m: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Eq. (1)."""
    signed = m * (2 * y - 1)  # log p_y = log σ(± m)
    weight = (1 - ALPHA + (2 * ALPHA - 1) * y) * torch.sigmoid(-signed) ** GAMMA
    return -(weight * logsigmoid(signed)).mean((1, 2))


def dice(m: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Eq. (2)."""
    p = m.sigmoid()
    return 1 - (2 * (p * y).sum((1, 2)) + 1) / (p.square().sum((1, 2)) + y.sum((1, 2)) + 1)


def mask_loss(m: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"], weight: float = 20.0) -> Float[Tensor, " b"]:
    """Eq. (3)."""
    return weight * focal(m, y) + dice(m, y)


@torch.no_grad()
def iou(m: Float[Tensor, "b k h w"], y: Float[Tensor, "b h w"]) -> Float[Tensor, "b k"]:
    """That of eq. (4); 1 of two empty masks."""
    M, Y = m > 0, (y > 0.5)[:, None]
    both, either = (M & Y).sum((2, 3)), (M | Y).sum((2, 3))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


@torch.no_grad()
def ious(m: Float[Tensor, "*b n h w"], y: Float[Tensor, "*b a h w"]) -> Float[Tensor, "*b n a"]:
    """That of each mask with each truth, which is not empty."""
    M, Y = (m > 0).flatten(-2).float(), (y > 0.5).flatten(-2).float()
    both = M @ Y.mT
    return both / (M.sum(-1)[..., None] + Y.sum(-1)[..., None, :] - both).clamp(min=1)


def iou_loss(s: Float[Tensor, "b k"], of: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Eq. (4), its mean over the answers to a prompt."""
    return (s - of).square().mean(1)
