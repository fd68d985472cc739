r"""Inpaint: a region of a picture is cut out, and its pixels are told from what is around it.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell and A. A. Efros, "Context Encoders: Feature Learning by Inpainting",
CVPR 2016.

With m = 1 where a pixel is hidden, f the encoder and d a convolutional decoder,

    x̂ = d(f((1 − m) ⊙ x, m))                                                                (1)

    L = \frac{‖m ⊙ (x − x̂)‖²}{‖m‖²}                                                          (2)

where m is drawn for each picture: in half of them one rectangle, in the others blocks (see `masks.py`). ‖m‖² counts
the hidden numbers, so that (2) is a mean over them.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes; normalised, so that a hidden pixel is the mean colour, 0 |
| m | (b, 1, H, W) | hidden pixels |
| f(x, m) | (b, c, h, w) | the last map of the ResNet |
| x̂ | (b, C, H, W) | |

The first convolution of f has one input more, for m: W ∗ [x; m] = W_x ∗ x + W_m ∗ m. W_x belongs to the encoder and W_m
to this model; where nothing is hidden the second term is 0 and f is the ResNet that other methods learn.

Differs from the paper: no adversarial term, (2) alone (λ_rec = 1); the network is told m; a ResNet in place of AlexNet
with a channel-wise fully-connected layer, for its maps are small enough to be seen as a whole by convolutions; the
overlap of 7 pixels with ten times the weight is left out; the random regions are rectangles, not outlines of objects.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d, relu

from ptheta.data.order import generator
from ptheta.engine.method import Between
from ptheta.nets.decoders import Decoder
from ptheta.nets.encoders import he
from ptheta.selfsup.masks import GREY, Reconstruction, Restorer, Restoring, drawn, hidden_error, observed_pixels
from ptheta.selfsup.pretraining import AT_ONCE, PretrainingConfig


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the context encoder and of its training."""

    encoder: Literal["resnet"] = "resnet"
    """The encoder that is learned: one whose first layer is a convolution."""
    views: Literal["auto", "digits", "handwriting", "clothes", "photographs", "none"] = "none"
    """Crops, flips and turns of the pictures before a part is hidden, as a preset has them; none: whole pictures."""
    hide: Annotated[float, Between(0, 0.9, open=True)] = 0.4
    """Greatest share of a picture that is hidden; the least is about a quarter of it."""


class ContextEncoder(Restorer):
    """f, d and eq. (2)."""

    name = "inpaint"

    def __init__(self, shape, seed: int = 0, data: str = "", hide: float = 0.4, **encoder):
        super().__init__()
        self.arguments = {"shape": list(shape), "seed": seed, "data": data, "hide": hide, **encoder}
        g = self.set_up(shape, seed, data, **encoder)
        self.hide = hide
        first = self.encoder.stem[0].W
        self.W_m = he(g, first.shape[0], 1, *first.shape[2:])
        self.decoder = Decoder(g, self.encoder.features, self.encoder.grid, self.shape)

    def masks(self, b: int, step: int) -> Bool[Tensor, "b 1 h w"]:
        """m of this process's pictures."""
        device = self.mean.device
        g = generator(self.seed, step, "hidden part", device)
        return self.mine(drawn(b * self.world, *self.shape[1:], self.hide, g, device))

    def map(self, v: Float[Tensor, "b c h w"], m: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b f h2 w2"]:
        """f of eq. (1)."""
        first, *others = self.encoder.stem
        told = torch.cat([v.where(~m, 0), m.to(v.dtype)], 1).contiguous(memory_format=torch.channels_last)
        h = conv2d(told, torch.cat([first.W, self.W_m], 1), None, first.stride, first.padding)
        h = relu(first.norm(h))
        for stem in others:
            h = relu(stem(h))
        for layer in self.encoder.layers:
            h = layer(h)
        return h

    def restored(self, v: Float[Tensor, "b c h w"], m: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
        """x̂ of eq. (1), normalised."""
        return self.decoder(self.map(v, m)).to(self.mean.dtype)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. (2) of each picture."""
        v, m = self.look(x, step), self.masks(len(x), step)
        return hidden_error(self.restored(v, m), v, m), {}

    @torch.no_grad()
    def reconstruct(self, x: UInt8[Tensor, "b c h w"], step: int) -> Reconstruction:
        """Pictures with parts hidden as in training, and filled in."""
        pixels, m = self.values(x), self.masks(len(x), step)
        guess = self.unit(self.restored(self.normalised(x), m))
        return Reconstruction(pixels, pixels.where(~m, GREY), guess.where(m, pixels), m)

    @torch.no_grad()
    def complete(self, x: Any, observed: Any) -> Float[Tensor, "b c h w"]:
        """Pictures x (b, C, H, W) in [0, 1] with what is not observed, bool (H, W) or (b, H, W), filled in.

        Raises InputError for other shapes, UsageError where nothing of a picture is observed.
        """
        pixels = self.values(self.check(x))
        seen = observed_pixels(observed, pixels)
        parts = [
            rows.where(known, self.unit(self.restored(self.normalised(rows), ~known)))
            for rows, known in zip(pixels.split(AT_ONCE), seen.split(AT_ONCE))
        ]
        return torch.cat(parts)


Model = ContextEncoder


class Method(Restoring):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, ContextEncoder
    steps = 10_000
