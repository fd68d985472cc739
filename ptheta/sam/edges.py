r"""Edges of a picture by a model that was never told of edges: where the masks of a grid of points end.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 7.2, D.2).
J. Canny, "A Computational Approach to Edge Detection", PAMI 1986; D. Martin, C. Fowlkes and J. Malik, "Learning to
Detect Natural Image Boundaries", PAMI 2004 (how edges are compared).

A grid of 16 × 16 points gives masks, of which none is twice; with p_i = σ(m_i) and ∂_i the pixels at either side of
where mask i ends,

    e(x) = \max_{i : x ∈ ∂_i} ‖\mathrm{Sobel} p_i(x)‖,    e ← e / \max e                                         (1)

and of e those pixels are left that are no smaller than both neighbours across the edge. For a threshold t, pixels with
e ≥ t are matched one to one with those of each person's borders that are nearer than 0.0075 of the picture's diagonal,
as many as can be. Over all pictures together, with a pixel right that is matched with anybody's,

    P = \frac{right}{pixels},   R = \frac{\sum_{people} matched}{\sum_{people} border},   F = \frac{2 P R}{P + R}    (2)

ODS is the greatest F of one t for all pictures, OIS that of the best t for each.

Differs from the paper: masks of a cleaned grid are those of `everything` with no filter but for boxes that overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from ptheta.data.instances import Example
from ptheta.engine.errors import InputError
from ptheta.engine.method import Estimate
from ptheta.sam.data_engine import every
from ptheta.sam.evaluation import jackknifed
from ptheta.sam.everything import Everything, of_crop
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor

GRID = Everything(points=16, batch=64, iou=0.0, stability=0.0, overlap=0.7)
THRESHOLDS = tuple((i + 1) / 50 for i in range(49))
NEAR = 0.0075  # of the diagonal
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


def scored(
    model: SAM, examples: Sequence[Example], asked: Everything = GRID, progress: Callable[[int], Any] = lambda i: None
) -> dict[str, Estimate]:
    """`ods` and `ois` of pictures with masks, whose ends are the borders. Raises InputError where none has one."""
    counts = []
    predictor = Predictor(model)
    for i, one in enumerate(examples):
        if one.masks:
            e = thinned(edges(predictor, one.picture, asked))
            counts.append(torch.stack([compared(e >= t, borders(one)) for t in THRESHOLDS])[None])
        progress(i + 1)
    if not counts:
        raise InputError("there is no mask in these pictures, and so no border.")
    return {
        "ods": jackknifed(counts, lambda rows: f_measure(rows.sum(0)).max()),
        "ois": jackknifed(counts, lambda rows: f_measure(rows[range(len(rows)), f_measure(rows).argmax(1)].sum(0))),
    }


def edges(predictor: Predictor, picture: np.ndarray, asked: Everything = GRID) -> Float[Tensor, "h w"]:
    """e of eq. (1)."""
    predictor.set_image(picture.transpose(1, 2, 0))
    h, w = picture.shape[1:]
    found = of_crop(predictor, asked.points, (0, 0, w, h), (h, w), asked, lambda done: None)
    e = torch.zeros(h, w)
    for logits in found.logits.split(16):
        m = predictor.model.enlarged(logits[:, None], h, w).cpu()
        ends = max_pool2d((m > 0).float(), 3, 1, 1) - (1 - max_pool2d((m <= 0).float(), 3, 1, 1))
        e = torch.maximum(e, (sobel(m.sigmoid()) * ends).amax((0, 1)))
    return e / e.max().clamp(min=1e-6)


def sobel(p: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The length of the gradient, with the picture continued by its own edge."""
    k = torch.tensor(SOBEL)[None, None].to(p)
    p = pad(p, (1, 1, 1, 1), mode="replicate")
    return torch.hypot(conv2d(p, k), conv2d(p, k.mT))


def smoothed(x: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """By (1, 4, 6, 4, 1) / 16 down and across."""
    g = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype) / 16
    x = pad(x[None, None], (2, 2, 2, 2), mode="replicate")
    return conv2d(conv2d(x, g.view(1, 1, 5, 1)), g.view(1, 1, 1, 5))[0, 0]


def thinned(e: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """e where it is no smaller than both neighbours across the edge, else 0; of two that are equal the lower one stays.
    Across is where squared slopes of e, summed over what is near, are greatest: the first eigenvector of their tensor.
    """
    y, x = torch.gradient(smoothed(e.double()))
    xx, xy, yy = smoothed(x * x), smoothed(x * y), smoothed(y * y)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    h, w = e.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    tilted = e.double() + 1e-7 * (rows + 0.3 * columns)

    def beside(sign: int) -> Tensor:
        at = torch.stack([columns + sign * angle.cos(), rows + sign * angle.sin()], -1)
        at = 2 * (at + 0.5) / torch.tensor([w, h]) - 1
        beyond = torch.nn.functional.grid_sample(
            tilted[None, None], at[None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return beyond[0, 0]

    return torch.where((tilted >= beside(1)) & (tilted >= beside(-1)), e, torch.zeros_like(e))


def borders(example: Example) -> list[Bool[Tensor, "h w"]]:
    """Of each person the pixels whose neighbour to the right or below is not in the same masks."""
    masks, of = every(example), torch.tensor(example.annotator)
    found = []
    for person in of.unique():
        own = masks[of == person]
        ends = torch.zeros(masks.shape[1:], dtype=torch.bool)
        ends[:, :-1] |= (own[:, :, :-1] != own[:, :, 1:]).any(0)
        ends[:-1] |= (own[:, :-1] != own[:, 1:]).any(0)
        found.append(ends)
    return found


def compared(e: Bool[Tensor, "h w"], people: list[Bool[Tensor, "h w"]]) -> Float[Tensor, " 4"]:
    """Right pixels, pixels, matched of people's borders, borders: what eq. (2) is made of."""
    near = NEAR * math.hypot(*e.shape)
    right = torch.zeros(int(e.sum()), dtype=torch.bool)
    matched = total = 0
    for border in people:
        pairs = matching(e.nonzero().numpy(), border.nonzero().numpy(), near)
        right[pairs] = True
        matched, total = matched + len(pairs), total + int(border.sum())
    return torch.tensor([int(right.sum()), len(right), matched, total], dtype=torch.float64)


def matching(a: np.ndarray, b: np.ndarray, near: float) -> np.ndarray:
    """The rows of points a (n, 2) that are matched, each with a point b of its own that is near; as many as can be."""
    try:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_bipartite_matching
        from scipy.spatial import KDTree
    except ImportError:
        raise InputError("edges are compared by scipy; install it: pip install 'ptheta[sam]'.") from None
    if not len(a) or not len(b):
        return np.zeros(0, np.int64)
    pairs: Any = KDTree(a).sparse_distance_matrix(KDTree(b), near, output_type="coo_matrix")
    graph: Any = csr_matrix((np.ones(len(pairs.row), np.int8), (pairs.row, pairs.col)), shape=(len(a), len(b)))
    return np.flatnonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0)


def f_measure(counts: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """F of eq. (2); 0 where nothing is right."""
    right, pixels, matched, border = counts.unbind(-1)
    P, R = right / pixels.clamp(min=1), matched / border.clamp(min=1)
    return 2 * P * R / (P + R).clamp(min=1e-12)
