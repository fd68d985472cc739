r"""How well things are found, one by one: a score of small things and of large ones.

A thing O is a connected set of pixels of one class in the truth (8 neighbours; the ground is none). What was
said to be it is S, the connected sets of pixels of that class in the prediction that share a pixel with O, and

    IoU(O) = |O ∩ S| / |O ∪ S|                                                                                 (1)

without pixels whose truth is ignored; 0 where nothing is shared. The mean over the things of a range of areas is the
figure of that range. A mean IoU of classes counts pixels: of 1,000 small things and one large, it is the score of the
large one. False alarms where there is no thing are not seen by (1); MIoU sees them.

| symbol | here |
|---|---|
| truth, prediction | label maps (H, W) |
| area | pixels of O |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptheta.data.label_maps import IGNORED

RANGES = {"small": (0.0, 0.01), "medium": (0.01, 0.06), "large": (0.06, 2.0)}  # shares of the picture's pixels


@dataclass(frozen=True)
class Thing:
    """One O."""

    label: int
    area: int
    """Pixels."""
    share: float
    """Of the picture's pixels."""
    iou: float


def things(truth: Any, prediction: Any, ignore: int | None = IGNORED, ground: int | None = 0) -> list[Thing]:
    """The things of a picture and eq. (1) of each; `ground` is the class that is none, if there is one."""
    t, s = np.asarray(truth), np.asarray(prediction)
    scored = np.ones(t.shape, bool) if ignore is None else t != ignore
    found = []
    for c in np.unique(t[scored if ground is None else scored & (t != ground)]).tolist():
        of_truth, count = pieces((t == c) & scored)
        of_prediction, said = pieces((s == c) & scored)
        shared = np.zeros((count + 1, said + 1), np.int64)
        np.add.at(shared, (of_truth.ravel(), of_prediction.ravel()), 1)
        areas, sizes = shared.sum(1), shared.sum(0)
        for o in range(1, count + 1):
            touching = [k for k in range(1, said + 1) if shared[o, k]]
            common, size = int(shared[o, touching].sum()), int(sizes[touching].sum())
            area = int(areas[o])
            found.append(Thing(c, area, area / t.size, common / (area + size - common)))
    return found


def pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of each pixel's connected set, 0 where there is none, and how many sets there are."""
    from scipy.ndimage import label

    found: Any = label(mask, np.ones((3, 3)))
    return found


def by_size(found: list[Thing], ranges: dict[str, tuple[float, float]] = RANGES) -> dict[str, tuple[float, int]]:
    """{range: (mean IoU of the things whose share is in it, how many there are)}; NaN where there are none."""
    out = {}
    for name, (low, high) in ranges.items():
        ious = [one.iou for one in found if low <= one.share < high]
        out[name] = (float(np.mean(ious)) if ious else float("nan"), len(ious))
    return out
