r"""How good a model's answers are to a careful person's clicks.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 7.1; D.1).

For each mask Y of a picture a first click is made at the mask's middle (`clicks`, eq. (2)), each next one at the middle
of where the answer is wrong, as label tells, with the last answer's logits. With m_1, m_2, m_3 the three answers to the
first click and Y' any of its truths: Y, and of each other person who drew this picture, the masks that hold the click,

    miou_1 = \operatorname{mean} \max_{k, Y'} IoU(m_k, Y')    the best of three, for the person who comes nearest  (1)

    miou_1_told = \operatorname{mean} \max_{Y'} IoU(m_{k^*}, Y')    of the one that the model expects to be best     (2)

    miou_n = \operatorname{mean} IoU(m^{(n)}, Y),    n = 3, 5                                                        (3)

    miou_box = \operatorname{mean} IoU(m_{k^*}, Y)    of the answers to the box around Y                            (4)

    iou_correlation = \operatorname{corr}(s_k, \max_{Y''} IoU(m_k, Y''))    over all first answers                   (5)

with Y'' any mask that holds the click: an answer may be good that was not meant. Where masks have names and the model
is asked in words, each name in a picture is one question, and

    miou_words = \operatorname{mean} \max_{Y'} IoU(m_{k^*}, Y')    with Y' the masks of that name                 (6)

Masks of less than a thousandth of the picture are not asked for, and at most `ASKED` of a picture, drawn once for all.
Standard errors are by leaving out one picture at a time (the jackknife), as masks of one picture are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.data.instances import Example
from ptheta.engine.errors import InputError
from ptheta.engine.method import Estimate
from ptheta.sam import clicks, losses
from ptheta.sam.boxes import around
from ptheta.sam.model import SAM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASKED, LEAST, CLICKS, AT_ONCE = 32, 1 / 1000, 5, 32


def asked(example: Example, least: float = LEAST, most: int = ASKED) -> list[int]:
    """The masks of a picture that are asked for."""
    h, w = example.picture.shape[1:]
    large = [i for i in range(len(example.masks)) if example.mask(i).sum() >= least * h * w]
    if len(large) <= most:
        return large
    order = np.random.default_rng(0).permutation(len(large))
    return sorted(large[i] for i in order[:most])


@torch.no_grad()
def converse(
    model: SAM, example: Example, rows: list[int], count: int = CLICKS
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n c"], Tensor]:
    """For some masks of a picture the IoUs of the three answers to a first click, by eq. (1), and by eq. (5); what the
    model expected them to be; the IoUs after each of `count` clicks with Y itself, of the one answer (of the first
    click: of that which was expected to be best); and that of the box."""
    h, w = example.picture.shape[1:]
    device = model.mean.device
    z = model.embed_image(model.framed(torch.from_numpy(example.picture).to(device))[None])
    every = torch.stack([torch.from_numpy(example.mask(i).copy()) for i in range(len(example.masks))]).to(device)
    of = torch.tensor(example.annotator, device=device)
    found: list[tuple[Tensor, ...]] = []
    for part in torch.tensor(rows, device=device).split(AT_ONCE):
        truth = every[part]
        at, _ = clicks.middle(truth)
        labels = torch.ones(len(part), 1, dtype=torch.long, device=device)
        points, n = at[:, None], torch.arange(len(part), device=device)
        answers, s = model.decode(z, points, labels)
        m = within(model, answers, h, w)
        x, y = at.long().unbind(1)
        holds, own = every[:, y, x].T, part[:, None] == torch.arange(len(every), device=device)
        others = holds & (of != of[part][:, None])
        each = losses.ious(m.flatten(0, 1), every.float()).unflatten(0, m.shape[:2])  # (n, 3, a)
        firsts, nearest = (each.masked_fill(~(may | own)[:, None], 0.0).amax(2) for may in (others, holds))
        expected, ious = s, []
        for turn in range(count):
            chosen, logits = m[n, s.argmax(1)], answers[n, s.argmax(1)][:, None]
            ious.append(overlap(chosen, truth))
            if turn < count - 1:
                point, there = clicks.middle(chosen ^ truth)
                label = torch.where(there, clicks.labels(point, truth), -1)
                points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
                answers, s = model.decode(z, points, labels, masks=logits, several=False)
                m = within(model, answers, h, w)
        ends = around(truth).float() + torch.tensor([0.0, 0.0, 1.0, 1.0], device=device)
        answers, s = model.decode(z, boxes=ends)
        boxed = overlap(within(model, answers, h, w)[n, s.argmax(1)], truth)
        found.append((firsts, nearest, expected, torch.stack(ious, 1), boxed))
    a, b, c, d, e = (torch.cat(parts).float().cpu() for parts in zip(*found))
    return a, b, c, d, e


def within(model: SAM, logits: Float[Tensor, "n k a b"], h: int, w: int) -> Bool[Tensor, "n k h w"]:
    """Masks at the size of a picture whose longer side is the model's."""
    frame = torch.nn.functional.interpolate(
        logits.float(), (model.size, model.size), mode="bilinear", align_corners=False
    )
    return frame[..., :h, :w] > 0


