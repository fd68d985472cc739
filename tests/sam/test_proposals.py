"""Average recall by hand, of masks that are given in the place of a model's."""

import numpy as np
import pytest
import torch

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.sam import proposals


def test_recall_is_by_hand(tiny, monkeypatch):
    y = np.zeros((3, 64, 64), bool)
    y[0, :4, :10], y[1, 20:40, 20:40], y[2, 44:60, :] = True, True, True
    near = y.copy()
    near[0, 0, :4] = False  # IoU 0.9
    near[1, 20:26] = False  # IoU 0.7
    near[2] = False
    near[2, 44:48, :30] = True  # IoU 4 · 30 / (16 · 64), less than 0.5
    found = [{"segmentation": rle.encode(m), "predicted_iou": 0.1 * i} for i, m in enumerate(near)]
    monkeypatch.setattr(proposals, "everything", lambda *_: found)
    example = Example("a", np.zeros((3, 64, 64), np.uint8), tuple(rle.encode(m) for m in y), (0, 0, 0))
    told = proposals.recalls(tiny, [example, Example("none", example.picture, (), ())])
    assert told["ar_1000"].mean == pytest.approx((0.9 + 0.5 + 0) / 3)  # 9 of 10 thresholds, 5 of 10, none
    assert told["ar_1000_large"].mean == pytest.approx((0.5 + 0) / 2), "by areas where the longer side is 640"
    assert told["ar_1000_medium"].mean == 0.9 and "ar_1000_small" not in told
    monkeypatch.setattr(proposals, "MOST", 1)
    assert proposals.recalls(tiny, [example])["ar_1000"].mean == 0, "the one it expects most of is the third"
    monkeypatch.setattr(proposals, "everything", lambda *_: [])
    assert proposals.recalls(tiny, [example])["ar_1000"].mean == 0


def test_thresholds_are_cocos():
    np.testing.assert_allclose(proposals.THRESHOLDS, np.arange(0.5, 0.96, 0.05))
    assert torch.tensor(proposals.THRESHOLDS).shape == (10,)
