"""Connected regions, as SciPy finds them."""

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from ptheta.sam.regions import regions, without_small

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(MASKS)
def test_regions_are_those_of_scipy(mask):
    labels, areas = regions(mask)
    theirs, count = ndimage.label(mask, np.ones((3, 3)))
    assert len(areas) == count == labels.max(initial=0) and areas.sum() == mask.sum()
    pairs = set(zip(labels[mask].tolist(), theirs[mask].tolist()))
    assert len(pairs) == count and ((labels > 0) == mask).all()
    assert all((labels == i + 1).sum() == n for i, n in enumerate(areas))


def test_holes_are_filled_and_islands_sunk():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[5, 5] = mask[8:11, 8:11] = False
    mask[15, 15] = True
    filled, changed = without_small(mask, 4, "holes")
    assert changed and filled[5, 5] and not filled[9, 9] and not filled[0, 0]
    sunk, changed = without_small(mask, 4, "islands")
    assert changed and not sunk[15, 15] and sunk[2, 2]
    assert not without_small(filled, 4, "holes")[1]


def test_the_largest_island_stays_where_all_are_small():
    mask = np.zeros((9, 9), bool)
    mask[1, 1] = mask[5, 5:7] = True
    kept, changed = without_small(mask, 10, "islands")
    assert changed and kept.sum() == 2 and kept[5, 5]
