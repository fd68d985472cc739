r"""Scores while a model is evaluated, batch by batch and in many processes: a `torchmetrics.Metric`.

The state is one confusion matrix, `confusion`, eq. (1), so that memory does not grow with the pictures; processes add
theirs up, which is exact, and the scores are those of `metrics`, eqs. (1) to (6), of the sum.

    metric = SegmentationScores(classes=11, ignore=255)
    for x, truth in loader:
        metric.update(model(x).argmax(1), truth)
    metric.compute()["miou"]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ptheta.segmentation.confusion import IGNORE, confusion
from ptheta.segmentation.metrics import Policy, Scores, policy_of, scores


class SegmentationScores(Metric):
    """PA, MPA, MIoU, FWIoU, mean Dice and κ of all batches together.

    classes: C. ignore: label of the truth that is not scored, or None. policy: see `metrics.POLICIES`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    p: Tensor

    def __init__(self, classes: int, ignore: int | None = IGNORE, policy: str | Policy = "mmseg", **more: Any):
        super().__init__(**more)
        self.classes, self.ignore, self.policy = classes, ignore, policy
        policy_of(policy)  # an unknown one is told now
        confusion(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8), classes)  # and so are classes
        self.add_state("p", default=torch.zeros(classes, classes, dtype=torch.long), dist_reduce_fx="sum")
        # In a MetricCollection metrics of equal states become one; those that ignore other labels must not.
        self.add_state("ignored", default=torch.tensor(-(2**63) if ignore is None else ignore), dist_reduce_fx="max")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count a batch of labels; the order of the arguments is torchmetrics'. Raises InputError, see `confusion`."""
        self.p += confusion(truth, prediction, self.classes, self.ignore).to(self.p.device)

    def compute(self) -> dict[str, Tensor]:
        """The six figures, float64."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.scores().named().items()}

    def scores(self) -> Scores:
        """All that `metrics.scores` tells, of what this process has counted."""
        return scores(self.p, self.policy)
