r"""The slow teacher of BYOL and DINO: a copy of the student of weights θ that never gets a gradient.

J.-B. Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020, section 3.2.
M. Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, section 3.1.

    ξ ← m_k ξ + (1 − m_k) θ                                                                   (1)

    m_k = 1 − (1 − m) (\cos(π k / K) + 1) / 2                                                 (2)

after update k = 0, 1, … of K: from m at first to 1, where the teacher stands still. MoCo's, of which m is fixed and
which follows before an update, is in `moco.py`.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def slowness(momentum: float, step: int, total: int) -> float:
    """m_k of eq. (2), with m = momentum, k = step and K = total."""
    return 1 - (1 - momentum) * (math.cos(math.pi * min(1.0, step / max(1, total))) + 1) / 2


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Eq. (1) with m_k = momentum, of weights alone: the teacher's running statistics come of its own passes."""
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1 - momentum)
