"""Counts by hand, of answers that come with so many clicks."""

import numpy as np
import pytest
import torch

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.sam import number_of_clicks


def test_counts_are_by_hand(tiny, monkeypatch):
    y = np.zeros((3, 64, 64), bool)
    y[0, :4, :10], y[1, 20:40, 20:40], y[2, 44:60, :] = True, True, True
    example = Example("a", np.zeros((3, 64, 64), np.uint8), tuple(rle.encode(m) for m in y), (0, 0, 0))
    asked_for = []

    def clicked(closer, truth, enough, most):
        asked_for.append((enough, most))
        made = truth.clone()
        made[0, 0, :4] = False  # IoU 0.9
        made[1, 20:30] = False  # IoU 0.5
        return made, torch.tensor([1, 20, 3]), torch.tensor([True, False, True])

    monkeypatch.setattr(number_of_clicks, "clicked", clicked)
    seen = []
    told = number_of_clicks.counted(tiny, [example, Example("none", example.picture, (), ())], seen.append)
    assert asked_for == [(1.0, 5), (0.9, 20)] and seen == [1, 2]
    assert told["miou_5_closer"].mean == pytest.approx((0.9 + 0.5 + 1) / 3)
    assert told["noc_90"].mean == pytest.approx(8) and told["unreached"].mean == pytest.approx(1 / 3)
    assert number_of_clicks.counted(tiny, []) == {}
