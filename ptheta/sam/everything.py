r"""All masks of a picture, without a prompt by a person: a grid of points, filters, and no mask twice.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 4, "fully automatic stage"; appendix B).

Each point of a grid of n × n prompts for three masks. Of the 3 n² of them those stay

- of which the model expects an IoU above `iou`,
- that hardly change with the threshold: of the pixels with a logit above −1, the share of those above 1,

    stability = \frac{|\{x : m(x) > 1\}|}{|\{x : m(x) > −1\}|} ≥ `stability`                                    (1)

- that do not end where a crop ends, unless the picture ends there,
- and of those whose boxes overlap by more than `overlap`, the one that the model thinks best of (`boxes`).

In further layers, crops of the picture are looked at in the same way, layer l of 2^l × 2^l crops that overlap, with a
grid of n / shrink^l points; among crops the mask of the smaller crop stays.

Masks are full-sized only while (1) and the box are read off, a few at a time; between the filters they are logits as
small as the model's answers, and their run lengths are made of those that are left. What the model expects is known
before a mask is made, so that most are not (with `scoring` it is known when they are made).

| symbol | shape | here |
|---|---|---|
| m | (b, 3, h, w) | logits |
| points | (n², 2) | from 0 to 1 |
| box | left, top, width, height | of a mask, in pixels of the picture |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.data import rle
from ptheta.engine.method import Between, Config
from ptheta.sam.boxes import around, suppressed
from ptheta.sam.predictor import Predictor
from ptheta.sam.regions import without_small

EDGE = 20.0  # pixels from a crop's edge at which a box is said to end there
PIXELS = 1 << 22  # of full-sized logits at a time


@dataclass(frozen=True)
class Everything(Config):
    """What is asked, and what stays."""

    points: Annotated[int, Between(1, 1024)] = 32
    """n, points a side of the grid."""
    batch: Annotated[int, Between(1)] = 8
    """Prompts that are decoded together."""
    iou: Annotated[float, Between(0, 1)] = 0.88
    """Least expected IoU."""
    stability: Annotated[float, Between(0, 1)] = 0.95
    """Least stability, eq. (1)."""
    overlap: Annotated[float, Between(0, 1)] = 0.7
    """Greatest IoU of two boxes of one crop, and of two crops."""
    layers: Annotated[int, Between(0, 6)] = 0
    """Layers of crops besides the whole picture."""
    crop_overlap: Annotated[float, Between(0, 1)] = 512 / 1500
    """By what share of the picture's shorter side neighbouring crops of the first layer overlap."""
    shrink: Annotated[int, Between(1)] = 1
    """By what the grid of each layer is coarser than that before."""
    least: Annotated[int, Between(0)] = 0
    """Holes and islands of fewer pixels are removed."""


