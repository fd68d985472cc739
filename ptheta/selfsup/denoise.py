r"""Denoise: a picture is spoilt, and the clean one is told from it.

P. Vincent, H. Larochelle, Y. Bengio and P.-A. Manzagol, "Extracting and Composing Robust Features with Denoising
Autoencoders", ICML 2008 (masking noise).
P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio and P.-A. Manzagol, "Stacked Denoising Autoencoders", JMLR 11, 2010
(Gaussian noise).

A picture x is spoilt by Gaussian noise, by pixels that are lost, or by both:

    x̃ = r ⊙ (x + σ ε),    ε ~ N(0, 1),    r_{ij} = 0 with probability ν, else 1              (1)

with σ ~ U(0, σ_max) and ν ~ U(0, ν_max) for each picture. With f the encoder and d a convolutional decoder

    L = \frac 1 n ‖d(f(x̃)) − x‖²                                                             (2)

over all n numbers of the picture, the spoilt and the others.

| symbol | shape | here |
|---|---|---|
| x, x̃ | (b, C, H, W) | pictures, bytes; normalised, so that σ is in deviations of the channels and 0 is the mean |
| σ, ν | (b,) | up to `gaussian` and `masking` |
| f(x̃) | (b, c, h, w) | the last map of the encoder |

Differs from the papers: a convolutional network trained at once in place of layers stacked one by one; the level is
drawn for each picture, where the papers fix it; all channels of a pixel are lost together, and its value is then the
mean of the channel and not black; without the extra weight on spoilt entries (2010, section 4.4).

`recovered` is here the share of the noise that is taken away: its x̄ is x̃, cut to [0, 1].

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.decoders import Decoder
from ptheta.selfsup.masks import Reconstruction, Restorer, Restoring, observed_pixels
from ptheta.selfsup.pretraining import AT_ONCE, PretrainingConfig


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the denoising autoencoder and of its training."""

    views: Literal["auto", "digits", "handwriting", "clothes", "photographs", "none"] = "none"
    """Crops, flips and turns of the pictures before they are spoilt, as a preset has them; none: whole pictures."""
    gaussian: Annotated[float, Between(0, 10)] = 1.0
    """σ_max of eq. (1), in standard deviations of the pictures' channels; 0: no Gaussian noise."""
    masking: Annotated[float, Between(0, 0.95)] = 0.5
    """ν_max of eq. (1), the greatest share of pixels that are lost; 0: none are."""


def spoilt(
    x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], nu: Float[Tensor, " b"], epsilon: Float[Tensor, "b c h w"],
    u: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b c h w"]:  # fmt: skip
    """x̃ of eq. (1) from normal numbers ε and uniform ones: a pixel is lost where u < ν."""
    noisy = x + sigma[:, None, None, None] * epsilon
    return noisy.where(u >= nu[:, None, None, None], 0)


class DenoisingAutoencoder(Restorer):
    """f, d and eq. (2)."""

    name = "denoise"

    def __init__(
        self, shape, seed: int = 0, data: str = "", gaussian: float = 1.0, masking: float = 0.5, **encoder
    ):  # fmt: skip
        super().__init__()
        if not gaussian and not masking:
            raise UsageError("gaussian = 0 and masking = 0 spoil nothing; allowed: one of them above 0 (--gaussian).")
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "gaussian": gaussian, "masking": masking, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.gaussian, self.masking = gaussian, masking
        self.decoder = Decoder(g, self.encoder.features, self.encoder.grid, self.shape)

    def spoil(self, v: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """x̃ of this process's pictures, with levels and noise of step `step`."""
        b, (c, h, w), device = len(v) * self.world, self.shape, v.device
        g = generator(self.seed, step, "noise", device)
        sigma, nu = torch.rand(2, b, generator=g, device=device) * torch.tensor([[self.gaussian], [self.masking]]).to(v)
        epsilon = torch.randn(b, c, h, w, generator=g, device=device)
        u = torch.rand(b, 1, h, w, generator=g, device=device)
        return spoilt(v, *(self.mine(t).to(v.dtype) for t in (sigma, nu, epsilon, u)))

    def restored(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """d(f(x̃)), normalised."""
        return self.decoder(self.encoder.map(v)).to(self.mean.dtype)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. (2) of each picture."""
        v = self.look(x, step)
        return (self.restored(self.spoil(v, step)) - v).square().flatten(1).mean(1), {}

    @torch.no_grad()
    def reconstruct(self, x: UInt8[Tensor, "b c h w"], step: int) -> Reconstruction:
        """Pictures, spoilt as in training, and restored."""
        spoilt = self.spoil(self.normalised(x), step)
        everywhere = torch.ones_like(x[:, :1], dtype=torch.bool)
        return Reconstruction(self.values(x), self.unit(spoilt), self.unit(self.restored(spoilt)), everywhere)

    @torch.no_grad()
    def denoise(self, x: Any) -> Float[Tensor, "b c h w"]:
        """Clean pictures of noisy ones (b, C, H, W), in [0, 1]. Raises InputError for another shape or other values."""
        return self._restored_in_parts(self.normalised(self.check(x)))

    @torch.no_grad()
    def complete(self, x: Any, observed: Any) -> Float[Tensor, "b c h w"]:
        """Pictures x (b, C, H, W) in [0, 1] with what is not observed, bool (H, W) or (b, H, W), filled in.

        Pixels that are not observed are to the model lost ones. Raises InputError for other shapes, UsageError where
        nothing of a picture is observed or no pixel was ever lost in training.
        """
        if not self.masking:
            raise UsageError("this model never saw lost pixels (masking = 0); train one with --masking above 0.")
        pixels = self.values(self.check(x))
        seen = observed_pixels(observed, pixels)
        return pixels.where(seen, self._restored_in_parts(self.normalised(pixels).where(seen, 0)))

    def _restored_in_parts(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.cat([self.unit(self.restored(rows)) for rows in v.split(AT_ONCE)])


Model = DenoisingAutoencoder


class Method(Restoring):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, DenoisingAutoencoder
    steps = 10_000

    def untaught(self, seen: Reconstruction) -> Float[Tensor, "b c h w"]:
        """x̃ itself."""
        return seen.shown
