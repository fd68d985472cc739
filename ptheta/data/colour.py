r"""Colour: a picture lit otherwise, as an affine map of each pixel's channels.

    brightness  p ← β p,         contrast  p ← γ p + (1 − γ) \bar g,
    saturation  p ← σ p + (1 − σ) g(p),        hue  p ← Y^{-1} R(φ) Y p                                        (1)

in this order, with g(p) the grey value of a pixel, \bar g its mean over the picture, and Y the map to luminance and two
colour axes (YIQ, of the NTSC); the result is cut to [0, 1].

Differs from common practice: hue turns in YIQ in place of HSV, and colour is cut to [0, 1] once, after all four.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def coloured(x: Float[Tensor, "b c h w"], gain: Float[Tensor, "b 4"]) -> Float[Tensor, "b c h w"]:
    """Eq. (1) with β, γ, σ, φ of each picture; of grey pictures brightness and contrast alone."""
    brightness, contrast, saturation, hue = gain[:, :, None, None, None].unbind(1)
    x = x * brightness
    grey = x if x.shape[1] == 1 else luminance(x)
    x = contrast * x + (1 - contrast) * grey.mean((2, 3), keepdim=True)
    if x.shape[1] == 3 and ((gain[:, 2] != 1).any() or (gain[:, 3] != 0).any()):
        x = saturation * x + (1 - saturation) * luminance(x)
        Y = torch.tensor(YIQ, dtype=x.dtype, device=x.device)
        cos, sin, one = gain[:, 3].cos(), gain[:, 3].sin(), torch.ones_like(gain[:, 3])
        R = torch.stack([one, 0 * one, 0 * one, 0 * one, cos, -sin, 0 * one, sin, cos], 1).view(-1, 3, 3)
        x = torch.einsum("bij,bjhw->bihw", torch.linalg.inv(Y) @ R @ Y, x)
    return x.clamp(0, 1)


def luminance(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """g(p): the grey value of each pixel."""
    return torch.einsum("c,bchw->bhw", torch.tensor(GREY, dtype=x.dtype, device=x.device), x)[:, None]
