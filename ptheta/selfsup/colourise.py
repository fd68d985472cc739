r"""Colourise: a picture is made grey, and its colours are told from its luminance.

R. Zhang, P. Isola and A. A. Efros, "Colorful Image Colorization", ECCV 2016.

A pixel is a luminance Y and two colour axes (I, Q), see `colour.py`. The plane of these is cut into squares of side s;
the K of them that hold the colour of some pixel in [0, 1]³ are the classes, with centres c_k. The colour y of a place
is spread over the five nearest of these,

    Z_k ∝ \exp(−‖y − c_k‖² / 2 (s/2)²),    \sum_k Z_k = 1                                    (1)

and told by ẑ = softmax(d(f(Y))), with f the encoder and d a convolutional decoder:

    L = −\frac{1}{hw} \sum_{ij} v(Z_{ij}) \sum_k Z_{ijk} \log ẑ_{ijk}                        (2)

Most of a picture is nearly grey, so that rare colours are given weight: with p̃ the share of each class in Z,

    v(Z) = w_{\arg\max_k Z_k},    w_k ∝ ((1 − λ) p̃_k + λ / K)^{-1},    \sum_k p̃_k w_k = 1      (3)

A colour is read off by the annealed mean, between the mean of ẑ (T = 1, dull) and its mode (T → 0, patchy):

    H(ẑ) = \sum_k c_k \frac{ẑ_k^{1/T}}{\sum_j ẑ_j^{1/T}}                                     (4)

| symbol | shape | here |
|---|---|---|
| x | (b, 3, H, W) | pictures, bytes |
| y | (b, 2, h, w) | colours at half of the sides (h = \lceil H/2 \rceil), each the mean of its pixels |
| c | (K, 2) | `centres`, s is `square` |
| Z, ẑ | (b, K, h, w) | |
| w | (K,) | `weights`, of the training pictures; λ is `uniform` |

Differs from the paper: YIQ in place of Lab; colours at half of the sides, not a quarter, for smaller pictures; p̃ is of
the soft Z and needs no further smoothing; a ResNet and its decoder in place of a VGG with dilations. The encoder sees
luminance in all three channels, so that it is the encoder that other methods learn, and so do the features of a
picture in colour.

`recovered` is here the share of the colour that is put back: its x̄ is the grey picture.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ptheta.data.colour import YIQ, luminance
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.decoders import Decoder
from ptheta.selfsup.masks import Reconstruction, Restorer, Restoring
from ptheta.selfsup.pretraining import AT_ONCE, PretrainingConfig

NEAREST = 5  # classes of eq. (1)
COUNTED = 5_000  # training pictures from which eq. (3) is taken


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of colourisation and of its training."""

    views: Literal["auto", "digits", "handwriting", "clothes", "photographs", "none"] = "none"
    """Crops, flips and turns of the pictures before they are made grey, as a preset has them; none: whole pictures."""
    square: Annotated[float, Between(0.02, 0.2)] = 0.1
    """s, the side of a class in the plane of colours, each axis of which is about 1.1 long (K = 101; 349 for 0.05)."""
    uniform: Annotated[float, Between(0, 1, open=True)] = 0.5
    """λ of eq. (3): 1 gives all colours the same weight, near 0 each the inverse of its share."""
    temperature: Annotated[float, Between(0.01, 1)] = 0.38
    """T of eq. (4)."""


