"""Brightness, contrast, saturation and hue, against eq. (1) pixel by pixel."""

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.colour import coloured, luminance
from ptheta.data.order import generator

YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # FCC NTSC


def some(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "pictures"), dtype=dtype)


def by_hand(x: torch.Tensor, brightness: float, contrast: float, saturation: float, phi: float) -> torch.Tensor:
    """Eq. (1) for one picture (3, h, w), pixel by pixel."""
    x = x * brightness
    grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    x = contrast * x + (1 - contrast) * grey.mean()
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            r, g, b = x[:, i, j].tolist()
            y = 0.299 * r + 0.587 * g + 0.114 * b
            r, g, b = (saturation * value + (1 - saturation) * y for value in (r, g, b))
            y, I, Q = YIQ @ [r, g, b]
            I, Q = math.cos(phi) * I - math.sin(phi) * Q, math.sin(phi) * I + math.cos(phi) * Q
            back = np.linalg.solve(YIQ, [y, I, Q])
            out[:, i, j] = torch.from_numpy(back)
    return out.clamp(0, 1)


def test_colours_change_as_picture_by_picture():
    x = some(5, 3, 4, 3)
    gain = torch.tensor(
        [[1.3, 1, 1, 0], [1, 0.6, 1, 0], [1, 1, 0.2, 0], [1, 1, 1, 0.5], [0.8, 1.4, 1.4, -0.6]]
    ).double()
    want = torch.stack([by_hand(picture, *row) for picture, row in zip(x, gain.tolist())])
    torch.testing.assert_close(coloured(x, gain), want, rtol=1e-9, atol=1e-9)


def test_of_grey_pictures_brightness_and_contrast_change_alone():
    x, gain = some(3, 1, 4, 5), torch.tensor([[1.4, 0.7, 0.1, 2.0], [0.6, 1.4, 3, 1], [1, 1, 1, 1]]).double()
    bright = x * gain[:, 0].view(-1, 1, 1, 1)
    mean = bright.mean((1, 2, 3), keepdim=True)
    contrast = gain[:, 1].view(-1, 1, 1, 1)
    torch.testing.assert_close(coloured(x, gain), (mean + contrast * (bright - mean)).clamp(0, 1))


@settings(deadline=None, max_examples=25)
@given(phi=st.floats(-7, 7), seed=st.integers(0, 1000))
def test_hue_turns_around_grey(phi, seed):
    """A full turn is none, two turns add up, luminance stays, and grey is grey. Colours that are not cut."""
    x = 0.5 + 0.1 * (some(2, 3, 3, 3, seed=seed) - 0.5)
    gain = lambda phi: torch.tensor([[1, 1, 1, phi]] * 2).double()  # noqa: E731
    turned = coloured(x, gain(phi))
    torch.testing.assert_close(coloured(x, gain(phi + 2 * math.pi)), turned)
    torch.testing.assert_close(coloured(x, gain(2 * math.pi)), x)
    torch.testing.assert_close(coloured(turned, gain(-phi)), x)
    torch.testing.assert_close(luminance(turned), luminance(x), rtol=1e-3, atol=0)
    grey = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(coloured(grey, gain(phi)), grey, rtol=1e-3, atol=0)


def test_hue_turns_red_to_green_to_blue_as_hues_do():
    red = torch.tensor([0.7, 0.4, 0.4]).double().view(1, 3, 1, 1)
    hues = []
    for share in (0, 1 / 3, 2 / 3):
        seen = coloured(red, torch.tensor([[1, 1, 1, 2 * math.pi * share]]).double()).flatten().tolist()
        hues.append(colorsys.rgb_to_hsv(*seen)[0] % 1)
    steps = sorted([(hues[1] - hues[0]) % 1, (hues[2] - hues[1]) % 1])
    assert steps == pytest.approx([1 / 3, 1 / 3], abs=0.06) or steps == pytest.approx([2 / 3, 2 / 3], abs=0.06)


def test_the_grey_of_grey_is_itself():
    grey = some(2, 1, 4, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(luminance(grey), grey[:, :1])
    none = torch.tensor([[1.0, 1, 0, 0]] * 2).double()
    torch.testing.assert_close(coloured(grey, none), grey)
    x = some(2, 3, 4, 4)
    torch.testing.assert_close(coloured(x, none), luminance(x).expand(-1, 3, -1, -1))
