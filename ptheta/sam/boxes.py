r"""Boxes around masks, and of many boxes that overlap the best one.

A box is (left, top, right, bottom). The intersection over union of two is

    IoU(A, B) = |A ∩ B| / |A ∪ B|                                                                                (1)

and greedy suppression goes through boxes from the highest score down and drops each whose IoU with one that was kept
is above a threshold.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def around(masks: Bool[Tensor, "n h w"]) -> Int[Tensor, "n 4"]:
    """The columns and rows of the outermost pixels, both within; (0, 0, 0, 0) of an empty mask."""
    n, h, w = masks.shape
    rows, columns = masks.any(2), masks.any(1)

    def ends(line: Tensor, length: int) -> tuple[Tensor, Tensor]:
        line = line.to(torch.uint8)
        first, last = line.argmax(1), length - 1 - line.flip(1).argmax(1)
        return first, last

    top, bottom = ends(rows, h)
    left, right = ends(columns, w)
    box = torch.stack([left, top, right, bottom], 1)
    return torch.where(rows.any(1)[:, None], box, torch.zeros_like(box))


def areas(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Of boxes as they are, from edge to edge."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Eq. (1); 0 of two boxes without area."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    either = areas(a)[:, None] + areas(b)[None] - both
    return torch.where(either > 0, both / either, torch.zeros_like(both))


def suppressed(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float) -> Int[Tensor, " k"]:
    """The boxes that stay, from the highest score down; of equal scores the earlier one goes first."""
    order = scores.sort(descending=True, stable=True).indices
    boxes = boxes[order].float()
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if gone[i]:
            continue
        kept.append(i)
        gone[i:] |= iou(boxes[i : i + 1], boxes[i:])[0].cpu() > threshold
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]
