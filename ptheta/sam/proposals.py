r"""How many of a picture's things are among the masks that a model proposes without a prompt.

T.-Y. Lin et al., "Microsoft COCO", ECCV 2014 (evaluation); A. Kirillov et al., "Segment Anything", ICCV 2023
(section 7.3, D.4).

Of the masks of a dense grid, with next to no filter, the 1,000 that the model expects most of are kept, M. With T the
IoU thresholds 0.5, 0.55, …, 0.95,

    AR@1000 = \frac{1}{|T|} \sum_{t ∈ T} \frac{|\{Y : \max_{M} IoU(M, Y) ≥ t\}|}{|Y|}                           (1)

over the true masks Y of all pictures together; small, medium and large are those of areas below 32², below 96², and
above, in pixels of a picture whose longer side is 640, as COCO's are.

Differs from COCO's: a proposal may be the nearest of several truths, which matters where these are nearly equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ptheta.data.instances import Example
from ptheta.engine.method import Estimate
from ptheta.sam.data_engine import every, stacked
from ptheta.sam.evaluation import jackknifed, overlaps
from ptheta.sam.everything import Everything, everything
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor

MOST, LONGER = 1000, 640
THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))
DENSE = Everything(points=32, batch=64, iou=0.0, stability=0.5, overlap=0.9)
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}


def recalls(
    model: SAM, examples: Sequence[Example], asked: Everything = DENSE, progress: Callable[[int], Any] = lambda i: None
) -> dict[str, Estimate]:
    """Eq. (1) as `ar_1000`, and of small, medium and large masks where there are some."""
    predictor = Predictor(model)
    best: list[torch.Tensor] = []
    areas: list[torch.Tensor] = []
    for i, one in enumerate(examples):
        if one.masks:
            found = everything(predictor, one.picture.transpose(1, 2, 0), asked)
            found = sorted(found, key=lambda mask: -mask["predicted_iou"])[:MOST]
            size, truth = one.picture.shape[1:], every(one)
            ious = overlaps(truth, stacked(found, size))
            best.append(ious.amax(1) if ious.shape[1] else torch.zeros(len(truth)))
            areas.append(truth.sum((1, 2)) * (LONGER / max(size)) ** 2)
        progress(i + 1)
    recalled = [torch.stack([b >= t - 1e-6 for t in THRESHOLDS], 1).double().mean(1) for b in best]
    told = {"ar_1000": jackknifed(recalled, torch.mean)} if recalled else {}
    for name, (low, high) in SIZES.items():
        part = [r[(a >= low) & (a < high)] for r, a in zip(recalled, areas)]
        if part := [one for one in part if len(one)]:
            told[f"ar_1000_{name}"] = jackknifed(part, torch.mean)
    return told
