"""Masks shown on their picture."""

from __future__ import annotations

import numpy as np

TINT = 0.55  # share of a mask's colour in its pixels


def overlay(x: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """A picture with masks in colours, large ones below small ones, each with its edge."""
    import colorsys

    out = x.astype(np.float32)
    for i, mask in sorted(enumerate(masks), key=lambda pair: -pair[1].sum()):
        colour = 255 * np.array(colorsys.hsv_to_rgb((0.55 + 0.381966 * i) % 1, 0.85, 1.0), np.float32)
        out[mask] = (1 - TINT) * out[mask] + TINT * colour
        inner = mask.copy()
        for axis in (0, 1):
            for by in (-1, 1):
                inner &= np.roll(mask, by, axis)
        out[mask & ~inner] = colour
    return out.round().astype(np.uint8)