@dataclass
class Found:
    """Masks of one crop while they are filtered, all of the same length."""

    logits: Float[Tensor, "n h w"]
    ious: Float[Tensor, " n"]
    stability: Float[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom in pixels of the crop."""
    points: Float[Tensor, "n 2"]

    def __getitem__(self, rows: Tensor) -> Found:
        return Found(self.logits[rows], self.ious[rows], self.stability[rows], self.boxes[rows], self.points[rows])

    def cpu(self) -> Found:
        """The same, off an accelerator."""
        return Found(*(getattr(self, name).cpu() for name in self.__dataclass_fields__))


def grid(n: int) -> np.ndarray:
    """The middles (n², 2) of n × n cells, as x, y from 0 to 1, row by row."""
    side = np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
    return np.stack([np.tile(side, n), np.repeat(side, n)], 1)


def crops(h: int, w: int, layers: int, overlap: float) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(layer, box) of the whole picture and of all crops."""
    found = [(0, (0, 0, w, h))]
    for layer in range(1, layers + 1):
        n = 2**layer
        shared = int(overlap * min(h, w) * (2 / n))
        width, height = (math.ceil((shared * (n - 1) + side) / n) for side in (w, h))
        for x, y in product(range(n), range(n)):
            left, top = (width - shared) * x, (height - shared) * y
            found.append((layer, (left, top, min(left + width, w), min(top + height, h))))
    return found


def everything(
    predictor: Predictor, picture: Any, asked: Everything | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The masks of a picture, each a dict: `segmentation` (run lengths), `area`, `bbox`, `predicted_iou`,
    `point_coords`, `stability_score`, `crop_box`: as SA-1B's files have them. An empty list is an answer.

    picture: As `Predictor.set_image` takes it; it is what the predictor has looked at afterwards, unless there are
    crops. progress: Called with how many points were asked, of how many."""
    asked = asked or Everything()
    picture = predictor.opened(picture)
    h, w = picture.shape[:2]
    parts = crops(h, w, asked.layers, asked.crop_overlap)
    sides = [max(1, asked.points // asked.shrink**layer) for layer, _ in parts]
    total, before = sum(n * n for n in sides), 0
    masks: list[dict[str, Any]] = []
    for n, (_, box) in zip(sides, parts):
        left, top, right, bottom = box
        predictor.set_image(picture[top:bottom, left:right])
        found = of_crop(
            predictor, n, box, (h, w), asked, lambda done, start=before: progress and progress(start + done, total)
        )
        masks += [told(one, box, (h, w)) for one in sized(predictor, found)]
        before += n * n
    if len(parts) > 1:
        masks = best_of_crops(masks, asked.overlap)
    if asked.least:
        masks = cleaned(masks, asked)
    for one in masks:
        one["bbox"] = [one["bbox"][0], one["bbox"][1], one["bbox"][2] - one["bbox"][0], one["bbox"][3] - one["bbox"][1]]
    return masks


@torch.no_grad()
def of_crop(
    predictor: Predictor, n: int, box: tuple[int, int, int, int], size: tuple[int, int], asked: Everything,
    progress: Callable[[int], Any],
) -> Found:  # fmt: skip
    """The masks of the picture that the predictor has looked at, filtered."""
    h, w = predictor.sizes[0]
    points = grid(n) * np.array([w, h])
    found = []
    for first in range(0, len(points), asked.batch):
        at = torch.from_numpy(points[first : first + asked.batch])
        for one in decoded(predictor, at, asked):
            found.append(one[~cut(one.boxes, box, size)])
        progress(min(first + asked.batch, len(points)))
    all_of = joined(found, predictor.model.side)
    return all_of[suppressed(all_of.boxes, all_of.ious, asked.overlap)]


def joined(parts: list[Found], side: int) -> Found:
    """Masks of several prompts together, or none, of a model whose answers have that side."""
    if not parts:
        return Found(*(torch.zeros(shape) for shape in ((0, side, side), 0, 0, (0, 4), (0, 2))))
    return Found(*(torch.cat([getattr(one, name) for one in parts]) for name in Found.__dataclass_fields__))


def decoded(predictor: Predictor, at: Float[Tensor, "b 2"], asked: Everything) -> Iterator[Found]:
    """What points (in pixels of the picture) say, without what the first two filters drop."""
    model = predictor.model
    t, z, s = predictor.looked(at)
    scoring = model.mask_decoder.scoring
    known = asked.iou > 0 and scoring is None
    prompt, which = (s[:, 1:] > asked.iou if known else torch.ones_like(s[:, 1:], dtype=torch.bool)).nonzero().T
    rows = prompt.unique()
    if not len(rows):
        return
    m = predictor.masks_of(t[rows], z[rows])[torch.searchsorted(rows, prompt), which]  # (n, h, w)
    ious, points = s[prompt, 1 + which], at.float().to(s.device)[prompt]
    if scoring is not None:
        ious = scoring(m[:, None], ious[:, None])[:, 0]
        stay = ious > asked.iou if asked.iou > 0 else torch.ones_like(ious, dtype=torch.bool)
        m, ious, points = m[stay], ious[stay], points[stay]
    h, w = predictor.sizes[0]
    step = max(1, PIXELS // max(h * w, model.size**2))
    for part in torch.arange(len(m), device=m.device).split(step):
        full = model.enlarged(m[part][:, None], h, w)[:, 0]
        high, low = ((full > at_least).sum((1, 2), dtype=torch.int32) for at_least in (1.0, -1.0))
        stability = high / low
        stays = stability >= asked.stability if asked.stability > 0 else torch.ones_like(stability, dtype=torch.bool)
        boxes = around(full[stays] > 0).float()
        part = part[stays]
        yield Found(m[part], ious[part], stability[stays], boxes, points[part])


def cut(boxes: Float[Tensor, "n 4"], crop: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """Whether a box ends where its crop ends and the picture does not."""
    left, top = crop[:2]
    at = boxes + torch.tensor([left, top, left, top], dtype=boxes.dtype, device=boxes.device)
    ends = torch.tensor(crop, dtype=at.dtype, device=at.device)
    picture = torch.tensor([0, 0, size[1], size[0]], dtype=at.dtype, device=at.device)
    return (((at - ends).abs() <= EDGE) & ~((at - picture).abs() <= EDGE)).any(1)


def sized(predictor: Predictor, found: Found) -> Iterator[dict[str, Any]]:
    """Masks of the crop's size, one by one."""
    h, w = predictor.sizes[0]
    for i in range(len(found.logits)):
        mask = predictor.model.enlarged(found.logits[i][None, None], h, w)[0, 0] > 0
        yield {
            "mask": mask.cpu().numpy(), "bbox": found.boxes[i].tolist(), "predicted_iou": found.ious[i].item(),
            "point": found.points[i].tolist(), "stability_score": found.stability[i].item(),
        }  # fmt: skip


def told(one: dict[str, Any], crop: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    """A crop's mask as one of the picture; `bbox` still from edge to edge."""
    left, top, right, bottom = crop
    mask = one["mask"]
    if (right - left, bottom - top) != (size[1], size[0]):
        whole = np.zeros(size, bool)
        whole[top:bottom, left:right] = mask
        mask = whole
    x0, y0, x1, y1 = one["bbox"]
    return {
        "segmentation": rle.encode(mask), "area": int(mask.sum()),
        "bbox": [x0 + left, y0 + top, x1 + left, y1 + top], "predicted_iou": one["predicted_iou"],
        "point_coords": [[one["point"][0] + left, one["point"][1] + top]], "stability_score": one["stability_score"],
        "crop_box": [left, top, right - left, bottom - top],
    }  # fmt: skip


def best_of_crops(masks: list[dict[str, Any]], overlap: float) -> list[dict[str, Any]]:
    """Of masks whose boxes overlap, the one of the smallest crop."""
    if not masks:
        return masks
    boxes = torch.tensor([one["bbox"] for one in masks])
    sides = torch.tensor([one["crop_box"][2:] for one in masks], dtype=torch.float32)
    return [masks[i] for i in suppressed(boxes, 1 / sides.prod(1), overlap).tolist()]


def cleaned(masks: list[dict[str, Any]], asked: Everything) -> list[dict[str, Any]]:
    """Without small holes and islands; of masks that have become alike, one that did not have to be changed."""
    if not masks:
        return masks
    new, unchanged = [], []
    for one in masks:
        mask, holes = without_small(rle.decode(one["segmentation"]), asked.least, "holes")
        mask, islands = without_small(mask, asked.least, "islands")
        new.append({**one, "mask": mask})
        unchanged.append(float(not (holes or islands)))
    boxes = around(torch.from_numpy(np.stack([one["mask"] for one in new]))).float()
    out = []
    for i in suppressed(boxes, torch.tensor(unchanged), asked.overlap).tolist():
        one = new[i]
        mask = one.pop("mask")
        if not unchanged[i]:
            one |= {"segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": boxes[i].tolist()}
        out.append(one)
    return out
