r"""All masks of a picture, looked at twice: what a grid of points finds is asked for again, closer, and judged by both.

Source: our own; the masks that the data engine trusts its model with.

Candidates are the answers to a grid of points, as `everything` makes them, of an expected IoU s^{(1)} above LOOSE (or
`sure`, if that is less); of those whose boxes overlap by more than ALIKE only the best. A thing's mask is answered by
whichever of its points is asked:

    support(m) = \min(1, \frac{|\{points with an answer m' : IoU(m', m) > SAME\}|}{|\{points in m\}|})           (1)

Each is asked for again by its box and its logits in the window around it (`closer`), which gives the mask that stays,
and s^{(2)}. With

    q = s^{(1)} s^{(2)} \sqrt{support}                                                                           (2)

(expected IoUs between 0 and 1) those of q ≥ `sure` stay, and of those whose boxes overlap by more than `overlap` the
one of the greatest q. As s^{(2)} ≤ 1, what cannot come to q is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.data import rle
from ptheta.engine.method import Between, Config
from ptheta.sam.boxes import around, suppressed
from ptheta.sam.closer import Closer
from ptheta.sam.evaluation import overlaps
from ptheta.sam.everything import Everything, Found, decoded, grid, joined
from ptheta.sam.predictor import Answer, Predictor

LOOSE, ALIKE, SAME = 0.4, 0.8, 0.85


@dataclass(frozen=True)
class Twice(Config):
    """What is asked, and what stays."""

    points: Annotated[int, Between(1, 1024)] = 24
    """Points a side of the grid."""
    batch: Annotated[int, Between(1)] = 64
    """Prompts that are decoded together."""
    sure: Annotated[float, Between(0, 1)] = 0.72
    """Least q, eq. (2)."""
    overlap: Annotated[float, Between(0, 1)] = 0.7
    """Greatest IoU of two boxes."""


@torch.no_grad()
def twice(
    predictor: Predictor, picture: Any, asked: Twice | None = None,
    progress: Callable[[float], Any] = lambda share: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The masks of a picture, each a dict: `segmentation` (run lengths), `area`, `bbox` (left, top, width, height),
    `predicted_iou` (s^{(2)}), `point_coords`, `confidence` (q), the greatest q first.

    picture: As `Predictor.set_image` takes it; it is what the predictor has looked at afterwards. progress:
    Called with what share is done."""
    asked = asked or Twice()
    picture = predictor.opened(picture)
    h, w = picture.shape[:2]
    predictor.set_image(picture)
    found, first = candidates(predictor, asked, progress)
    closer, kept = Closer(predictor, picture), []
    rows = (first >= asked.sure).nonzero()[:, 0].tolist()
    for k, i in enumerate(rows):
        progress((1 + k / len(rows)) / 2)
        whole = predictor.model.enlarged(found.logits[i][None, None], h, w)[0] > 0
        if not whole.any():
            continue
        answer = closer.again(closer.begun(Answer(whole, found.ious[i][None], found.logits[i][None]))).answer
        q = float(first[i]) * float(answer.ious[0].clamp(0, 1))
        if q >= asked.sure and answer.masks.any():
            kept.append((answer.masks[0], answer.ious[0].item(), q, found.points[i].tolist()))
    if not kept:
        return []
    boxes = around(torch.stack([mask for mask, *_ in kept])).float()
    best = suppressed(boxes, torch.tensor([q for _, _, q, _ in kept]), asked.overlap).tolist()
    return [told(boxes[i].tolist(), *kept[i]) for i in best]


def candidates(
    predictor: Predictor, asked: Twice, progress: Callable[[float], Any]
) -> tuple[Found, Float[Tensor, " n"]]:  # fmt: skip
    """What the picture that the predictor has looked at is said to hold, and s^{(1)} √support."""
    h, w = predictor.sizes[0]
    at = torch.from_numpy(grid(asked.points) * np.array([w, h]))
    loose = Everything(points=asked.points, batch=asked.batch, iou=min(LOOSE, asked.sure), stability=0.0)
    parts: list[Found] = []
    for k, some in enumerate(at.split(asked.batch)):
        progress(k * asked.batch / len(at) / 2)
        parts += decoded(predictor, some, loose)
    every = joined(parts, predictor.model.side).cpu()
    if not len(every.ious):
        return every, every.ious
    some = every[suppressed(every.boxes, every.ious, ALIKE)]
    return some, some.ious.clamp(0, 1) * support(predictor, some, every, at).sqrt()


def support(
    predictor: Predictor, some: Found, every: Found, at: Float[Tensor, "p 2"]
) -> Float[Tensor, " n"]:  # fmt: skip
    """Eq. (1), in cells of the logits."""
    a, side = predictor.model.side, max(predictor.sizes[0])
    masks = some.logits > 0
    alike = overlaps(masks, every.logits > 0) > SAME
    _, of = torch.unique(every.points, dim=0, return_inverse=True)
    told = torch.zeros(len(masks), int(of.max()) + 1).index_add_(1, of, alike.float()).clamp(max=1).sum(1)
    x, y = (at * a / side).long().clamp(max=a - 1).unbind(1)
    return (told / masks[:, y, x].sum(1).clamp(min=1)).clamp(max=1)


def told(box: list[float], mask: Bool[Tensor, "H W"], s: float, q: float, point: list[float]) -> dict[str, Any]:
    """A mask as files have it."""
    left, top, right, bottom = box
    return {"segmentation": rle.encode(mask.numpy()), "area": int(mask.sum()),
            "bbox": [left, top, right - left, bottom - top], "predicted_iou": s, "point_coords": [point],
            "confidence": q}  # fmt: skip
