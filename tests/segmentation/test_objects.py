"""Things one by one: eq. (1) against a flood fill pixel by pixel, and cases that are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.segmentation.objects import Thing, by_size, things


def piece(mask: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """The connected set of true pixels that holds `start`, by flood fill."""
    found, todo = set(), [start]
    while todo:
        i, j = todo.pop()
        if (i, j) in found or not (0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]) or not mask[i, j]:
            continue
        found.add((i, j))
        todo += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return found


def by_hand(t: np.ndarray, s: np.ndarray) -> list[tuple[int, int, float]]:
    out, seen = [], set()
    for at in np.ndindex(t.shape):
        c = t[at]
        if c in (0, 255) or at in seen:
            continue
        O = piece((t == c), at)
        seen |= O
        S = set().union(*(piece((s == c) & (t != 255), p) for p in O))
        out.append((int(c), len(O), len(O & S) / len(O | S)))
    return sorted(out)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**20), h=st.integers(1, 12), w=st.integers(1, 12), noise=st.floats(0, 0.6))
def test_things_are_those_of_a_flood_fill(seed, h, w, noise):
    g = np.random.RandomState(seed)
    t = g.choice([0, 0, 1, 2, 255], (h, w))
    s = np.where(g.rand(h, w) < noise, g.choice([0, 1, 2, 3], (h, w)), np.where(t == 255, 1, t))
    got = sorted((o.label, o.area, o.iou) for o in things(t, s))
    assert [g[:2] for g in got] == [w[:2] for w in by_hand(t, s)]
    assert [g[2] for g in got] == pytest.approx([w[2] for w in by_hand(t, s)])


def test_known_cases():
    t = np.zeros((10, 10), int)
    t[1:3, 1:3], t[6:9, 6:9] = 1, 1
    assert [o.iou for o in things(t, t)] == [1.0, 1.0] and [o.area for o in things(t, t)] == [4, 9]
    assert [o.iou for o in things(t, np.zeros_like(t))] == [0.0, 0.0]
    s = t.copy()
    s[1:3, 1:3] = 2  # found, and called another class
    assert [o.iou for o in things(t, s)] == [0.0, 1.0]
    s = t.copy()
    s[1:5, 1:3] = 1  # twice as large
    assert [o.iou for o in things(t, s)] == [0.5, 1.0]
    assert things(np.zeros((4, 4), int), np.ones((4, 4), int)) == []
    assert [o.iou for o in things(np.full((3, 3), 255), np.ones((3, 3), int), ignore=None)] == [0.0]
    assert [(o.label, o.area, o.share) for o in things(t, t, ground=None)] == [
        (0, 87, 0.87),
        (1, 4, 0.04),
        (1, 9, 0.09),
    ]


def test_by_size_is_the_mean_of_each_range():
    found = [Thing(1, 5, 0.001, 0.2), Thing(2, 99, 0.009, 0.4), Thing(1, 100, 0.01, 1.0), Thing(1, 900, 1.0, 0.5)]
    said = by_size(found)
    assert said["small"] == (pytest.approx(0.3), 2) and said["medium"] == (1.0, 1) and said["large"] == (0.5, 1)
    assert math.isnan(by_size([])["small"][0])
