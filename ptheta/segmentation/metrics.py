r"""What a segmentation is worth: scores of one confusion matrix.

J. Long, E. Shelhamer and T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 ((1) to (4)).
M. Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010 (IoU over the whole set).
J. Cohen, "A Coefficient of Agreement for Nominal Scales", 1960 (κ).

With p_ij pixels of class i predicted as class j (`confusion`), t_i = \sum_j p_ij of the truth, s_j = \sum_i p_ij of the
prediction and N = \sum_ij p_ij,

    PA      = \sum_i p_ii / N                                  pixel accuracy                                  (1)
    MPA     = mean_i  p_ii / t_i                               mean of the classes' accuracies                 (2)
    IoU_i   = p_ii / (t_i + s_i − p_ii),     MIoU = mean_i IoU_i                                               (3)
    FWIoU   = \sum_i (t_i / N) IoU_i                           weighted by frequency                           (4)
    Dice_i  = 2 p_ii / (t_i + s_i),          mean_i Dice_i                                                     (5)
    κ       = (PA − e) / (1 − e),            e = \sum_i t_i s_i / N²                                           (6)

Of the whole set, never a mean over pictures: in a mean of IoUs over pictures a class counts most where it is smallest.

Where a class is absent from the truth, (2) divides by zero, and where it is predicted nowhere either, so do (3) and
(5). What libraries do then differs, and with it their means, by whole points on small sets. A `Policy` says what is
done:

| policy | t_i = 0, s_i > 0: accuracy | IoU, Dice | t_i = s_i = 0: accuracy | IoU, Dice |
|---|---|---|---|---|
| mmseg (the default; cityscapesScripts) | left out | 0 | left out | left out |
| detectron2 | left out | left out | left out | left out |
| torchvision | NaN | 0 | NaN | NaN |
| segnet | 0 | 0 | 0 | 0 |
| torchmetrics | 0 | 0 | left out | left out |

Left out: of the mean, which then has fewer terms. torchvision's scripts take the plain mean, so that one absent class
makes it NaN; detectron2 is meant as of its main branch, of which release 0.6 differs: there MIoU is that of mmseg.
SegNet's divide by the number of classes, whichever there are; torchmetrics' are its accuracy and Jaccard
index averaged "macro".

| symbol | shape | here |
|---|---|---|
| p | (C, C) | counts, rows: truth |
| scores of classes | (C,) | float64, NaN where left out |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptheta.engine.errors import InputError, unknown

NAN = math.nan


@dataclass(frozen=True)
class Policy:
    """What a class scores that is absent from the truth; None: it is left out of the mean."""

    predicted_accuracy: float | None
    """Predicted somewhere: eq. (2)."""
    predicted: float | None
    """Predicted somewhere: eqs. (3) and (5)."""
    absent_accuracy: float | None
    """Predicted nowhere: eq. (2)."""
    absent: float | None
    """Predicted nowhere: eqs. (3) and (5)."""


POLICIES = {
    "mmseg": Policy(None, 0.0, None, None),
    "detectron2": Policy(None, None, None, None),
    "torchvision": Policy(NAN, 0.0, NAN, NAN),
    "segnet": Policy(0.0, 0.0, 0.0, 0.0),
    "torchmetrics": Policy(0.0, 0.0, None, None),
}


@dataclass(frozen=True)
class Scores:
    """Eqs. (1) to (6), in [0, 1]; κ in [−1, 1]. NaN where nothing was scored."""

    pa: float
    mpa: float
    miou: float
    fwiou: float
    dice: float
    kappa: float
    accuracy: Float[Tensor, " C"]
    """Of each class."""
    iou: Float[Tensor, " C"]
    """Of each class."""
    dice_of: Float[Tensor, " C"]
    """Of each class."""
    truth: Int[Tensor, " C"]
    """t, pixels of each class."""

    def named(self) -> dict[str, float]:
        """The six figures by name."""
        return {name: getattr(self, name) for name in ("pa", "mpa", "miou", "fwiou", "dice", "kappa")}


def scores(p: Int[Tensor, "C C"], policy: str | Policy = "mmseg") -> Scores:
    """Eqs. (1) to (6) of a confusion matrix. Raises UsageError for an unknown policy, InputError for what is no
    matrix of counts."""
    policy = policy_of(policy)
    if p.dim() != 2 or p.shape[0] != p.shape[1] or p.is_floating_point() or (p < 0).any():
        raise InputError(f"{tuple(p.shape)} of {p.dtype} is no confusion matrix; allowed: (C, C) whole numbers from 0.")
    p = p.cpu().long()
    right, t, s, N = p.diag(), p.sum(1), p.sum(0), int(p.sum())
    accuracy, accuracy_counts = settled(right, t, t, s, policy.predicted_accuracy, policy.absent_accuracy)
    iou, iou_counts = settled(right, t + s - right, t, s, policy.predicted, policy.absent)
    dice, dice_counts = settled(2 * right, t + s, t, s, policy.predicted, policy.absent)
    e = sum(int(a) * int(b) for a, b in zip(t, s)) / N**2 if N else NAN  # of Python's integers: t s passes 2^63
    pa = int(right.sum()) / N if N else NAN
    there = t > 0
    return Scores(
        pa=pa,
        mpa=mean(accuracy, accuracy_counts, N),
        miou=mean(iou, iou_counts, N),
        fwiou=((t[there].double() / N) * (right.double() / (t + s - right))[there]).sum().item() if N else NAN,
        dice=mean(dice, dice_counts, N),
        kappa=(pa - e) / (1 - e) if N and e < 1 else NAN,
        accuracy=accuracy,
        iou=iou,
        dice_of=dice,
        truth=t,
    )


def policy_of(policy: str | Policy) -> Policy:
    """The policy of a name. Raises UsageError for an unknown one."""
    if isinstance(policy, str) and policy not in POLICIES:
        raise unknown("policy", policy, list(POLICIES))
    return POLICIES[policy] if isinstance(policy, str) else policy


def settled(
    above: Int[Tensor, " C"], below: Int[Tensor, " C"], t: Int[Tensor, " C"], s: Int[Tensor, " C"],
    predicted: float | None, absent: float | None,
) -> tuple[Float[Tensor, " C"], Tensor]:  # fmt: skip
    """above / below of the classes that are there, what the policy says of the others, and which count in the mean."""
    out, counts = above.double() / below.double(), torch.ones(len(t), dtype=torch.bool)
    for where, value in (((t == 0) & (s > 0), predicted), ((t == 0) & (s == 0), absent)):
        out[where] = NAN if value is None else value
        if value is None:
            counts[where] = False
    return out, counts


def mean(of: Float[Tensor, " C"], counts: Tensor, N: int) -> float:
    """Over the classes that count; NaN where nothing was scored."""
    return of[counts].mean().item() if N and counts.any() else NAN
