"""Edges: thinned to a line, matched one to one, scored by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.engine.errors import InputError
from ptheta.sam import edges
from ptheta.sam.everything import Found


@pytest.mark.parametrize("angle", [0.0, 0.4, 0.8, 1.57, 2.3])
def test_a_wide_edge_becomes_a_line_where_it_was_highest(angle):
    y, x = np.mgrid[:60, :60] - 29.7
    away = torch.from_numpy(np.cos(angle) * x + np.sin(angle) * y).float()
    e = torch.exp(-(away**2) / 18)
    thin = edges.thinned(e)[8:-8, 8:-8] > 0
    assert (away[8:-8, 8:-8][thin].abs() < 1.1).all(), "a pixel that is off the ridge stays"
    lines = thin.any(0) if abs(np.sin(angle)) > 0.7 else thin.any(1)
    assert lines.float().mean() > 0.95 and thin.sum() < 2.5 * len(lines)


def test_the_gradients_length_is_that_of_a_slope():
    ramp = (torch.arange(9.0)[None, :] * 0.1).expand(7, 9)
    torch.testing.assert_close(edges.sobel(ramp[None, None])[0, 0, :, 1:-1], torch.full((7, 7), 0.8))
    torch.testing.assert_close(edges.sobel(ramp.T[None, None])[0, 0, 1:-1], torch.full((7, 7), 0.8))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9999))
def test_as_many_are_matched_as_can_be(n, m, seed):
    r = np.random.RandomState(seed)
    a, b = r.randint(0, 5, (n, 2)), r.randint(0, 5, (m, 2))
    near = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= 1.5 if n and m else np.zeros((n, m), bool)
    small, large = (near, n) if n <= m else (near.T, m)
    most = max(
        (sum(small[i, p] for i, p in enumerate(order)) for order in itertools.permutations(range(max(n, m)), large)),
        default=0,
    )
    found = edges.matching(a, b, 1.5)
    assert len(found) == most == len(set(found.tolist()))


def halves() -> Example:
    y = np.zeros((2, 40, 50), bool)
    y[0, :, :20], y[1, :, 20:] = True, True
    shifted = np.zeros((2, 40, 50), bool)
    shifted[0, :, :35], shifted[1, :, 35:] = True, True
    masks = [*y, *shifted]
    return Example("halves", np.zeros((3, 40, 50), np.uint8), tuple(rle.encode(m) for m in masks), (0, 0, 1, 1))


def test_each_person_has_borders_of_one_pixel():
    first, second = edges.borders(halves())
    assert first.nonzero()[:, 1].unique().tolist() == [19] and second.nonzero()[:, 1].unique().tolist() == [34]
    assert first.sum() == second.sum() == 40


def test_counts_and_f_are_by_hand():
    e = torch.zeros(40, 50, dtype=torch.bool)
    e[:30, 19], e[:10, 5] = True, True  # 30 of the first person's 40, and 10 that are nobody's
    counts = edges.compared(e, edges.borders(halves()))
    assert counts.tolist() == [30, 40, 30, 80]
    P, R = 30 / 40, 30 / 80
    assert edges.f_measure(counts).item() == pytest.approx(2 * P * R / (P + R))
    assert edges.f_measure(torch.zeros(4, dtype=torch.float64)).item() == 0


def test_a_model_whose_masks_end_at_the_borders_scores_one(tiny, monkeypatch):
    y = np.zeros((1, 150, 200), bool)
    y[0, 10:130, 15:140] = True
    example = Example("one", np.zeros((3, 150, 200), np.uint8), tuple(rle.encode(m) for m in y), (0,))
    logits = torch.where(torch.from_numpy(y), 8.0, -8.0)
    none = torch.zeros(1)
    monkeypatch.setattr(edges, "of_crop", lambda *_: Found(logits, none, none, torch.zeros(1, 4), torch.zeros(1, 2)))
    monkeypatch.setattr(type(tiny), "enlarged", lambda self, m, h, w: m)
    found = edges.scored(tiny, [example])
    assert found["ods"].mean > 0.97 and found["ois"].mean > 0.97
    blank = Example("blank", example.picture, (), ())
    with pytest.raises(InputError, match="no mask in these pictures"):
        edges.scored(tiny, [blank])
