"""Crops around masks, and the set of crops with names."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import things
from ptheta.data.nested import COLOURS
from ptheta.data.pictures import load


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1.0, 2.0]))
def test_a_crop_is_a_square_that_holds_the_thing(top, left, h, w, wider):
    mask = np.zeros((24, 32), bool)
    mask[top : top + h, left : left + w] = True
    x = np.stack([255 * mask.astype(np.uint8)] * 3)
    side = int(min(24, wider * max(h, w)))
    got = things.crop(x, mask, side, wider)
    assert got.shape == (3, side, side)
    wanted = min(mask.sum(), side * side)
    assert abs(got[0].astype(float).sum() / 255 - wanted) <= 0.5 + 0.5 * (h + w)  # half a pixel of blur at the edge


def test_it_is_the_picture_itself_where_nothing_is_scaled():
    x = np.random.default_rng(0).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[4:10, 7:13] = True
    assert (things.crop(x, mask, 6) == x[:, 4:10, 7:13]).all()
    mask[:] = False
    mask[0:6, 24:30] = True  # twice as wide, moved into the picture
    assert (things.crop(x, mask, 12, 2.0) == x[:, :12, 18:]).all()


def test_things_have_names_that_tell_their_colour(monkeypatch):
    monkeypatch.setattr(things, "SCENES", {"train": 12, "valid": 4, "test": 4})
    data = load("things", size=16)
    x, said, y = data.split("train"), data.captions("train"), data.labels("train")
    assert x.shape[1:] == (3, 16, 16) and len(x) == len(said) == len(y) and data.splits == ("train", "valid", "test")
    assert len(data.classes) == 24
    right = 0
    for picture, text, label in zip(x[::3], said[::3], y[::3]):  # the narrow crops
        article, colour, kind = text.split()
        assert article in ("a", "an") and data.classes[label] == f"{colour} {kind}"
        middle = picture.float().permute(1, 2, 0).numpy() / 255
        far = {c: np.median(np.linalg.norm(middle - np.array(rgb), axis=2)) for c, rgb in COLOURS.items()}
        right += min(far, key=far.get) == colour
    assert right >= 0.6 * len(x[::3])
