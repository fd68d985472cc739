r"""Connected regions of a mask, and masks without small holes and islands.

Pixels are connected with their eight neighbours. A row is told by its runs; runs of neighbouring rows that touch are
joined, and the regions are what is joined: a few thousand runs, where a mask has a million pixels.
"""

from __future__ import annotations

import numpy as np


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) from 1 on, 0 outside of the mask, and the areas of the regions, that of label 1 first."""
    h, w = mask.shape
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, first = np.nonzero(edges == 1)
    last = np.nonzero(edges == -1)[1]  # one beyond the run
    parent = np.arange(len(row))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    starts = np.searchsorted(row, np.arange(h + 1))
    for r in range(1, h):
        i, stop, j, end = starts[r - 1], starts[r], starts[r], starts[r + 1]
        while i < stop and j < end:
            if first[j] <= last[i] and first[i] <= last[j]:  # by a side or a corner
                a, b = root(i), root(j)
                parent[max(a, b)] = min(a, b)
            if last[i] < last[j]:
                i += 1
            else:
                j += 1
    roots = np.array([root(i) for i in range(len(row))], dtype=np.int64)
    names, number = np.unique(roots, return_inverse=True)
    labels = np.zeros((h, w), np.int32)
    flat = labels.reshape(-1)
    lengths = last - first
    if len(row):
        at = np.repeat(row * w + first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        flat[at] = np.repeat(number + 1, lengths)
    return labels, np.bincount(number, lengths, minlength=len(names)).astype(np.int64)


def without_small(mask: np.ndarray, least: int, what: str) -> tuple[np.ndarray, bool]:
    """The mask without "holes", or without "islands", of fewer than `least` pixels, and whether there were any. Where
    all islands are small, the largest stays."""
    holes = what == "holes"
    labels, found = regions(mask ^ holes)
    small = np.flatnonzero(found < least) + 1
    if not len(small):
        return mask, False
    if holes:
        return mask | np.isin(labels, small), True
    large = np.flatnonzero(found >= least) + 1
    return np.isin(labels, large if len(large) else [int(found.argmax()) + 1]), True
