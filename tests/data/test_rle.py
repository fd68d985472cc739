"""Run lengths: back and forth, and as pycocotools has them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ptheta.data import rle
from ptheta.engine.errors import InputError

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS)
def test_a_mask_comes_back(mask):
    told = rle.encode(mask)
    assert (rle.decode(told) == mask).all() and rle.area(told) == mask.sum()
    assert (rle.decode(rle.compressed(told)) == mask).all() and rle.area(rle.compressed(told)) == mask.sum()


@given(st.lists(st.integers(0, 2**31), min_size=1))
def test_any_runs_come_back_from_their_string(counts):
    assert rle.unpacked(rle.packed(counts)) == counts


@given(MASKS)
def test_strings_are_those_of_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = rle.compressed(rle.encode(mask))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert (rle.decode(theirs) == mask).all()


def test_columns_come_first():
    mask = np.zeros((2, 3), bool)
    mask[1, 0] = mask[0, 1] = True
    assert rle.encode(mask) == {"size": [2, 3], "counts": [1, 2, 3]}
    assert rle.encode(~mask) == {"size": [2, 3], "counts": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "add up to 3 pixels, not to 6"),
        ({"size": [2, 3], "counts": [8, -2]}, "they are cut"),
        ({"size": [2, 3]}, "no run-length encoding"),
        ({"size": [2], "counts": [2]}, "no run-length encoding"),
        ({"size": [2, 3], "counts": "a" * 3}, "no run-length encoding"),
    ],
)
def test_what_is_no_mask_is_refused(told, why):
    with pytest.raises(InputError, match=why):
        rle.decode(told)
