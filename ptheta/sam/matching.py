r"""Which of three answers is taught which of the masks that a click may mean.

F. Li et al., "Semantic-SAM: Segment and Recognize Anything at Any Granularity", ECCV 2024 (section 3.3, "many-to-many
matching"); N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020 (eq. (1)).

A click on a wheel's hub may mean the hub, the wheel and the car, and where all three are known, all three are taught by
it. With Y_1 the mask that was asked for, and Y_2, Y_3 others that hold the click, no two of which overlap by an IoU
above `SAME`, each has an answer of its own, so that the losses are least in all:

    π = \arg\min_π \sum_{j=1}^n L(m_{π(j)}, Y_j),    n ≤ 3,    π(j) all different                                (1)

    L = \frac 1 n \sum_{j=1}^n L(m_{π(j)}, Y_j)                                                                  (2)

with L of `losses`, eq. (3). With n = 1, as of a box, that is the paper's rule: the best answer alone is taught.

The losses of all answers with all masks, needed only to compare, are products: both focal loss and Dice are linear in
what of the masks does not depend on y,

    \sum_x y f_1(m) + (1 − y) f_0(m) = \sum_x f_0 + ⟨y, f_1 − f_0⟩                                               (3)

| symbol | shape | here |
|---|---|---|
| L | (b, n, a) | of n answers with a masks of each of b pictures |
| π | (n, 3) | an answer for each of up to three masks |
"""

from __future__ import annotations

from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from ptheta.sam import losses

ANSWERS, SAME = 3, 0.7


@torch.no_grad()
def table(m: Float[Tensor, "b n h w"], y: Bool[Tensor, "b a h w"], weight: float) -> Float[Tensor, "b n a"]:
    """L of each answer with each mask, by eq. (3)."""
    m, y = m.flatten(2).float(), y.flatten(2).float()
    p, nats = m.sigmoid(), softplus(-m)  # −log p; −log (1 − p) is m more
    f1 = losses.ALPHA * (1 - p) ** losses.GAMMA * nats
    f0 = (1 - losses.ALPHA) * p**losses.GAMMA * (nats + m)
    focal = (f0.sum(2, keepdim=True) + (f1 - f0) @ y.mT) / m.shape[2]
    dice = 1 - (2 * p @ y.mT + 1) / (p.square().sum(2, keepdim=True) + y.sum(2)[:, None] + 1)
    return weight * focal + dice


@torch.no_grad()
def meant(y: Bool[Tensor, "b p h w"], holding: Bool[Tensor, "b p p"]) -> tuple[Int[Tensor, "n 3"], Bool[Tensor, "n 3"]]:
    """Y_1 to Y_3 of each prompt, as numbers of its picture's masks, and which of them there are. holding: What each
    prompt may mean (`conversation`)."""
    b, p = y.shape[:2]
    flat = y.flatten(2).float()
    both, size = flat @ flat.mT, flat.sum(2)
    same = both / (size[:, :, None] + size[:, None] - both).clamp(min=1) > SAME
    may, own = holding.clone(), torch.arange(p, device=y.device).expand(b, p)
    chosen, there = [own], [torch.ones_like(own, dtype=torch.bool)]
    for _ in range(ANSWERS - 1):
        last = chosen[-1][..., None].expand(-1, -1, p)
        may &= ~same.gather(1, last)
        chosen.append(may.int().argmax(2))  # of several the first; they come in no order
        there.append(may.any(2))
    return torch.stack(chosen, 2).flatten(0, 1), torch.stack(there, 2).flatten(0, 1)


@torch.no_grad()
def matched(cost: Float[Tensor, "n k a"], of: Int[Tensor, "n 3"], there: Bool[Tensor, "n 3"]) -> Int[Tensor, "n 3"]:
    """π of eq. (1)."""
    orders = torch.tensor(list(permutations(range(ANSWERS))), device=cost.device)
    each = cost.gather(2, of[:, None].expand(-1, ANSWERS, -1)).masked_fill(~there[:, None], 0.0)
    sums = each[:, orders, torch.arange(ANSWERS, device=cost.device)].sum(2)
    return orders[sums.argmin(1)]


def loss(
    m: Float[Tensor, "n 3 h w"], y: Bool[Tensor, "b p h w"], holding: Bool[Tensor, "b p p"], weight: float
) -> Float[Tensor, " n"]:
    """Eq. (2) of the answers to n = b p prompts."""
    b, p = y.shape[:2]
    of, there = meant(y, holding)
    answer = matched(table(m.unflatten(0, (b, p)).flatten(1, 2), y, weight).view(b * p, ANSWERS, p), of, there)
    n, j = there.nonzero().unbind(1)
    each = losses.mask_loss(m[n, answer[n, j]], y[n // p, of[n, j]].float(), weight)
    return m.new_zeros(len(m)).index_add(0, n, each / there.sum(1)[n])
