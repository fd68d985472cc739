r"""A closer look: what is small in a picture is asked about again, in a window around it.

K. Sofiiuk, I. Petrov, O. Barinova and A. Konushin, "f-BRS: Rethinking Backpropagating Refinement for Interactive
Segmentation", CVPR 2020 (zoom-in for small objects).

With B the box around the last answer and all clicks that are inside of what is meant, the window W is the square around
B's middle of side

    a = \max(WIDER · \max(B_w, B_h), s / CLOSEST),                                                               (1)

s the model's side, moved into the picture, cut where the picture is smaller; of the whole picture where a is more than
WHOLE of its longer side. W is looked at as if it were a picture: its pixels are enlarged up to CLOSEST times. Logits
of the last answer go along,

    m_W(x) = m(x) in the picture's coordinates,    −OUTSIDE where there was no answer                            (2)

and a window stays while its IoU with the one of eq. (1) is at least SAME and the last click is in it.

| symbol | shape | here |
|---|---|---|
| B, W | left, top, right, bottom | from edge to edge, in pixels of the picture |
| m | (1, side, side) | logits of an answer |

Differs from the paper: there a window is 1.4 times as wide as B; here wider, as the model is trained on pictures where
things have surroundings, and on no more than CLOSEST times enlarged ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample

from ptheta.sam.boxes import around, iou
from ptheta.sam.predictor import Answer, Predictor

WIDER, CLOSEST, WHOLE, SAME, OUTSIDE = 3.0, 2.5, 0.8, 0.5, 10.0
Window = tuple[int, int, int, int]


def box(mask: Bool[Tensor, "H W"], inside: Float[np.ndarray, "n 2"]) -> tuple[float, float, float, float] | None:
    """B of a mask and of clicks inside of what is meant; None of neither."""
    ends = [*np.floor(inside), *np.floor(inside) + 1]
    if mask.any():
        left, top, right, bottom = around(mask[None])[0].tolist()
        ends += [np.array([left, top]), np.array([right + 1, bottom + 1])]
    if not ends:
        return None
    low, high = np.min(ends, 0), np.max(ends, 0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def window(B: tuple[float, float, float, float] | None, size: tuple[int, int], side: int) -> Window:
    """W, eq. (1), for a picture of height and width `size` and a model whose side is `side`."""
    h, w = size
    if B is None:
        return 0, 0, w, h
    left, top, right, bottom = B
    a = max(WIDER * max(right - left, bottom - top), side / CLOSEST)
    if a > WHOLE * max(h, w):
        return 0, 0, w, h
    width, height = (min(round(a), most) for most in (w, h))
    x, y = ((low + high - along) / 2 for low, high, along in ((left, right, width), (top, bottom, height)))
    x, y = (int(min(max(0, round(at)), most - along)) for at, most, along in ((x, w, width), (y, h, height)))
    return x, y, x + width, y + height


def handed(m: Float[Tensor, "k a a"], before: Window, now: Window) -> Float[Tensor, "k a a"]:
    """Eq. (2): logits of one window as another one's. A frame is as wide as its window's longer side."""
    if before == now:
        return m
    a = m.shape[-1]
    of, to = longer(before), longer(now)
    u = (torch.arange(a, dtype=torch.float64) + 0.5) / a * to
    x, y = ((start + u - begin) / of * 2 - 1 for start, begin in ((now[0], before[0]), (now[1], before[1])))
    at = torch.stack([x[None].expand(a, a), y[:, None].expand(a, a)], 2).to(m)
    return grid_sample((m + OUTSIDE)[None], at[None], align_corners=False)[0] - OUTSIDE


def longer(W: Window) -> int:
    """The longer side of a window."""
    left, top, right, bottom = W
    return max(right - left, bottom - top)


@dataclass(frozen=True)
class Turn:
    """An answer, and where it was asked for."""

    window: Window
    near: Predictor
    """Has looked at the window."""
    answer: Answer
    """Masks of the whole picture; logits of the window."""


class Closer:
    """Answers about one picture, closer from turn to turn. predictor: Has looked at all of it."""

    def __init__(self, predictor: Predictor, picture: UInt8[np.ndarray, "H W 3"]):
        self.predictor, self.picture = predictor, picture

    def begun(self, answer: Answer) -> Turn:
        """The turn of a first answer that the predictor gave."""
        h, w = self.picture.shape[:2]
        return Turn((0, 0, w, h), self.predictor, answer)

    def ask(self, points: Any, labels: Any, before: Turn | None = None, shown: int = 0) -> Turn:
        """The next turn. points (n, 2) and labels (n,): All clicks so far, the last is new; without a turn before it
        the predictor answers with three masks. shown: The answer of the turn before that the click is about."""
        if before is None:
            return self.begun(self.predictor.predict(points, labels))
        at, of = np.asarray(points, float), np.asarray(labels, int)
        mask, size = before.answer.masks[shown].cpu(), self.predictor.model.size
        wanted = window(box(mask, at[of == 1]), self.picture.shape[:2], size)
        where, near = self.moved(before, wanted, at[-1])
        here = within(at, where)
        logits = handed(before.answer.logits[shown][None].cpu(), before.window, where)
        left, top, right, bottom = where
        width, height = right - left, bottom - top
        shift = 0.0 if near is self.predictor else max(0.0, 0.5 - 0.5 * max(width, height) / size)
        shifted = (at[here] - (left, top) + shift).clip(0, (width, height))  # middles of pixels stay middles
        prompt = {"points": shifted, "labels": of[here]} if here.any() else {}
        return self.placed(where, near, near.predict(**prompt, masks=logits, several=False))

    def nearer(self, points: Any, labels: Any, before: Turn, shown: int = 0) -> Turn | None:
        """The answer to the same clicks after a closer look; None where there is none."""
        turn = self.ask(points, labels, before, shown)
        return turn if longer(turn.window) < longer(before.window) else None

    def again(self, before: Turn, shown: int = 0) -> Turn:
        """An answer asked for by its box and its logits, in the window around it. Raises ValueError of an empty one."""
        mask = before.answer.masks[shown].cpu()
        B = box(mask, np.zeros((0, 2)))
        if B is None:
            raise ValueError("the answer is empty; there is nothing to come closer to.")
        wanted = window(B, self.picture.shape[:2], self.predictor.model.size)
        where, near = self.moved(before, wanted, np.array(B[:2]))
        left, top, right, bottom = where
        logits = handed(before.answer.logits[shown][None].cpu(), before.window, where)
        ends = np.array(B).reshape(2, 2) - (left, top)
        boxes = ends.clip(0, (right - left, bottom - top)).reshape(4)
        return self.placed(where, near, near.predict(boxes=boxes, masks=logits, several=False))

    def placed(self, where: Window, near: Predictor, answer: Answer) -> Turn:
        """The turn of an answer about a window."""
        left, top, right, bottom = where
        masks = torch.zeros(len(answer.masks), *self.picture.shape[:2], dtype=torch.bool)
        masks[:, top:bottom, left:right] = answer.masks.cpu()
        return Turn(where, near, Answer(masks, answer.ious, answer.logits))

    def moved(self, before: Turn, wanted: Window, last: Float[np.ndarray, " 2"]) -> tuple[Window, Predictor]:
        """The window of a turn, and what has looked at it: of the turn before, of the whole picture, or a new one."""
        if iou(torch.tensor([before.window]), torch.tensor([wanted])) >= SAME and within(last[None], before.window)[0]:
            return before.window, before.near
        h, w = self.picture.shape[:2]
        if wanted == (0, 0, w, h):
            return wanted, self.predictor
        near = Predictor(self.predictor.model, self.predictor.precision)
        left, top, right, bottom = wanted
        near.set_image(np.ascontiguousarray(self.picture[top:bottom, left:right]))
        return wanted, near


def within(at: Float[np.ndarray, "n 2"], where: Window) -> Bool[np.ndarray, " n"]:
    """Which clicks are in a window."""
    return np.all((at >= where[:2]) & (at < where[2:]), axis=1)
