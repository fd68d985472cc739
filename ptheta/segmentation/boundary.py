r"""The boundary F-score: whether outlines are where they should be, whatever lies inside them.

G. Csurka, D. Larlus and F. Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013.

The boundary B_c of class c in a map is its pixels that have a neighbour, above, below, left or right, of another label;
the edge of the picture is none. With d(x, B) the distance from a pixel to the nearest of B and a tolerance θ,

    P_c = |{ x ∈ B_c^{pred} : d(x, B_c^{truth}) ≤ θ }| / |B_c^{pred}|                                          (1)
    R_c = |{ x ∈ B_c^{truth} : d(x, B_c^{pred}) ≤ θ }| / |B_c^{truth}|                                         (2)
    F_c = 2 P_c R_c / (P_c + R_c)                                                                              (3)

of one picture, 0 where both are 0; and 0 where c has a boundary in one of the maps alone. The score of a class is the
mean of F_c over the pictures where it has a boundary in either map, and that of all the mean over classes.

| symbol | shape | here |
|---|---|---|
| truth, prediction | (h, w) | labels |
| F | (C,) | eq. (3), NaN for classes without a boundary |

θ is 0.75 % of the diagonal, as in the paper. Differs from the paper, which does not say what becomes of pixels that are
not scored: they are no part of a boundary, and do not make their neighbours one, in either map. Where bands of them
separate the classes, as in VOC, nothing of the truth's outlines is left, and the score means nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptheta.engine.errors import InputError
from ptheta.segmentation.confusion import IGNORE, labels

TOLERANCE = 0.0075  # of the diagonal


def boundaries(x: Int[Tensor, "h w"], scored: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Pixels of B_c, of every class c: a pixel's own label says of which."""
    edge = torch.zeros_like(scored)
    for one, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        edge[one] |= (x[one] != x[other]) & scored[other]
        edge[:, one] |= (x[:, one] != x[:, other]) & scored[:, other]
    return edge & scored


def within(B: Bool[Tensor, "c h w"], reach: float) -> Bool[Tensor, "c h w"]:
    """d(x, B) ≤ reach for each pixel. The disc's rows, from the outermost inwards: what lies along a row is widened as
    the disc widens, and moved up and down to the rows that are i apart."""
    near, wide, width = torch.zeros_like(B), B.clone(), 0
    for i in range(math.floor(reach), -1, -1):
        while (width + 1) ** 2 + i * i <= reach * reach:
            width += 1
            wide[:, :, width:] |= B[:, :, :-width]
            wide[:, :, :-width] |= B[:, :, width:]
        if i < B.shape[1]:
            near[:, i:] |= wide[:, : B.shape[1] - i]
            near[:, : B.shape[1] - i] |= wide[:, i:]
    return near


def boundary_f(
    truth: Any,
    prediction: Any,
    classes: int,
    ignore: int | None = IGNORE,
    tolerance: float | None = None,
    where: str = "",
) -> Float[Tensor, " C"]:
    """Eq. (3) of each class of one picture.

    tolerance: θ in pixels; 0.75 % of the diagonal if None.
    Raises InputError for maps that are not two of the same height and width.
    """
    where = f"{where}: " if where else ""
    t, p = labels(truth, "truth", where), labels(prediction, "prediction", where)
    if t.shape != p.shape or t.dim() != 2:
        raise InputError(f"{where}maps of {tuple(t.shape)} and {tuple(p.shape)}; allowed: two of (height, width).")
    reach = TOLERANCE * math.hypot(*t.shape) if tolerance is None else tolerance
    scored = t != ignore if ignore is not None else torch.ones_like(t, dtype=torch.bool)
    in_truth, in_prediction = boundaries(t, scored), boundaries(p, scored)
    there = [c for c in range(classes) if bool((in_truth & (t == c)).any()) or bool((in_prediction & (p == c)).any())]
    F = torch.full((classes,), math.nan, dtype=torch.float64)
    if not there:
        return F
    B = torch.stack([in_truth & (t == c) for c in there]), torch.stack([in_prediction & (p == c) for c in there])
    near = within(B[0], reach), within(B[1], reach)
    precision = (B[1] & near[0]).sum((1, 2)) / B[1].sum((1, 2)).clamp(min=1)
    recall = (B[0] & near[1]).sum((1, 2)) / B[0].sum((1, 2)).clamp(min=1)
    F[there] = (2 * precision * recall / (precision + recall).clamp(min=1e-12)).double().cpu()
    return F
