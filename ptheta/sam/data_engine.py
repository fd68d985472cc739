r"""The data engine: a model helps to make the masks that it is then trained on.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 4).

Three stages, each of one round or several; after each round the model learns from all masks so far:

- assisted-manual: of each thing in a picture that somebody has in mind, clicks until the answer is good enough;
- semi-automatic: masks that the model is sure of are there from the beginning; wrong ones are thrown out, and what is
  missing is clicked as before;
- fully automatic: a grid of points, each mask looked at twice, filters (`twice`); nobody looks.

Who annotates is a person in a window (`window`), or simulated: one who has true masks in mind, clicks at the middle of
where the answer errs (`clicks`, eq. (2)), takes of three answers the best, or what that is after a closer look if it is
better, comes closer to what is small (`closer`), is content with an IoU of `enough`, paints what `most` clicks have not
reached, as the paper's annotators can with a brush, and accepts a mask of the model where it has that IoU with one in
mind. With masks M_i and all clicks c, those before painting and one for each mask thrown out among them,

    clicks per mask = c / |M|                                                                                    (1)

    quality = \frac{|\{i : \max_Y IoU(M_i, Y) > 0.9\}|}{|M|}                                                  (2)

    recall = \frac{|\{Y : \max_i IoU(M_i, Y) > 0.9\}|}{|Y|}                                                   (3)

over the true masks Y, where these are known.

Each round writes a set of files (`mask_sets`), picture by picture, and what is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.engine.checkpoint import write_text
from ptheta.sam import clicks, mask_sets
from ptheta.sam.closer import Closer, Turn
from ptheta.sam.evaluation import overlap, overlaps
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Answer, Predictor
from ptheta.sam.twice import Twice, twice

GOOD = 0.9
Masks = list[dict[str, Any]]


@dataclass(frozen=True)
class Round:
    """So many pictures of one stage."""

    stage: Literal["assisted", "semi", "automatic"]
    pictures: int


@dataclass
class Work:
    """What was done for one picture."""

    masks: Masks
    clicks: int = 0
    thrown_out: int = 0
    painted: int = 0
    seconds: float = 0.0


class Left(Exception):
    """A person has left in the middle."""


class Annotator(Protocol):
    """Who makes masks. filled: Those that are there from the beginning, by the model or of an earlier sitting. keep: To
    be called with all masks of the picture whenever there is one more."""

    def annotate(
        self, predictor: Predictor, example: Example, filled: Masks, keep: Callable[[Masks], None]
    ) -> Work: ...


@dataclass(frozen=True)
class Simulated:
    """See above; it has the masks of the example in mind."""

    enough: float = GOOD
    most: int = 20

    def annotate(self, predictor: Predictor, example: Example, filled: Masks, keep: Callable[[Masks], None]) -> Work:
        started = time.perf_counter()
        truth = every(example)
        good = overlaps(stacked(filled, truth.shape[1:]), truth) >= self.enough  # (filled, truth)
        right = good.any(1).tolist()
        masks = [one for one, is_right in zip(filled, right) if is_right]
        missing = truth[~good.any(0)]
        closer = Closer(predictor, example.picture.transpose(1, 2, 0))
        made, spent, reached = clicked(closer, missing, self.enough, self.most)
        share = (time.perf_counter() - started) / max(1, len(missing))
        for mask, true, count, done in zip(made, missing, spent.tolist(), reached.tolist()):
            how = {"source": "person"} if done else {"source": "person", "painted": True}
            masks.append(told((mask if done else true).numpy(), **how, clicks=count, seconds=share))
        thrown, painted = right.count(False), int((~reached).sum())
        return Work(masks, int(spent.sum()) + thrown, thrown, painted, time.perf_counter() - started)


@torch.no_grad()
def clicked(
    closer: Closer, truth: Bool[Tensor, "n h w"], enough: float, most: int
) -> tuple[Bool[Tensor, "n h w"], Tensor, Tensor]:
    """For masks in mind the last answers, how many clicks each took, and whether it was good enough at last."""
    made, spent = torch.zeros_like(truth), torch.ones(len(truth), dtype=torch.long)
    reached = torch.zeros(len(truth), dtype=torch.bool)
    if not len(truth):
        return made, spent, reached
    at, _ = clicks.middle(truth)
    first = closer.predictor.predict(points=at[:, None], labels=torch.ones(len(truth), 1))
    for i, wanted in enumerate(truth):
        points, labels = [at[i].tolist()], [1]
        turn = closer.begun(Answer(first.masks[i], first.ious[i], first.logits[i]))
        best, iou = nearest(turn, wanted)
        near = None if iou >= enough else closer.nearer(points, labels, turn, best)
        if near is not None and nearest(near, wanted)[1] > iou:
            turn = near
        while True:
            best, iou = nearest(turn, wanted)
            made[i], reached[i] = turn.answer.masks[best].cpu(), iou >= enough
            if reached[i] or spent[i] == most:
                break
            point, _ = clicks.middle((made[i] ^ wanted)[None])
            points.append(point[0].tolist())
            labels.append(int(clicks.labels(point, wanted[None])))
            turn, spent[i] = closer.ask(points, labels, turn, best), spent[i] + 1
    return made, spent, reached


def nearest(turn: Turn, wanted: Bool[Tensor, "h w"]) -> tuple[int, float]:
    """Which answer comes nearest to what is meant, and its IoU with it."""
    masks = turn.answer.masks.cpu()
    ious = overlap(masks, wanted.expand_as(masks))
    return int(ious.argmax()), float(ious.max())


def every(example: Example) -> Bool[Tensor, "n h w"]:
    """All masks of an example."""
    return stacked([{"segmentation": one} for one in example.masks], example.picture.shape[1:])


def stacked(masks: Masks, size: Sequence[int]) -> Bool[Tensor, "n h w"]:
    """Masks of run lengths, of pictures of that size."""
    if not masks:
        return torch.zeros(0, *size, dtype=torch.bool)
    return torch.from_numpy(np.stack([rle.decode(one["segmentation"]) for one in masks]))


def told(mask: np.ndarray, **about: Any) -> dict[str, Any]:
    """A mask as files have it."""
    return {"segmentation": rle.encode(mask), "area": int(mask.sum()), **about}


# ---------------------------------------------------------------- a round


@dataclass
class Tally:
    """What a round comes to."""

    stage: str
    pictures: int = 0
    masks: int = 0
    clicks: int = 0
    thrown_out: int = 0
    painted: int = 0
    seconds: float = 0.0
    good: int = 0
    found: int = 0
    true: int = 0
    from_model: int = 0
    ious: list[float] = field(default_factory=list, repr=False)

    def report(self) -> dict[str, Any]:
        """Eqs. (1) to (3), and what they are made of; None where truth is not known."""
        per = max(1, self.masks)
        about = {k: v for k, v in vars(self).items() if k not in ("ious", "good", "found", "true")}
        quality = {"mean_iou": None, "quality": None, "recall": None}
        if self.true:
            quality = {"mean_iou": float(np.mean(self.ious)) if self.ious else 0.0, "quality": self.good / per,
                       "recall": self.found / self.true}  # fmt: skip
        return {**about, "masks_per_picture": self.masks / max(1, self.pictures),
                "clicks_per_mask": self.clicks / per, "seconds_per_mask": self.seconds / per, **quality}  # fmt: skip


def annotated(
    predictor: Predictor, example: Example, stage: str, annotator: Annotator, sure: Twice, automatic: Twice,
    before: Masks, keep: Callable[[Masks], None],
) -> Work:  # fmt: skip
    """The masks of one picture in a stage. before: Those of an earlier sitting, which was not ended."""
    x = example.picture.transpose(1, 2, 0)
    started = time.perf_counter()
    if stage == "automatic":
        found = [{**one, "source": "model", "clicks": 0} for one in twice(predictor, x, automatic)]
        return Work(found, seconds=time.perf_counter() - started)
    filled = before
    if stage == "semi" and not before:
        filled = [{**one, "source": "model", "clicks": 0} for one in twice(predictor, x, sure)]
    predictor.set_image(x)
    return annotator.annotate(predictor, example, filled, keep)


def round_of(
    examples: Sequence[Example], stage: Literal["assisted", "semi", "automatic"], folder: Path, predictor: Predictor,
    annotator: Annotator, sure: Twice, automatic: Twice, number: int, progress: Callable[[int], Any],
) -> dict[str, Any]:  # fmt: skip
    """Make the set of a round, or what of it is missing, and tell what it came to."""
    tally = Tally(stage)
    for i, example in enumerate(examples):
        name = f"{i:05d}-{Path(example.name).stem.replace(' ', '-')}"
        file, size = folder / f"{name}.json", example.picture.shape[1:]
        about = mask_sets.read(file) if file.exists() else ({}, [])
        if not about[0].get("done"):
            mask_sets.write_picture(folder / f"{name}.png", example.picture.transpose(1, 2, 0))

            def keep(masks: Masks, file: Path = file, name: str = name, size: Any = size) -> None:
                mask_sets.write(file, f"{name}.png", size, masks, done=False)

            work = annotated(predictor, example, stage, annotator, sure, automatic, about[1], keep)
            counts = {k: v for k, v in vars(work).items() if k != "masks"}
            mask_sets.write(file, f"{name}.png", size, work.masks, done=True, **counts)
            about = mask_sets.read(file)
        counted(tally, example, *about)
        progress(i + 1)
    report = tally.report()
    told_of = {"version": number, **report, "weights": fingerprint(predictor.model)}
    write_text(folder / "provenance.json", json.dumps(told_of, indent=2) + "\n")
    return report


def fingerprint(model: SAM) -> str:
    """SHA-256 (hex) of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def counted(tally: Tally, example: Example, about: dict[str, Any], masks: Masks) -> None:
    """Add what a picture's file says, and compare its masks with those that are true, if there are."""
    tally.pictures += 1
    tally.masks += len(masks)
    tally.from_model += sum(one.get("source") == "model" for one in masks)
    for name in ("clicks", "thrown_out", "painted", "seconds"):
        setattr(tally, name, getattr(tally, name) + about.get(name, 0))
    if not example.masks:
        return
    truth = every(example)
    ious = overlaps(stacked(masks, example.picture.shape[1:]), truth)
    tally.true += len(truth)
    if len(masks):
        nearest = ious.amax(1)
        tally.ious += nearest.tolist()
        tally.good += int((nearest > GOOD).sum())
        tally.found += int((ious.amax(0) > GOOD).sum())
