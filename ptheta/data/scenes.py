r"""Procedural scenes with their label maps: shapes with texture, light and occlusion, drawn from a seed.

A scene of side n is painted from the back to the front on a ground of slowly varying colour. Every thing has a kind, a
place, an angle, a size s drawn so that log s is uniform (small things are as many as large ones, and cover few pixels),
a colour of its own, apart from what is behind it, and stripes, specks or no texture. Its outline is a signed distance
f(u, v) in its own coordinates,

    (u, v) = R(−θ) (x − c) / s,        inside: f < 0,        opacity = clip(1/2 − s f, 0, 1)                     (1)

so that edges are one pixel soft in the picture, and hard in the labels, where a pixel belongs to the thing in front.
Light comes from one side of the scene and falls on all of it, and grain is added. Colour and texture tell nothing of
the kind: a pixel inside a large thing is named by its outline, which is far away, and a small thing by its own.

    disc        √(u² + v²) − 1                              square    max(|u|, |v|) − 0.85
    triangle    max(0.866 |u| + v / 2, −v) − 0.6            ring      |√(u² + v²) − 0.75| − 0.25
    cross       min(max(|u| − 1, |v| − 0.3), max(|u| − 0.3, |v| − 1))
    bar         max(|u| − 1, |v| − 0.12)                    thinner than some nets can see
"""

from __future__ import annotations

import numpy as np

from ptheta.engine.errors import UsageError

KINDS = ("ground", "disc", "square", "triangle", "ring", "cross", "bar")
SMALLEST, LARGEST = 3.0, 0.42  # s: in pixels, and as a share of the side
CONTRAST = 0.5  # least distance of a thing's colour from what is behind its centre, of channels from 0 to 1
THINGS = (4, 9)  # fewest and most
SPLITS = {"train": 0, "valid": 1, "test": 2}


def outline(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """f of eq. (1) for one of KINDS but the ground."""
    a, b = np.abs(u), np.abs(v)
    if KINDS[kind] == "disc":
        return np.hypot(u, v) - 1
    if KINDS[kind] == "square":
        return np.maximum(a, b) - 0.85
    if KINDS[kind] == "triangle":
        return np.maximum(0.866 * a + 0.5 * v, -v) - 0.6
    if KINDS[kind] == "ring":
        return np.abs(np.hypot(u, v) - 0.75) - 0.25
    if KINDS[kind] == "cross":
        return np.minimum(np.maximum(a - 1, b - 0.3), np.maximum(a - 0.3, b - 1))
    return np.maximum(a - 1, b - 0.12)


def smooth(r: np.random.Generator, n: int, cells: int, channels: int) -> np.ndarray:
    """A field (n, n, channels) of mean 0 and deviation 2/3 that varies over n / cells pixels: bilinear noise."""
    knots = r.standard_normal((cells + 1, cells + 1, channels))
    at = np.linspace(0, cells, n, endpoint=False)
    i = at.astype(int)
    t = (at - i)[:, None]
    rows = (1 - t[..., None]) * knots[i] + t[..., None] * knots[i + 1]
    return (1 - t)[None] * rows[:, i] + t[None] * rows[:, i + 1]


def texture(r: np.random.Generator, u: np.ndarray, v: np.ndarray, s: float) -> np.ndarray:
    """What is added to a thing's colour: nothing, stripes across a direction of its own, or specks."""
    which, strength = r.integers(3), r.uniform(0.1, 0.3)
    if which == 0:
        return np.zeros_like(u)
    if which == 1:
        angle, period = r.uniform(0, np.pi), r.uniform(2.5, 6.0)  # pixels
        return strength * np.sign(np.sin(2 * np.pi * s * (np.cos(angle) * u + np.sin(angle) * v) / period))
    return strength * (r.random(u.shape) < 0.25)


def apart(colour: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """A colour, moved away from what is behind it until they are CONTRAST apart."""
    difference = colour - behind
    distance = max(float(np.linalg.norm(difference)), 1e-6)
    return behind + difference * max(1.0, CONTRAST / distance)


def scene(seed: int, split: str, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture (3, side, side) and labels (side, side), both uint8, of one scene; the same for the same arguments."""
    r = np.random.default_rng([seed, SPLITS[split], index, side])
    x = r.uniform(0.2, 0.8, 3) + 0.12 * smooth(r, side, 4, 3)
    y = np.zeros((side, side), np.uint8)
    for _ in range(r.integers(THINGS[0], THINGS[1] + 1)):
        kind, s = int(r.integers(1, len(KINDS))), float(np.exp(r.uniform(np.log(SMALLEST), np.log(LARGEST * side))))
        centre, angle = r.uniform(0, side, 2), r.uniform(0, 2 * np.pi)
        colour = apart(r.uniform(0, 1, 3), x[tuple(centre.astype(int))])
        reach = 1.45 * s + 2  # no outline is further from its centre than √2 s, and its edge is a pixel soft
        (i, j), (k, l) = np.clip([centre - reach, centre + reach], 0, side).astype(int)
        rows, columns = np.mgrid[i:k, j:l] + 0.5
        du, dv = (columns - centre[1]) / s, (rows - centre[0]) / s
        u, v = np.cos(angle) * du + np.sin(angle) * dv, np.cos(angle) * dv - np.sin(angle) * du
        f = outline(kind, u, v)
        opacity = np.clip(0.5 - s * f, 0, 1)[..., None]
        shaded = colour + texture(r, u, v, s)[..., None] + 0.15 * r.uniform(-1, 1) * u[..., None]
        x[i:k, j:l] = (1 - opacity) * x[i:k, j:l] + opacity * shaded
        y[i:k, j:l][f < 0] = kind
    towards, depth = r.uniform(0, 2 * np.pi), r.uniform(0, 0.5)
    across = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    light = 1 + depth * (np.cos(towards) * across[1] + np.sin(towards) * across[0])
    x = x * light[..., None] + r.uniform(0.01, 0.05) * r.standard_normal(x.shape)
    return (255 * x.clip(0, 1)).round().astype(np.uint8).transpose(2, 0, 1), y


def scenes(count: int, split: str = "train", side: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` scenes of a split: pictures (N, 3, side, side) and labels (N, side, side), uint8.

    Raises UsageError for a side below 16, where nothing fits, or an unknown split.
    """
    if side < 16 or count < 0:
        raise UsageError(f"side = {side}, count = {count}; allowed: sides from 16, counts from 0.")
    if split not in SPLITS:
        raise UsageError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}.")
    drawn = [scene(seed, split, i, side) for i in range(count)]
    pictures = np.stack([x for x, _ in drawn]) if drawn else np.zeros((0, 3, side, side), np.uint8)
    return pictures, np.stack([y for _, y in drawn]) if drawn else np.zeros((0, side, side), np.uint8)
