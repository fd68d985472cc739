r"""SimCLR: two views of one picture are to be each other's nearest among all views of a batch.

T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020.

Of each of N pictures two views are drawn; f is the encoder, g a small network, u = g(f(view)) with ‖u‖ = 1, and j(i)
the other view of the picture of view i. Over the 2N views

    ℓ_i = −\log \frac{\exp(u_i · u_{j(i)} / τ)}{\sum_{k ≠ i} \exp(u_i · u_k / τ)}              (1)

    L = \frac{1}{2N} \sum_i ℓ_i                                                               (2)

(NT-Xent). The sum leaves out i itself and nothing else, the positive stays in; where all views are alike the loss is
\ln(2N − 1). What stays is f: g may throw away what views do not share.

| symbol | shape | here |
|---|---|---|
| x | (N, C, H, W) | pictures, bytes |
| z = f(x) | (N, f) | features |
| u | (2N, d) | first views, then second views; of all processes together |
| τ | | `temperature` |

Differs from the paper: AdamW in place of LARS; the batch norm at the end of g has no γ and β.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.gather import gathered
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig, need_two


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of SimCLR and of its training."""

    temperature: Annotated[float, Between(0, open=True)] = 0.2
    """τ of eq. (1)."""
    hidden: Annotated[int, Between(1, 2**16)] = 256
    """Hidden units of g."""
    project: Annotated[int, Between(1, 2**16)] = 128
    """Dimensions of u."""


def nt_xent(
    u: Float[Tensor, "b d"], v: Float[Tensor, "b d"], temperature: float, rank: int = 0, world: int = 1
) -> Float[Tensor, " 2b"]:
    """ℓ_i of eq. (1) for the 2b views of this process, against those of all; u and v are the two views, ‖u‖ = 1."""
    b = len(u)
    every = torch.cat([gathered(u, world), gathered(v, world)])  # (2N, d), N = b · world
    mine = torch.cat([u, v])
    at = torch.arange(b, device=u.device) + b * rank
    me, positive = torch.cat([at, at + b * world]), torch.cat([at + b * world, at])
    with torch.autocast(u.device.type, enabled=False):  # in bf16, a cosine would be off by up to 1/256
        logits = mine @ every.t() / temperature
    logits = logits.scatter(1, me[:, None], -torch.inf)
    return cross_entropy(logits, positive, reduction="none")


class SimCLR(Encoder):
    """f, g and eq. (2)."""

    name = "simclr"
    least_batch = 2

    def __init__(
        self, shape, seed: int = 0, data: str = "", temperature: float = 0.2, hidden: int = 256, project: int = 128,
        **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "temperature": temperature, "hidden": hidden,
            "project": project, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.temperature = temperature
        self.head = MLP(g, self.feature_count, hidden, project, last_norm=True)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """ℓ of eq. (1) for each view."""
        need_two(x, self.world, self.name)
        both = torch.cat([self.view(x, step, "first view"), self.view(x, step, "second view")])
        u, v = normalize(self.head(self.features(both)).float()).chunk(2)
        return nt_xent(u, v, self.temperature, self.rank, self.world), {"alike": (u * v).sum(1).mean()}


Model = SimCLR


class Method(Pretraining):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, SimCLR
    steps = 10_000