def overlap(m: Bool[Tensor, "*n h w"], y: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n"]:
    """IoU of masks that are not both empty; 1 where they are."""
    both, either = (m & y).sum((-2, -1)), (m | y).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


def overlaps(a: Bool[Tensor, "n h w"], b: Bool[Tensor, "m h w"]) -> Float[Tensor, "n m"]:
    """IoU of each of some masks with each of others."""
    x, y = a.flatten(1).float(), b.flatten(1).float()
    both = x @ y.T
    return both / (x.sum(1, keepdim=True) + y.sum(1) - both).clamp(min=1)


@torch.no_grad()
def called(model: SAM, example: Example, words: Any) -> Float[Tensor, " n"]:
    """IoUs of eq. (6), one for each name."""
    (h, w), device = example.picture.shape[1:], model.mean.device
    of: dict[str, list[int]] = {}
    for i in asked(example):
        if example.names and example.names[i]:
            of.setdefault(example.names[i], []).append(i)
    if not of:
        return torch.zeros(0)
    z = model.embed_image(model.framed(torch.from_numpy(example.picture).to(device))[None])
    answers, s = model.decode(z, words=words.text(list(of)).to(device))
    masks = within(model, answers, h, w)[torch.arange(len(of), device=device), s.argmax(1)]
    found = []
    for mask, rows in zip(masks, of.values()):
        truth = torch.stack([torch.from_numpy(example.mask(i).copy()) for i in rows]).to(device)
        found.append(overlap(mask, truth).max())
    return torch.stack(found).cpu()


def figures(model: SAM, examples: Sequence[Example], words: Any = None) -> dict[str, Estimate]:
    """Eqs. (1) to (5); with a model of pictures and texts also (6), where there are names. Raises InputError where
    there is no mask to ask for."""
    training = model.training
    model.eval()
    try:
        told = [converse(model, one, rows) for one in examples if (rows := asked(one))]
        named = [called(model, one, words) for one in examples] if words is not None and model.words else []
    finally:
        model.train(training)
    named = [one for one in named if len(one)]
    if not told:
        raise InputError("there is no mask of a thousandth of its picture or more in this split.")
    firsts, nearest, expected, ious, boxed = zip(*told)
    chosen = [a.gather(1, s.argmax(1, keepdim=True))[:, 0] for a, s in zip(firsts, expected)]
    spoken = {"miou_words": jackknifed(named, torch.mean)} if named else {}
    return {
        "miou_1": jackknifed([a.amax(1) for a in firsts], torch.mean),
        "miou_1_told": jackknifed(chosen, torch.mean),
        "miou_3": jackknifed([i[:, 2] for i in ious], torch.mean),
        "miou_5": jackknifed([i[:, 4] for i in ious], torch.mean),
        "miou_box": jackknifed(boxed, torch.mean),
        "iou_correlation": jackknifed([torch.stack([a.flatten(), s.flatten()], 1) for a, s in zip(nearest, expected)],
                                      lambda pairs: torch.corrcoef(pairs.T)[0, 1].nan_to_num()),
        **spoken,
    }  # fmt: skip


def jackknifed(groups: Sequence[Tensor], statistic: Callable[[Tensor], Tensor]) -> Estimate:
    """A statistic of all rows of G groups; and with t_g that of all but one of them, √((G − 1) / G Σ (t_g − t̄)²)."""
    whole, G = torch.cat(list(groups)).double(), len(groups)
    if G < 2:
        return Estimate(float(statistic(whole)), math.nan, len(whole))
    ends = torch.tensor([0, *(len(g) for g in groups)]).cumsum(0).tolist()
    left = torch.stack([statistic(torch.cat([whole[:i], whole[j:]])) for i, j in zip(ends, ends[1:])])
    error = math.sqrt((G - 1) / G * float((left - left.mean()).square().sum()))
    return Estimate(float(statistic(whole)), error, len(whole))


def answers_drawn(model: SAM, examples: Sequence[Example]) -> Figure:
    """For each picture a click on one of its masks, the three answers with expected and true IoU, and the truth."""
    from matplotlib.figure import Figure

    from ptheta.sam.overlays import overlay

    training = model.training
    model.eval()
    figure = Figure(figsize=(10, 2.2 * max(1, len(examples))), layout="constrained")
    axes = figure.subplots(max(1, len(examples)), 4, squeeze=False)
    for row, example in zip(axes, examples):
        x = example.picture.transpose(1, 2, 0)
        rows = asked(example) or list(range(len(example.masks)))
        if not rows:
            continue
        i = rows[len(rows) // 2]
        truth = torch.from_numpy(example.mask(i).copy())[None]
        at, _ = clicks.middle(truth)
        with torch.no_grad():
            frame = model.framed(torch.from_numpy(example.picture).to(model.mean.device))[None]
            z = model.embed_image(frame)
            logits, s = model.decode(z, at[:, None].to(frame), torch.ones(1, 1, dtype=torch.long, device=frame.device))
        masks = within(model, logits, *x.shape[:2])[0].cpu()
        row[0].imshow(overlay(x, [truth[0].numpy()]))
        row[0].set_title("the truth, and the click", fontsize=8)
        for axis, mask, told in zip(row[1:], masks, s[0].tolist()):
            axis.imshow(overlay(x, [mask.numpy()]))
            axis.set_title(f"IoU {overlap(mask, truth[0]).item():.2f}, expected {told:.2f}", fontsize=8)
        for axis in row:
            axis.plot(*at[0].tolist(), "*", color="white", markeredgecolor="black", markersize=10)
            axis.set_axis_off()
    model.train(training)
    return figure
