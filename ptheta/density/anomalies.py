r"""Anomalies: the rows of a file that a model finds unlikely, or unlike what it would draw itself.

Two scores, for x_1 … x_m and samples s_1 … s_M of the model:

    surprise:    −\log p(x)                                                                     (1)
    typicality:  t(x) = |\log p(x) − \frac{1}{M} \sum_i \log p(s_i)|,
                 p-value = (1 + #\{i: t(s_i) ≥ t(x)\}) / (M + 1)                               (2)

(1) ranks by density alone. But in many dimensions the most likely vectors are not typical: a blank picture can be more
likely than every digit (Nalisnick et al. 2019). (2) asks whether \log p(x) is where the model's own samples have theirs
(the typical set); its p-value is uniform for rows drawn from the model. Neither is proof: a set of other pictures whose
density happens to look the same is missed by both (docs/density.md shows one).

Where it is known which rows are anomalies, the ranking is judged by the area under its ROC curve: the probability that
an anomaly is ranked above a normal row, ties counting half (Hanley & McNeil 1982):

    AUROC = \frac{1}{|A||B|} \sum_{a ∈ A, b ∈ B} 1[s_a > s_b] + \frac{1}{2} 1[s_a = s_b]        (3)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.engine.errors import InputError
from ptheta.engine.method import Estimate


def typicality(log_p: Float[Tensor, " m"], of_samples: Float[Tensor, " M"]) -> Float[Tensor, " m"]:
    """p-values of eq. (2), from the log-densities of the rows and of the model's own samples."""
    centre = of_samples.double().mean()
    own = (of_samples.double() - centre).abs().sort().values
    at_least = len(own) - torch.searchsorted(own, (log_p.double() - centre).abs())
    return (1 + at_least) / (len(own) + 1)


def auroc(score: Float[Tensor, " N"], anomaly: Bool[Tensor, " N"]) -> Estimate:
    """Eq. (3) of scores that are high for anomalies; its standard error by Hanley & McNeil's formula.

    Raises InputError if all rows are of one kind.
    """
    a, b = int(anomaly.sum()), int((~anomaly).sum())
    if not a or not b:
        raise InputError(f"{a} anomalies and {b} normal rows; the area under a ROC curve needs some of both.")
    values, place = score.double().unique(return_inverse=True)
    of_a = torch.bincount(place[anomaly], minlength=len(values)).double()
    of_b = torch.bincount(place[~anomaly], minlength=len(values)).double()
    below = of_b.cumsum(0) - of_b
    area = ((of_a * (below + of_b / 2)).sum() / (a * b)).item()
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (a - 1) * (q1 - area**2) + (b - 1) * (q2 - area**2)) / (a * b)
    return Estimate(area, math.sqrt(max(0.0, variance)), a + b)


def scores(model: Any, x: Tensor, samples: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p(x) in nats and the p-value of eq. (2) of every row, both (m,)."""

    def log_p(x: Tensor) -> Tensor:
        return model.log_prob(x) if model.label == "none" else model.joint_log_prob(x).logsumexp(1)

    own = log_p(model.split(model.sample(samples, seed))[0])
    mine = log_p(x)
    return mine.cpu(), typicality(mine, own).cpu()
