"""The torchmetrics.Metric: batches, processes and resets add up to one matrix."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from ptheta.engine.errors import InputError, UsageError
from ptheta.segmentation.confusion import confusion
from ptheta.segmentation.metrics import scores

torchmetrics = pytest.importorskip("torchmetrics")
from ptheta.segmentation.streaming import SegmentationScores  # noqa: E402

RANKS = """
import json, os, sys, torch
from ptheta.segmentation.streaming import SegmentationScores

rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
t, s = torch.load(sys.argv[3], weights_only=True)
metric = SegmentationScores(3)
for i in range(rank, len(t), 2):
    metric.update(s[i], t[i])
print(json.dumps({k: v.item() for k, v in metric.compute().items()}))
torch.distributed.destroy_process_group()
"""


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    r = np.random.RandomState(0)
    t = r.choice([0, 1, 2, 255], size=(5, 12, 9)).astype(np.uint8)
    return torch.from_numpy(t), torch.from_numpy(np.where(r.rand(*t.shape) < 0.6, np.minimum(t, 2), 0).astype(np.int64))


def test_batches_add_up_and_a_reset_forgets():
    t, s = maps()
    metric = SegmentationScores(3, policy="segnet")
    for i in range(5):
        metric.update(s[i], t[i])
    want = scores(confusion(t, s, 3), "segnet")
    assert {k: v.item() for k, v in metric.compute().items()} == want.named()
    assert torch.equal(metric.scores().iou, want.iou)
    metric.reset()
    assert metric.p.sum() == 0 and metric(s[:1], t[:1])["pa"].item() == scores(confusion(t[:1], s[:1], 3)).pa
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.p, metric.p) and again.policy == "segnet"


def test_two_processes_are_one(tmp_path):
    torch.save(maps(), tmp_path / "maps.pt")
    argv = [sys.executable, "-c", RANKS]
    started = [
        subprocess.Popen([*argv, str(rank), str(tmp_path / "store"), str(tmp_path / "maps.pt")], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert said[0] == said[1] == scores(confusion(*maps(), 3)).named()


def test_metrics_that_ignore_other_labels_stay_apart_in_a_collection():
    """The first batch has none of the ignored labels, so that both have counted the same."""
    both = torchmetrics.MetricCollection({"a": SegmentationScores(3), "b": SegmentationScores(3, 2)})
    for t, s in (([0, 1, 1], [0, 1, 0]), ([2, 0, 1], [0, 0, 1])):
        both.update(torch.tensor(s), torch.tensor(t))
    found = both.compute()
    assert found["a_pa"] == pytest.approx(4 / 6) and found["b_pa"] == pytest.approx(4 / 5)


def test_it_is_one_of_a_collection():
    t, s = maps()
    both = torchmetrics.MetricCollection(
        {"strict": SegmentationScores(3), "whole": SegmentationScores(3, None, "segnet")}
    )
    both["strict"].update(s, t)
    with pytest.raises(InputError, match=r"truth has labels 255 \(\d+ pixels\)"):
        both["whole"].update(s, t)
    with pytest.raises(UsageError, match="policy"):
        SegmentationScores(3, policy="mine")
