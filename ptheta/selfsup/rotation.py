r"""Rotation: a picture was turned by 0, 90, 180 or 270 degrees, and the network says by which.

S. Gidaris, P. Singh and N. Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018.

With g(x | k) the picture turned by k quarter turns against the clock, f the encoder and F a small network on its
features,

    F^k(f(x)) = softmax_k,        k = 0, …, K − 1,   K = 4                                    (1)

    L = −\frac{1}{KN} \sum_i \sum_k \log F^k(f(g(x_i | k)))                                   (2)

All four forms of a picture go through the network together. Who can tell which way up a thing stands has to know what
it is; where nothing can be told, L = \ln 4. A quarter turn moves pixels and makes none up, so that its traces give
nothing away; hence pictures are square, and views do not turn them.

| symbol | shape | here |
|---|---|---|
| x | (N, C, S, S) | pictures, or wide crops of them with other colours |
| g(x \| k) | (4N, C, S, S) | all unturned, then all turned once, … |
| F | (4N, 4) | logits |

Differs from the paper: AdamW in place of SGD; F is a network with a hidden layer, so that the encoder's features, which
are what is kept, need not themselves be those of the four classes (the paper reads an earlier layer to that end).

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig
from ptheta.selfsup.views import Preset

K = 4


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the prediction of rotations and of its training."""

    hidden: Annotated[int, Between(1, 2**16)] = 256
    """Hidden units of F."""


def rotated(x: Float[Tensor, "b c s s"]) -> Float[Tensor, "4b c s s"]:
    """g(x | 0), …, g(x | 3): quarter turns against the clock."""
    return torch.cat([torch.rot90(x, k, (2, 3)) for k in range(K)])


def turn_loss(logits: Float[Tensor, "4b 4"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " 4b"]]:
    """The terms of eq. (2) of each picture, and 1 where the likeliest turn is the right one."""
    turn = torch.arange(K, device=logits.device).repeat_interleave(len(logits) // K)
    nats = cross_entropy(logits, turn, reduction="none")
    return nats.view(K, -1).mean(0), (logits.argmax(1) == turn).float()


def light(p: Preset) -> Preset:
    """Views that leave a picture upright and most of it there: wide crops, mirrors and colours."""
    return dataclasses.replace(
        p, crop=(max(p.crop[0], 0.6), 1.0), turn=0.0, slant=0.0, bend=0.0, grey=0.0, blur=0.0, erase=0.0, solarise=0.0
    )


class Rotation(Encoder):
    """f, F and eq. (2). Raises UsageError for pictures that are not square."""

    name = "rotation"

    def __init__(self, shape, seed: int = 0, data: str = "", hidden: int = 256, **encoder):
        super().__init__()
        self.arguments = {"shape": list(shape), "seed": seed, "data": data, "hidden": hidden, **encoder}
        _, height, width = shape
        if height != width:
            raise UsageError(
                f"rotation wants square pictures, got {height}x{width}, which a quarter turn makes {width}x{height}; "
                "cut them to squares (a folder of pictures is, to --size)."
            )
        g = self.set_up(shape, seed, data, **encoder)
        self.views = light(self.views)
        self.head = MLP(g, self.feature_count, hidden, K)

    def loss(self, x: UInt8[Tensor, "b c s s"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The terms of eq. (2) of each picture; accuracy: the share of turns that are told."""
        nats, right = turn_loss(self.logits(self.view(x, step, "view")))
        return nats, {"accuracy": right.mean()}

    def logits(self, x: Float[Tensor, "b c s s"]) -> Float[Tensor, "4b 4"]:
        """log F^k + const of the four forms of normalised pictures, in the order of `rotated`."""
        return self.head(self.features(rotated(x))).float()


Model = Rotation


class Method(Pretraining):
    """min over θ of L, eq. (2)."""

    Config, Model = Config, Rotation
    steps = 10_000
