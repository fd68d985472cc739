r"""Pictures of things that have parts, of which parts have parts: wholes, parts and subparts, each with its mask.

A point on a wheel's hub may mean the hub, the wheel or the car. Drawn things know all three: a scene of a given seed,
split and number holds some large outlines (`scenes`, eq. (1)), each with smaller ones inside of it, some of which have
smaller ones still. What is inside is cut at its whole's outline and moves with it; a thing that is in front hides what
is behind, and a mask is what is seen:

    mask of a thing = its outline ∩ the mask of what it is a part of ∖ all that is drawn after it but its parts  (1)

so that a whole's mask holds its parts'. Things of which less than half is seen, or fewer pixels than a thousandth of
the picture, have none. A whole has a colour with a name, so that it can be asked for in words: "a red disc".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptheta.data.scenes import KINDS, SPLITS, apart, outline, smooth, texture
from ptheta.engine.errors import UsageError

WHOLES, SEEN, LEAST = ("disc", "square", "triangle"), 0.5, 1 / 1000
THINGS, PARTS, SUBPARTS = (2, 5), (1, 3), (0, 2)  # fewest and most
SIZES, WITHIN = (0.14, 0.3), (0.32, 0.5)  # of wholes, of the side; of what is inside, of what it is in
COLOURS = {
    "red": (0.85, 0.15, 0.15), "green": (0.2, 0.65, 0.2), "blue": (0.15, 0.3, 0.85), "yellow": (0.92, 0.85, 0.15),
    "orange": (0.95, 0.55, 0.1), "purple": (0.55, 0.2, 0.7), "white": (0.93, 0.93, 0.93), "black": (0.08, 0.08, 0.08),
}  # fmt: skip
LEVELS = ("whole", "part", "subpart")


@dataclass(frozen=True)
class Scene:
    """A picture and its n masks."""

    picture: np.ndarray
    """(3, side, side) uint8."""
    masks: np.ndarray
    """(n, side, side) bool, eq. (1)."""
    level: np.ndarray
    """(n,): 0 whole, 1 part, 2 subpart."""
    parent: np.ndarray
    """(n,): the mask that it is a part of; −1 of wholes, and where that is not seen."""
    names: tuple[str, ...]
    """Of wholes "a red disc", else the kind of outline."""


@dataclass
class _Thing:
    """One while a scene is drawn."""

    inside: np.ndarray
    level: int
    parent: int
    name: str
    full: int
    """Pixels before anything hides it."""


def scene(seed: int, split: str, index: int, side: int = 256) -> Scene:
    """One scene; the same for the same arguments. Raises UsageError for a side below 64, where parts of parts are no
    more than a pixel, or an unknown split."""
    if side < 64:
        raise UsageError(f"side = {side} is impossible; allowed: from 64.")
    if split not in SPLITS:
        raise UsageError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}.")
    r = np.random.default_rng([seed, SPLITS[split], index, side, 1])
    x = r.uniform(0.25, 0.75, 3) + 0.12 * smooth(r, side, 4, 3)
    things: list[_Thing] = []
    for _ in range(r.integers(THINGS[0], THINGS[1] + 1)):
        before, colour = len(things), str(r.choice(list(COLOURS)))
        s, centre = side * r.uniform(*SIZES), r.uniform(0.1 * side, 0.9 * side, 2)
        kind = str(r.choice(WHOLES))
        paint = np.clip(np.array(COLOURS[colour]) + r.uniform(-0.06, 0.06, 3), 0, 1)
        everywhere = np.ones((side, side), bool)
        article = "an" if colour[0] in "aeiou" else "a"
        _draw(r, x, things, kind, centre, s, paint, everywhere, 0, -1, f"{article} {colour} {kind}")
        _draw_inside(r, x, things, before, centre, s, paint)
    return _scene(r, x, things)


def _draw_inside(
    r: np.random.Generator, x: np.ndarray, things: list[_Thing], of: int, centre: np.ndarray, s: float,
    paint: np.ndarray,
) -> None:  # fmt: skip
    """Parts of a thing, and theirs."""
    level = things[of].level + 1
    fewest, most = PARTS if level == 1 else SUBPARTS
    count = int(r.integers(fewest, most + 1))
    first = r.uniform(0, 2 * np.pi)
    for i in range(count):
        angle = first + 2 * np.pi * i / count  # beside each other
        away = 0.0 if count == 1 else r.uniform(0.38, 0.5)
        at = centre + s * away * np.array([np.sin(angle), np.cos(angle)])
        size, kind = s * r.uniform(*WITHIN), str(r.choice(KINDS[1:6]))
        other = apart(r.uniform(0, 1, 3), paint)
        _draw(r, x, things, kind, at, size, other, things[of].inside, level, of, kind)
        if level == 1:
            _draw_inside(r, x, things, len(things) - 1, at, size, other)


def _draw(
    r: np.random.Generator, x: np.ndarray, things: list[_Thing], kind: str, centre: np.ndarray, s: float,
    paint: np.ndarray, within: np.ndarray, level: int, parent: int, name: str,
) -> None:  # fmt: skip
    """One outline, cut at that of what it is in; it hides all that it is no part of."""
    side, angle, reach = x.shape[0], r.uniform(0, 2 * np.pi), 1.45 * s + 2
    (i, j), (k, l) = np.clip([centre - reach, centre + reach], 0, side).astype(int)
    rows, columns = np.mgrid[i:k, j:l] + 0.5
    du, dv = (columns - centre[1]) / s, (rows - centre[0]) / s
    u, v = np.cos(angle) * du + np.sin(angle) * dv, np.cos(angle) * dv - np.sin(angle) * du
    f = outline(KINDS.index(kind), u, v)
    opacity = (np.clip(0.5 - s * f, 0, 1) * within[i:k, j:l])[..., None]
    shaded = paint + 0.5 * texture(r, u, v, s)[..., None] + 0.1 * r.uniform(-1, 1) * np.clip(u, -2, 2)[..., None]
    x[i:k, j:l] = (1 - opacity) * x[i:k, j:l] + opacity * shaded
    inside = np.zeros((side, side), bool)
    inside[i:k, j:l] = (f < 0) & within[i:k, j:l]
    holding, up = set(), parent
    while up >= 0:
        holding.add(up)
        up = things[up].parent
    for at, thing in enumerate(things):
        if at not in holding:
            thing.inside[inside] = False
    things.append(_Thing(inside, level, parent, name, int((f < 0).sum())))


def _scene(r: np.random.Generator, x: np.ndarray, things: list[_Thing]) -> Scene:
    """Light, grain, and the masks of what is seen."""
    side = x.shape[0]
    towards, depth = r.uniform(0, 2 * np.pi), r.uniform(0, 0.4)
    across = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    light = 1 + depth * (np.cos(towards) * across[1] + np.sin(towards) * across[0])
    x = x * light[..., None] + r.uniform(0.01, 0.04) * r.standard_normal(x.shape)
    picture = (255 * x.clip(0, 1)).round().astype(np.uint8).transpose(2, 0, 1)
    kept = [i for i, t in enumerate(things) if t.inside.sum() >= max(LEAST * side**2, SEEN * t.full)]
    place = {i: k for k, i in enumerate(kept)}
    masks = np.stack([things[i].inside for i in kept]) if kept else np.zeros((0, side, side), bool)
    return Scene(
        picture, masks, np.array([things[i].level for i in kept], np.int64),
        np.array([place.get(things[i].parent, -1) for i in kept], np.int64), tuple(things[i].name for i in kept),
    )  # fmt: skip
