r"""BYOL: a network predicts what a slower copy of itself says of another view, and nothing is pushed apart.

J.-B. Grill, F. Strub, F. Altché, C. Tallec, P. H. Richemond, E. Buchatskaya, C. Doersch, B. Avila Pires, Z. D. Guo,
M. Gheshlaghi Azar, B. Piot, K. Kavukcuoglu, R. Munos and M. Valko, "Bootstrap Your Own Latent: A New Approach to
Self-Supervised Learning", NeurIPS 2020.

Of each picture two views v and v' are drawn. The student, of weights θ, is an encoder f, a head g and a predictor q;
the teacher, of weights ξ, has f and g alone. With p = q_θ(g_θ(f_θ(v))), z' = g_ξ(f_ξ(v')), and a bar for division by
the length,

    ℓ(p, z') = ‖\bar p − \bar z'‖² = 2 − 2 \cos(p, z')                                        (1)

    L = ℓ(p(v), z'(v')) + ℓ(p(v'), z'(v))                                                     (2)

is minimised over θ alone: z' is taken for a constant. After each step the teacher follows, and ever more slowly,

    ξ ← m_k ξ + (1 − m_k) θ,        m_k = 1 − (1 − m) (\cos(π k / K) + 1) / 2                  (3)

in update k = 0, 1, … of K. L is zero where f is constant; that training does not go there is owed to q, which is ahead
of the teacher, to batch norm and to the slowness of ξ. `collapse.py` has the figures that tell.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes |
| f(v) | (b, f) | features |
| p, z' | (b, d) | prediction and target |
| m | | `momentum` |

The teacher's batch norms take the statistics of the batch, as the student's do; each view has its own.

Differs from the paper: AdamW in place of LARS; the head's last layer has no bias, which the predictor's batch norm
would cancel, so that its gradient would be rounding noise, which Adam scales up; m is 0.99 where the paper, with
16 times the batch and more updates, has 0.996.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize

from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig, need_two
from ptheta.selfsup.teacher import follow, slowness


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of BYOL and of its training."""

    momentum: Annotated[float, Between(0, 1)] = 0.99
    """m of eq. (3), what the teacher keeps of itself in the first update."""
    hidden: Annotated[int, Between(1, 2**16)] = 256
    """Hidden units of head and predictor."""
    project: Annotated[int, Between(1, 2**16)] = 128
    """Dimensions of p and z'."""


def distance(p: Float[Tensor, "b d"], z: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """ℓ of eq. (1) for each picture; no gradient reaches z."""
    return 2 - 2 * (normalize(p) * normalize(z.detach())).sum(1)


class BYOL(Encoder):
    """Student, teacher and eq. (2)."""

    name = "byol"
    least_batch = 2  # for the batch norms of the heads

    def __init__(
        self, shape, seed: int = 0, data: str = "", momentum: float = 0.99, hidden: int = 256, project: int = 128,
        **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "momentum": momentum, "hidden": hidden,
            "project": project, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.momentum = momentum
        self.head = MLP(g, self.feature_count, hidden, project)
        self.head.b = None  # see "Differs"
        self.predictor = MLP(g, project, hidden, project)
        self.teacher: Any = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def student(self) -> nn.ModuleList:
        """f_θ and g_θ, of which the teacher is a copy."""
        return nn.ModuleList([self.encoder, self.head])

    @torch.no_grad()
    def target(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """z' of views."""
        f, g = self.teacher
        return g(self.features(v, f)).float()

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """L of eq. (2) for each picture."""
        if self.training:
            need_two(x, self.world, self.name)
        first, second = self.view(x, step, "first view"), self.view(x, step, "second view")
        p, p2 = (self.predictor(self.head(self.features(v))).float() for v in (first, second))
        loss = distance(p, self.target(second)) + distance(p2, self.target(first))
        return loss, {"alike": 1 - loss.mean() / 4}

    def after_update(self, step: int, total: int) -> None:
        """Eq. (3), after the optimiser's step: the only change of ξ."""
        follow(self.teacher, self.student, slowness(self.momentum, step, total))


Model = BYOL


class Method(Pretraining):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, BYOL
    steps = 10_000

    def start_from(self, model: Any) -> None:
        """As ever; where the other model has no teacher, the teacher begins as the student."""
        super().start_from(model)
        if model.name != self.model.name:
            self.model.teacher.load_state_dict(self.model.student.state_dict())
