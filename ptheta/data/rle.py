r"""Masks as run lengths, column by column, as COCO writes them.

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.

A mask (H, W) is read from top to bottom, column by column, and told as the lengths of its runs, the first of zeros (of
length 0 if the first pixel is of the mask). `counts` is that list, or a string of it: from the third run on the
difference to the run before the last, x, is written in groups of 5 bits, the lowest first, each as the character
48 + group, plus 32 if more follow, until what is left is the sign of the last group's fifth bit.

Source: our own, judged by pycocotools.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ptheta.engine.errors import InputError


def encode(mask: np.ndarray) -> dict[str, Any]:
    """{"size": [H, W], "counts": [run, …]} of a mask (H, W)."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], change, [flat.size]]))
    counts = runs.tolist() if flat.size and not flat[0] else [0, *runs.tolist()]
    return {"size": list(mask.shape), "counts": counts if flat.size else []}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """The mask (H, W), bool. Raises InputError for what is no such thing, or runs that do not fill the mask."""
    try:
        h, w = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = np.asarray(unpacked(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"this is no run-length encoding ({error!r}); allowed: size [H, W] and counts.") from None
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != h * w:
        raise InputError(
            f"the runs of a mask of {h}x{w} add up to {int(runs.sum())} pixels, not to {h * w}; they are cut or of "
            "another picture."
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(w, h).T


def area(rle: dict[str, Any]) -> int:
    """Pixels of the mask."""
    counts = rle["counts"]
    return int(sum((unpacked(counts) if isinstance(counts, str | bytes) else counts)[1::2]))


def packed(counts: list[int]) -> str:
    """The string of a list of runs."""
    out = []
    for i, run in enumerate(counts):
        x = run - counts[i - 2] if i > 2 else run
        more = True
        while more:
            group = x & 31
            x >>= 5
            more = x != (-1 if group & 16 else 0)
            out.append(chr(48 + (group | 32 if more else group)))
    return "".join(out)


def unpacked(text: str | bytes) -> list[int]:
    """The inverse of `packed`."""
    counts: list[int] = []
    x = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        group = code - 48
        x |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                x |= -1 << shift
            counts.append(x + counts[-2] if len(counts) > 2 else x)
            x = shift = 0
    if shift:
        raise ValueError("the string ends amid a number")
    return counts


def compressed(rle: dict[str, Any]) -> dict[str, Any]:
    """With counts as a string, as COCO's and SA-1B's files have them."""
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts if isinstance(counts, str) else packed(counts)}
