"""Features of density models judged beside raw vectors."""

import pytest
import torch

from ptheta.data.binary import load
from ptheta.density.made import MADE
from ptheta.density.representation import judge
from ptheta.engine.errors import InputError


def test_features_and_raw_vectors_are_judged_side_by_side():
    data = load("digits")
    found = judge(MADE(64, (100,)).eval(), data, "test", limit=500)
    assert set(found) == {"knn", "knn_raw", "probe", "probe_raw"}
    assert found["knn_raw"].mean > 0.8 and found["probe_raw"].mean > 0.8 and found["knn"].n == 270
    joint = judge(MADE(74, (100,), label="first", classes=10).eval(), data, "test", limit=500)
    assert joint["knn_raw"].mean == found["knn_raw"].mean and joint["knn"].mean > 0.2
    with pytest.raises(InputError, match="has no labels"):
        judge(MADE(6, (10,)), load(torch.eye(20, 6)), "test")
