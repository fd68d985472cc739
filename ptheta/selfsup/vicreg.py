r"""VICReg: two views of a picture get one vector; each coordinate must vary, and no two may say the same.

A. Bardes, J. Ponce and Y. LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
ICLR 2022.

Of each of N pictures two views are drawn, and Z, Z' (N, D) are the outputs of a head, the expander, for the first and
the second. Not normalised, and with \bar z their mean,

    s(Z, Z') = \frac{1}{N D} \sum_n ‖z_n − z'_n‖²                                             (1)  invariance

    v(Z) = \frac{1}{D} \sum_d \max(0, 1 − \sqrt{var(z_{·d}) + 10^{-4}})                       (2)  variance

    C(Z) = \frac{1}{N − 1} \sum_n (z_n − \bar z)(z_n − \bar z)^T

    c(Z) = \frac{1}{D} \sum_{i ≠ j} C(Z)_{ij}²                                                (3)  covariance

    L = λ s(Z, Z') + μ \frac{v(Z) + v(Z')}{2} + ν (c(Z) + c(Z'))                              (4)

with the unbiased variance, N − 1, in (2) too. The root's ε keeps the gradient finite where a coordinate is constant.
Collapsed vectors cost v = 0.99: (2) forbids one point for all, (3) one line for all. There is no teacher, no negative
and no predictor.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes |
| Z, Z' | (N, D) | of all processes together |
| λ, μ, ν | | `invariance`, `variance`, `covariance` |

Differs from the paper's text, as its authors' code does, for which 25, 25 and 1 were chosen: (1) is divided by D, and
the two variances are halved in (4). Differs from both: AdamW in place of LARS; the expander has 512 units a layer in
place of 8192, and no bias in the last layer, which no term of (4) would feel.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.gather import gathered
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig, need_two

EPSILON = 1e-4  # of eq. (2)


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of VICReg and of its training."""

    invariance: Annotated[float, Between(0)] = 25.0
    """λ of eq. (4)."""
    variance: Annotated[float, Between(0)] = 25.0
    """μ of eq. (4)."""
    covariance: Annotated[float, Between(0)] = 1.0
    """ν of eq. (4)."""
    hidden: Annotated[int, Between(1, 2**16)] = 512
    """Units of the expander's two hidden layers."""
    project: Annotated[int, Between(1, 2**16)] = 512
    """Dimensions D of Z."""


def variance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """v of eq. (2)."""
    return relu(1 - (z.var(0) + EPSILON).sqrt()).mean()


def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """c of eq. (3)."""
    n, d = z.shape
    z = z - z.mean(0)
    with torch.autocast(z.device.type, enabled=False):  # bf16 has 8 bits, and C is squared
        C = z.t() @ z / (n - 1)
    return (C.square().sum() - C.diagonal().square().sum()) / d


class VICReg(Encoder):
    """Encoder, expander and eq. (4)."""

    name = "vicreg"
    least_batch = 2

    def __init__(
        self, shape, seed: int = 0, data: str = "", invariance: float = 25.0, variance: float = 25.0,
        covariance: float = 1.0, hidden: int = 512, project: int = 512, **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "invariance": invariance, "variance": variance,
            "covariance": covariance, "hidden": hidden, "project": project, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.weights = (invariance, variance, covariance)
        self.head = MLP(g, self.feature_count, hidden, hidden, project)
        self.head.b = None  # see "Differs"

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """L of eq. (4): (1) over the pictures of this process, (2) and (3) over those of all."""
        need_two(x, self.world, self.name)
        z, z2 = (self.head(self.features(self.view(x, step, s))).float() for s in ("first view", "second view"))
        s = mse_loss(z, z2)
        z, z2 = gathered(z, self.world), gathered(z2, self.world)
        v, c = (variance(z) + variance(z2)) / 2, covariance(z) + covariance(z2)
        of_s, of_v, of_c = self.weights
        return of_s * s + of_v * v + of_c * c, {"invariance": s, "variance": v, "covariance": c}


Model = VICReg


class Method(Pretraining):
    """min over θ of L, eq. (4)."""

    Config, Model = Config, VICReg
    steps = 10_000
