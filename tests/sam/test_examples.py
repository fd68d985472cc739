"""Forms of pictures and masks: they stay on each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.sam import examples
from ptheta.sam.examples import Forms, drawn


def marked(h: int, w: int, seed: int = 0) -> Example:
    """A dark picture with bright discs, each a mask."""
    r = np.random.RandomState(seed)
    rows, columns = np.mgrid[:h, :w]
    masks = [np.hypot(rows - r.uniform(0, h), columns - r.uniform(0, w)) < 0.2 * max(h, w) for _ in range(4)]
    masks = [m for m in masks if m.any()]
    picture = np.where(np.any(masks, 0), 220, 20).astype(np.uint8)[None].repeat(3, 0)
    return Example("marked", picture, tuple(rle.encode(m) for m in masks), (0,) * len(masks))


@settings(deadline=None, max_examples=40)
@given(st.integers(40, 130), st.integers(40, 130), st.floats(0.5, 1), st.floats(1, 3), st.integers(0, 999))
def test_masks_are_where_the_picture_shows_them(h, w, least, greatest, seed):
    size = 128
    example = marked(h, w)
    x, y = drawn(example, 3, Forms(size, least, greatest, 0.5, 0.0), np.random.default_rng(seed))
    assert x.dtype == np.uint8 and x.shape[0] == 3 and max(x.shape[1:]) <= size
    assert y.dtype == bool and y.shape == (3, *x.shape[1:])
    inside, outside = x[0][y.any(0)], (x[0] > 120) & ~y.any(0)
    assert (inside > 100).mean() > 0.8, "a mask lies on what is dark"
    if len(example.masks) <= 3:
        assert outside.mean() < 0.2


def test_no_change_gives_the_picture_itself():
    example = marked(60, 80)
    x, y = drawn(example, 4, Forms(80, 1.0, 1.0, 0.0, 0.0), np.random.default_rng(0))
    assert np.array_equal(x, example.picture)
    own = {example.mask(i).tobytes() for i in range(len(example.masks))}
    assert {mask.tobytes() for mask in y} == own


def test_a_mirrored_form_is_the_mirror_of_the_other():
    example, forms = marked(60, 80), dict(size=80, least=1.0, greatest=1.0, colour=0.0)
    x, y = drawn(example, 2, Forms(flip=0.0, **forms), np.random.default_rng(1))
    a, b = drawn(example, 2, Forms(flip=1.0, **forms), np.random.default_rng(1))
    assert np.array_equal(a, x[..., ::-1]) and np.array_equal(b, y[..., ::-1])


def test_few_masks_come_again_and_small_ones_are_not_asked_for():
    mask, dot = np.zeros((50, 50), bool), np.zeros((50, 50), bool)
    mask[10:30, 10:30], dot[3, 3] = True, True
    example = Example("few", np.zeros((3, 50, 50), np.uint8), (rle.encode(dot), rle.encode(mask)), (0, 0))
    for seed in range(20):
        _, y = drawn(example, 3, Forms(50, 1.0, 1.0, 0.0, 0.0), np.random.default_rng(seed))
        assert all(np.array_equal(one, mask) for one in y)
    only = Example("dot", example.picture, (rle.encode(dot),), (0,))
    assert np.array_equal(drawn(only, 1, Forms(50, 1.0, 1.0, 0.0, 0.0), np.random.default_rng(0))[1][0], dot)
    with pytest.raises(ValueError, match="has no mask"):
        drawn(Example("none", example.picture, (), ()), 1, Forms(50, 1.0, 1.0, 0.0, 0.0), np.random.default_rng(0))


def test_colours_change_by_the_equation():
    x, r = np.random.RandomState(0).randint(90, 160, (3, 5, 5)).astype(np.uint8), np.random.default_rng(3)
    b, c, t = np.random.default_rng(3).uniform(0.8, 1.2, 3)
    y = b * (x.mean() + c * (x - x.mean()))
    grey = y.mean(0)
    np.testing.assert_allclose(examples.coloured(x, 0.2, r), np.trunc(grey + t * (y - grey)), atol=1)
    same = examples.coloured(x, 0.0, r)
    assert (same == x).all() and same is not x
