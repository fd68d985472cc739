r"""Collapse: features that say the same of everything, and the figures that tell.

Q. Garrido, R. Balestriero, L. Najman and Y. LeCun, "RankMe: Assessing the Downstream Performance of Pretrained
Self-Supervised Representations by Their Rank", ICML 2023.

With σ_k the singular values of the features Z (N, D),

    RankMe(Z) = \exp( −\sum_k p_k \log p_k ),    p_k = σ_k / \sum_j σ_j + ε                    (1)

is D where all directions are alike, and 1 where all features lie on one line. With ẑ = z/‖z‖,

    spread(Z) = \sqrt D · mean_d std_n ẑ_{nd}                                                (2)

is 1 where features are spread evenly over the sphere, and 0 where they are all the same (Chen & He 2021, SimSiam).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

EPSILON = 1e-7
LOW_RANK, LOW_SPREAD = 2.0, 0.05


def rank_me(z: Float[Tensor, "n d"]) -> float:
    """Eq. (1); NaN where features are not finite."""
    if not z.isfinite().all():
        return math.nan
    sigma = torch.linalg.svdvals(z.double())
    total = sigma.sum()
    if total == 0:
        return 1.0
    p = sigma / total + EPSILON
    return math.exp(-(p * p.log()).sum().item())


def spread(z: Float[Tensor, "n d"]) -> float:
    """Eq. (2)."""
    if len(z) < 2:
        return 0.0
    return normalize(z.double()).std(0, correction=0).mean().item() * math.sqrt(z.shape[1])


def alarms(rank: float, width: float, z: Float[Tensor, "n d"]) -> str:
    """What to tell the user, "" where features are healthy."""
    if len(z) < 8 or (rank >= LOW_RANK and width >= LOW_SPREAD):
        return ""
    return (
        f"the features collapse (RankMe {rank:.2f} of {min(z.shape)}, spread {width:.3f} of 1): pictures are hardly "
        "told apart. Try a smaller --learning-rate, a larger --batch-size or weaker --views."
    )