def split(x: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 2 h w"]]:
    """Luminance and the two colour axes of pictures."""
    return luminance(x), torch.einsum("kc,bchw->bkhw", torch.tensor(YIQ[1:], dtype=x.dtype, device=x.device), x)


def join(luminance: Float[Tensor, "b 1 h w"], colour: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The inverse of `split`, cut to [0, 1]."""
    inverse = torch.linalg.inv(torch.tensor(YIQ, dtype=colour.dtype, device=colour.device))
    return torch.einsum("ck,bkhw->bchw", inverse, torch.cat([luminance, colour], 1)).clamp(0, 1)


def centres(square: float) -> Float[Tensor, "k 2"]:
    """c_k: the multiples of s, grey among them, to which the colour of some pixel in [0, 1]³ is rounded.

    Luminance adds the same to red, green and blue, so all colours are those of pixels of which one of these is 0.
    """
    levels = torch.linspace(0, 1, 201, dtype=torch.float64)
    face = torch.cartesian_prod(torch.zeros(1, dtype=torch.float64), levels, levels)
    rgb = torch.cat([face.roll(channel, 1) for channel in range(3)])
    y = rgb @ torch.tensor(YIQ[1:], dtype=torch.float64).t()
    return ((y / square).round().unique(dim=0) * square).float()


def soft(y: Float[Tensor, "b 2 h w"], c: Float[Tensor, "k 2"], square: float) -> Float[Tensor, "b k h w"]:
    """Z of eq. (1)."""
    square_distance = (y[:, None] - c[:, :, None, None]).square().sum(2)  # (b, K, h, w)
    near, k = square_distance.topk(min(NEAREST, len(c)), 1, largest=False)
    # a softmax, for a colour may lie so far from all centres that every exponential is 0
    return torch.zeros_like(square_distance).scatter(1, k, (-2 * near / square**2).softmax(1))


def rebalanced(share: Float[Tensor, " k"], uniform: float) -> Float[Tensor, " k"]:
    """w of eq. (3) from the shares p̃."""
    w = 1 / ((1 - uniform) * share + uniform / len(share))
    return w / (share * w).sum()


def loss_of_colours(
    logits: Float[Tensor, "b k h w"], Z: Float[Tensor, "b k h w"], w: Float[Tensor, " k"]
) -> Float[Tensor, " b"]:
    """Eq. (2) of each picture."""
    return -(w[Z.argmax(1)] * (Z * logits.log_softmax(1)).sum(1)).mean((1, 2))


def annealed_mean(logits: Float[Tensor, "b k h w"], c: Float[Tensor, "k 2"], T: float) -> Float[Tensor, "b 2 h w"]:
    """H of eq. (4)."""
    return torch.einsum("bkhw,ka->bahw", (logits / T).softmax(1), c)


class Colouriser(Restorer):
    """f, d and eq. (2). Raises UsageError for grey pictures."""

    name = "colourise"
    centres: Tensor
    weights: Tensor

    def __init__(
        self, shape, seed: int = 0, data: str = "", square: float = 0.1, uniform: float = 0.5,
        temperature: float = 0.38, **encoder,
    ):  # fmt: skip
        super().__init__()
        if shape[0] != 3:
            raise colourless(data)
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "square": square, "uniform": uniform,
            "temperature": temperature, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.square, self.uniform, self.temperature = square, uniform, temperature
        c = centres(square)
        self.register_buffer("centres", c)
        self.register_buffer("weights", torch.ones(len(c)))
        self.small = ((shape[1] + 1) // 2, (shape[2] + 1) // 2)
        self.decoder = Decoder(g, self.encoder.features, self.encoder.grid, (len(c), *self.small))

    @torch.no_grad()
    def weigh(self, x: UInt8[Tensor, "n 3 h w"]) -> None:
        """Set w of eq. (3) by training pictures."""
        total = torch.zeros_like(self.weights, dtype=torch.float64)
        for part in x.split(AT_ONCE):
            total += self.targets(self.values(part)).sum((0, 2, 3), dtype=torch.float64)
        self.weights.copy_(rebalanced(total / total.sum(), self.uniform))

    def targets(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Z of pictures in [0, 1]."""
        with torch.autocast(pixels.device.type, enabled=False):  # in bf16 a colour would be off by up to 1/256
            return soft(adaptive_avg_pool2d(split(pixels)[1], self.small), self.centres, self.square)

    def grey(self, v: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalised pictures without their colours."""
        with torch.autocast(v.device.type, enabled=False):
            return self.normalised(luminance(self.unit(v)).expand(-1, 3, -1, -1))

    def features(self, x: Float[Tensor, "b c h w"], f: Any = None) -> Float[Tensor, "b f"]:
        """z of normalised pictures, of whose colours the encoder never sees anything."""
        return super().features(self.grey(x), f)

    def logits(self, v: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """log ẑ of normalised pictures, up to a constant of each place."""
        return self.decoder(self.encoder.map(self.grey(v))).to(self.mean.dtype)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. (2) of each picture."""
        v = self.look(x, step)
        return loss_of_colours(self.logits(v), self.targets(self.unit(v)), self.weights), {}

    def coloured(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1] with the colours of eq. (4) in place of their own."""
        colour = annealed_mean(self.logits(self.normalised(pixels)), self.centres, self.temperature)
        return join(luminance(pixels), interpolate(colour, pixels.shape[2:], mode="bilinear"))

    @torch.no_grad()
    def reconstruct(self, x: UInt8[Tensor, "b c h w"], step: int) -> Reconstruction:
        """Pictures, made grey, and coloured again."""
        pixels = self.values(x)
        grey, everywhere = luminance(pixels).expand_as(pixels), torch.ones_like(x[:, :1], dtype=torch.bool)
        return Reconstruction(pixels, grey, self.coloured(pixels), everywhere)

    @torch.no_grad()
    def colourise(self, x: Any) -> Float[Tensor, "b 3 h w"]:
        """Pictures (b, 3, H, W), or grey ones (b, 1, H, W), in the colours that eq. (4) gives them, in [0, 1].

        Raises InputError for another shape or other values.
        """
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        return torch.cat([self.coloured(rows) for rows in self.values(self.check(x)).split(AT_ONCE)])


Model = Colouriser


def colourless(data: str) -> UsageError:
    """The error for grey pictures."""
    return UsageError(
        f"{data or 'this set'} holds grey pictures, which have no colours to tell; allowed: pictures in colour "
        "(3 channels that differ), as those of emoji are. For grey ones try mae, inpaint or denoise."
    )


class Method(Restoring):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, Colouriser
    default_data = "emoji"
    steps = 10_000

    def __init__(self, config: Any, data: Any, seed: int, hardware: Any, steps: int):
        x = data.split("train")
        if data.shape[0] != 3 or (x == x[:, :1]).all():
            raise colourless(data.name)
        super().__init__(config, data, seed, hardware, steps)
        self.model.weigh(self.x[:COUNTED])

    def untaught(self, seen: Reconstruction) -> Float[Tensor, "b 3 h w"]:
        """The grey picture."""
        return seen.shown
