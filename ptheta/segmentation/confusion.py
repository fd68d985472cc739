r"""One confusion matrix of integers, from which every score of `metrics` is computed.

    p_{ij} = \sum_x [ truth(x) = i ] [ prediction(x) = j ],        i, j = 0 … C − 1                            (1)

over all pixels x of all pictures whose truth is not the ignored label. It is counted exactly, in 64 bits: in float32 a
count stops growing at 2^24 pixels, which are 32 pictures of 512 × 1024.

How it is counted: both labels of a pixel become one number t' (C + 1) + p', with p' = C for a prediction that is no
class, t' = C for an ignored truth and t' = C + 1 for one that is no class. The counts of these numbers hold (1), and
tell whether there was a label that must not be. Labels that fit into a byte, and most do, are numbered as they are, and
what is ignored or no class is told apart in the counts: to compare every pixel would take twice as long as to count it.
Pieces of a map that fit into a core's cache go through this one after the other.

| symbol | shape | here |
|---|---|---|
| truth, prediction | any, the same | labels of an integer kind, of numpy, torch or PIL |
| p | (C, C) | int64, rows: truth, columns: prediction |
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ptheta.engine.errors import InputError, UsageError

PIECE = 1 << 18  # pixels counted at once: their numbers fit into a core's cache
IGNORE = 255
MOST = 4096  # classes: 17 million counts


def confusion(
    truth: Any, prediction: Any, classes: int, ignore: int | None = IGNORE, where: str = ""
) -> Int[Tensor, "C C"]:
    """Eq. (1) of two maps of labels.

    truth, prediction: arrays, tensors or PIL images of the same shape, of any kind of integers or of booleans; a
        prediction may be anything where the truth is ignored.
    ignore: The label that is no pixel's to score; None: there is none.
    where: Name of the picture, for messages.
    Raises InputError for other kinds, shapes that differ, and labels that are no class; UsageError for C < 1.
    """
    where = f"{where}: " if where else ""
    if not 1 <= classes <= MOST:
        raise UsageError(f"classes = {classes} is impossible; allowed: 1 to {MOST:,}.")
    t, p = labels(truth, "truth", where), labels(prediction, "prediction", where)
    if t.shape != p.shape:
        raise InputError(f"{where}the truth is {by(t)} and the prediction {by(p)}; allowed: the same size.")
    t, p = t.flatten(), p.flatten().to(t.device)
    piece = max(PIECE, classes**2) if t.device.type == "cpu" else max(1, len(t))
    table = counted(list(zip(t.split(piece), p.split(piece))), classes, ignore)
    if table[classes + 1].any():
        refuse(t, classes, ignore, "truth", where)
    if table[:classes, classes].any():
        kept = t != ignore if ignore is not None else torch.ones_like(t, dtype=torch.bool)
        refuse(p[kept], classes, None, "prediction", where)
    return table[:classes, :classes].clone()


def counted(pieces: list[tuple[Tensor, Tensor]], classes: int, ignore: int | None) -> Int[Tensor, "C2 C1"]:
    """How often each pair (t', p') occurs."""
    bytes_, others = [], []
    for truth, prediction in pieces:
        t, p = as_bytes(truth), as_bytes(prediction)
        both = classes <= 255 and t is not None and p is not None
        (bytes_ if both else others).append((t, p) if both else (truth, prediction))
    tables = [count(x, classes, ignore) for count, x in ((of_bytes, bytes_), (of_others, others)) if x]
    return tables[0] if len(tables) == 1 else tables[0] + tables[1]


def as_bytes(x: Tensor) -> Tensor | None:
    """The same labels as bytes, if all of them are from 0 to 255."""
    if x.dtype == torch.uint8 or not len(x):
        return x.to(torch.uint8)
    low, high = torch.aminmax(x)
    return x.to(torch.uint8) if low >= 0 and high <= 255 else None


def of_bytes(pieces: list[tuple[Tensor, Tensor]], classes: int, ignore: int | None) -> Int[Tensor, "C2 C1"]:
    """Counts of all 256 true labels, of which the rows are then put where they belong: no pixel is asked what it is."""
    size = 256 * (classes + 1)
    kind = torch.int16 if size <= 2**15 else torch.int32
    raw = torch.zeros(size, dtype=torch.long, device=pieces[0][0].device)
    longest = max(len(truth) for truth, _ in pieces)
    codes, cut = raw.new_empty(longest, dtype=kind), raw.new_empty(longest, dtype=torch.uint8)  # new ones cost as much
    for truth, prediction in pieces:
        code = codes[: len(truth)].copy_(truth).mul_(classes + 1)
        code.add_(torch.clamp(prediction, max=classes, out=cut[: len(truth)]))
        raw += torch.bincount(code, minlength=size)
    row = torch.full((256,), classes + 1)
    row[:classes] = torch.arange(classes)
    if ignore is not None and 0 <= ignore <= 255:
        row[ignore] = classes
    table = raw.new_zeros(classes + 2, classes + 1)
    return table.index_add_(0, row.to(raw.device), raw.view(256, classes + 1))


def of_others(pieces: list[tuple[Tensor, Tensor]], classes: int, ignore: int | None) -> Int[Tensor, "C2 C1"]:
    """The same of labels of any size."""
    table = torch.zeros(classes + 2, classes + 1, dtype=torch.long, device=pieces[0][0].device)
    for truth, prediction in pieces:
        t, p = truth.long(), prediction.long()
        t_ = torch.where((t >= 0) & (t < classes), t, classes + 1)
        if ignore is not None:
            t_ = torch.where(t == ignore, classes, t_)
        p_ = torch.where((p >= 0) & (p < classes), p, classes)
        table += torch.bincount(t_ * (classes + 1) + p_, minlength=table.numel()).view_as(table)
    return table


def labels(x: Any, which: str, where: str) -> Tensor:
    """Labels as a tensor of integers, or InputError."""
    if isinstance(x, Tensor):
        unsigned = x.dtype in (torch.uint16, torch.uint32, torch.uint64)  # torch computes little with these
        found = x.to(torch.uint8) if x.dtype == torch.bool else x.long() if unsigned else x
    else:
        if hasattr(x, "getpixel"):  # PIL: a palette or grey image is a map of labels, one bit is 0 and 1
            if x.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise InputError(
                    f"{where}the {which} is an image of mode {x.mode}; allowed: grey, palette or 16-bit labels."
                )
            x = np.array(x, copy=True)
        x = np.asarray(x)
        if x.dtype.kind == "u" and x.dtype.itemsize > 1:  # torch computes little with these
            if x.dtype.itemsize == 8 and x.size and int(x.max()) > 2**63 - 1:
                raise InputError(f"{where}the {which} has a label of {int(x.max())}; allowed: below 2^63.")
            x = x.astype(np.int64 if x.dtype.itemsize > 2 else np.int32)
        elif x.dtype.kind not in "uib":
            raise InputError(f"{where}the {which} has labels of kind {x.dtype}; allowed: integers (argmax of scores).")
        if x.dtype.byteorder == ">" or not x.flags.writeable or any(s < 0 for s in x.strides):
            x = x.astype(x.dtype.newbyteorder("="))
        found = torch.from_numpy(x.astype(np.uint8) if x.dtype == bool else x)  # of PIL's bits, true is the byte 255
    if found.is_floating_point() or found.is_complex():
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(f"{where}the {which} has labels of kind {kind}; allowed: integers (argmax of scores).")
    return found


def by(x: Tensor) -> str:
    """ "360 x 480"."""
    return " x ".join(map(str, x.shape)) or "one label"


def refuse(x: Tensor, classes: int, ignore: int | None, which: str, where: str) -> None:
    """InputError that names the labels that are no class."""
    bad = x[(x < 0) | (x >= classes)]
    if ignore is not None:
        bad = bad[bad != ignore]
    values, counts = bad.unique(return_counts=True)
    named = ", ".join(f"{v} ({n:,} pixels)" for v, n in list(zip(values.tolist(), counts.tolist()))[:5])
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    ignored = f", and {ignore} for what is not scored (--ignore)" if ignore is not None else ""
    ignored = ignored or (" (--ignore names one that is not scored)" if which == "truth" else "")
    raise InputError(f"{where}the {which} has labels {named}{more}; allowed: 0 to {classes - 1}{ignored}.")
