r"""What is learned from: forms of a picture, and some of its masks in the same form.

A form is a window of the picture, scaled: with z the scale and s the side of the model's frame, the window is as high
and wide as the picture, but at most s / z, anywhere in the picture; it may be mirrored, and its brightness, contrast
and saturation changed,

    x ← b (\bar x + c (x − \bar x)),    x ← g + t (x − g),    b, c, t ∈ [1 − a, 1 + a]                           (1)

with \bar x the picture's mean and g a pixel's grey. Masks of which too little is left in the window are not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.data.instances import Example
from ptheta.data.things import WIDER, crop

LEAST = 16  # pixels of a mask that can be asked for
SPOKEN = 12  # and of its box's longer side, where it can be asked for in words


@dataclass(frozen=True)
class Forms:
    """From which forms are drawn."""

    size: int
    """s, the frame's side."""
    least: float
    greatest: float
    """Of z, whose logarithm is uniform."""
    flip: float
    """Share of mirrored forms."""
    colour: float
    """a of eq. (1)."""


def drawn(example: Example, count: int, forms: Forms, r: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A form of the picture, uint8 (3, h, w) with sides up to s, and `count` of its masks, bool (count, h, w): all
    different, if so many are there, else some of them again. A window that shows none is drawn anew, at most four
    times; then it is the whole picture."""
    for attempt in range(5):
        z = float(np.exp(r.uniform(np.log(forms.least), np.log(forms.greatest)))) if attempt < 4 else 1.0
        box, shape = window(example.picture.shape[1:], forms.size, z, r)
        mirrored = bool(r.random() < forms.flip)
        if masks := seen(example, count, box, shape, r, LEAST if attempt < 4 else 1):
            masks = [masks[i % len(masks)] for i in range(count)]
            x = coloured(scaled(example.picture, box, shape), forms.colour, r)
            y = np.stack(masks)
            return (x[..., ::-1].copy(), y[..., ::-1].copy()) if mirrored else (x, y)
    raise ValueError(f"{example.name} has no mask")


def window(
    sides: tuple[int, ...], size: int, z: float, r: np.random.Generator
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Left, top, right and bottom of a window, and the height and width that it is scaled to."""
    h, w = sides
    wh, ww = min(float(h), size / z), min(float(w), size / z)
    top, left = r.uniform(0, h - wh) if wh < h else 0.0, r.uniform(0, w - ww) if ww < w else 0.0
    shape = max(1, min(size, round(wh * z))), max(1, min(size, round(ww * z)))
    return (left, top, left + ww, top + wh), shape


def scaled(x: np.ndarray, box: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
    """A window of a picture (3, H, W), by Pillow's antialiased bilinear filter."""
    from PIL import Image

    h, w = shape
    if box == (0.0, 0.0, x.shape[2], x.shape[1]) and (h, w) == x.shape[1:]:
        return x
    image = Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)))
    return np.asarray(image.resize((w, h), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)


def seen(
    example: Example, count: int, box: tuple[float, float, float, float], shape: tuple[int, int],
    r: np.random.Generator, least: int,
) -> list[np.ndarray]:  # fmt: skip
    """Up to `count` masks within a window, each of at least so many pixels, any of them alike."""
    left, top, right, bottom = box
    h, w = shape
    rows = (top + (np.arange(h) + 0.5) * (bottom - top) / h).astype(int).clip(0, example.picture.shape[1] - 1)
    columns = (left + (np.arange(w) + 0.5) * (right - left) / w).astype(int).clip(0, example.picture.shape[2] - 1)
    found: list[np.ndarray] = []
    for i in r.permutation(len(example.masks)):
        mask = example.mask(int(i))[rows[:, None], columns]
        if mask.sum() >= least:
            found.append(mask)
            if len(found) == count:
                break
    return found


def coloured(x: np.ndarray, a: float, r: np.random.Generator) -> np.ndarray:
    """Eq. (1)."""
    if a == 0:
        return x.copy()
    b, c, t = r.uniform(1 - a, 1 + a, 3).astype(np.float32)
    y = x.astype(np.float32)
    y = b * (y.mean() + c * (y - y.mean()))
    grey = y.mean(0, keepdims=True)
    return (grey + t * (y - grey)).clip(0, 255).astype(np.uint8)


def length(words: Any) -> int:
    """Of what a model of pictures and texts says; 0 without one."""
    return 0 if words is None else words.text([""]).shape[1]


def said(words: Any, x: np.ndarray, masks: np.ndarray, r: np.random.Generator) -> Float[Tensor, "p e"]:
    """What such a model says of crops of a picture (3, h, w) around its masks (p, h, w); 0 of small ones."""
    large = [i for i, mask in enumerate(masks) if max(np.ptp(axis) for axis in np.nonzero(mask)) >= SPOKEN]
    crops = [crop(x, masks[i], words.shape[1], float(r.choice(WIDER))) for i in large]
    of_large = words.image(torch.from_numpy(np.stack(crops))) if large else torch.zeros(0, length(words))
    found = torch.zeros(len(masks), of_large.shape[1])
    found[large] = of_large.cpu()
    return found
