"""Procedural scenes: outlines against polygons, labels against what was painted, seeds, and what is refused."""

import numpy as np
import pytest
from matplotlib.path import Path

from ptheta.data import scenes as module
from ptheta.data.scenes import KINDS, outline, scene, scenes
from ptheta.engine.errors import UsageError

POLYGONS = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(-0.9 / 0.866, -0.6), (0.9 / 0.866, -0.6), (0, 1.2)],
    "cross": [
        (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3), (-0.3, -1),
        (0.3, -1), (0.3, -0.3), (1, -0.3),
    ],
    "bar": [(-1, -0.12), (1, -0.12), (1, 0.12), (-1, 0.12)],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[1:])
def test_outlines_are_those_of_polygons_and_circles(kind):
    u, v = np.random.RandomState(0).uniform(-1.4, 1.4, (2, 5000))
    inside = outline(KINDS.index(kind), u, v) < 0
    r = np.hypot(u, v)
    if kind in POLYGONS:
        want = Path([*POLYGONS[kind], POLYGONS[kind][0]], closed=True).contains_points(np.stack([u, v], 1))
    else:
        want = r < 1 if kind == "disc" else (r > 0.5) & (r < 1)
    assert (inside == want).mean() > 0.9995, "points on the outline itself may fall either way"
    assert r[inside].max() < 1.45, "a thing reaches no further than it is painted"


def test_scenes_are_the_same_for_the_same_arguments_and_no_others():
    x, y = scenes(6, "train", 40)
    assert x.shape == (6, 3, 40, 40) and y.shape == (6, 40, 40) and x.dtype == y.dtype == np.uint8
    for i in range(6):
        again = scene(0, "train", i, 40)
        assert np.array_equal(again[0], x[i]) and np.array_equal(again[1], y[i])
    others = [scenes(6, "valid", 40), scenes(6, "test", 40), scenes(6, "train", 40, seed=1), (x[::-1], y[::-1])]
    assert not any((x[i] == other[i]).mean() > 0.5 for other, _ in others for i in range(6))
    assert scenes(0)[0].shape == (0, 3, 96, 96)


def test_every_kind_is_there_small_things_too():
    _, y = scenes(200, side=64)
    share = np.bincount(y.ravel(), minlength=len(KINDS)) / y.size
    assert share[0] > 0.5 and (share[1:] > 0.004).all() and len(share) == len(KINDS)
    there = np.array([[np.sum(one == k) for k in range(1, len(KINDS))] for one in y])
    few = ((there > 0) & (there < 40)).mean()
    assert few > 0.1, "kinds that cover less than a hundredth of a scene"


@pytest.mark.parametrize("behind", [(0.5, 0.5, 0.5), (0.0, 1.0, 0.2)])
def test_a_thing_s_colour_is_apart_from_what_is_behind_it(behind):
    behind = np.array(behind)
    for colour in np.random.RandomState(0).rand(200, 3):
        moved = module.apart(colour, behind)
        distance = np.linalg.norm(colour - behind)
        assert np.linalg.norm(moved - behind) == pytest.approx(max(distance, module.CONTRAST))
        np.testing.assert_allclose((moved - behind) * distance, (colour - behind) * np.linalg.norm(moved - behind))
    assert np.isfinite(module.apart(behind, behind)).all()


class Still(np.random.Generator):
    """Draws as ever, but no grain, no light and no shade: what is painted is eq. (1) alone."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(np.random.SeedSequence(seed)))

    def standard_normal(self, size):
        return np.zeros(size)

    def uniform(self, low, high, size=None):
        drawn = super().uniform(low, high, size)
        if size == 3:  # the colours of the ground and of the thing
            return np.full(3, 0.5) if low == 0.2 else np.array([1.0, 0.0, 0.25])
        return 0.0 if (low, high) in [(0, 0.5), (-1, 1), (0.01, 0.05)] else drawn


@pytest.mark.parametrize("index", range(12))
def test_one_thing_is_painted_by_equation_1_and_labelled_where_it_is(index, monkeypatch):
    seen = {}
    real = module.outline

    def watched(kind, u, v):
        seen.update(kind=kind, f=real(kind, u, v), u=u, v=v)
        return seen["f"]

    monkeypatch.setattr(module, "outline", watched)
    monkeypatch.setattr(module.np.random, "default_rng", Still)
    monkeypatch.setattr(module, "texture", lambda r, u, v, s: np.zeros_like(u))
    monkeypatch.setattr(module, "THINGS", (1, 1))
    x, y = scene(0, "train", index, 48)
    f, kind = seen["f"], seen["kind"]
    s = 1 / np.hypot(seen["u"][0, 1] - seen["u"][0, 0], seen["v"][0, 1] - seen["v"][0, 0])  # neighbours are 1/s apart
    assert (y == kind).sum() == (f < 0).sum() and set(np.unique(y)) <= {0, kind}
    opacity = np.clip(0.5 - s * f, 0, 1)[None]
    colour, ground = np.array([1.0, 0.0, 0.25])[:, None, None], 0.5
    window = 255 * ((1 - opacity) * ground + opacity * colour)
    placed = [
        (i, j)
        for i in range(48 - f.shape[0] + 1)
        for j in range(48 - f.shape[1] + 1)
        if np.abs(x[:, i : i + f.shape[0], j : j + f.shape[1]] - window).max() <= 0.51
    ]
    assert placed, "no place in the picture where it looks like eq. (1)"


def test_light_and_grain_leave_the_labels_alone():
    """Edges of the labels are edges of the picture: colours differ more across them than beside them."""
    x, y = scenes(30, side=96)
    x = x.astype(float)
    step = np.abs(x[:, :, :, 1:] - x[:, :, :, :-1]).mean(1)
    edge = y[:, :, 1:] != y[:, :, :-1]
    assert step[edge].mean() > 2 * step[~edge].mean()


def test_impossible_sizes_and_splits_are_refused():
    for argument in ({"side": 8}, {"count": -1}):
        with pytest.raises(UsageError, match="allowed: sides from 16, counts from 0"):
            scenes(**{"count": 1, **argument})
    with pytest.raises(UsageError, match="split 'val' is unknown; allowed: train, valid, test"):
        scenes(1, "val")
