"""The boundary F-score: by exact distances, by hand, and what leaves it as it is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from ptheta.engine.errors import InputError
from ptheta.segmentation.boundary import boundaries, boundary_f


def by_distances(t: np.ndarray, p: np.ndarray, classes: int, ignore: int | None, reach: float) -> list[float]:
    """Eqs. (1) to (3) pixel by pixel, with scipy's distances."""
    h, w = t.shape

    def of(x: np.ndarray, c: int) -> np.ndarray:
        B = np.zeros((h, w), bool)
        for i in range(h):
            for j in range(w):
                if x[i, j] == c and t[i, j] != ignore:
                    for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                        if 0 <= a < h and 0 <= b < w and x[a, b] != c and t[a, b] != ignore:
                            B[i, j] = True
        return B

    out = []
    for c in range(classes):
        B, S = of(t, c), of(p, c)
        if not B.any() and not S.any():
            out.append(math.nan)
            continue
        precision = (distance_transform_edt(~B)[S] <= reach).mean() if B.any() and S.any() else 0
        recall = (distance_transform_edt(~S)[B] <= reach).mean() if B.any() and S.any() else 0
        out.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return out


@settings(deadline=None, max_examples=60)
@given(
    h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 999),
    reach=st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.2, 5.0, 12.5]), ignore=st.sampled_from([None, 255, 0]),
)  # fmt: skip
def test_it_is_that_of_exact_distances(h, w, seed, reach, ignore):
    r = np.random.RandomState(seed)
    t = r.choice([0, 1, 2, 255] if ignore == 255 else [0, 1, 2], size=(h, w)).astype(np.uint8)
    p = np.where(r.rand(h, w) < 0.3, r.randint(3, size=(h, w)), np.minimum(t, 2)).astype(np.uint8)
    want = by_distances(t, p, 4, ignore, reach)
    assert boundary_f(t, p, 4, ignore, reach).tolist() == pytest.approx(want, abs=1e-6, nan_ok=True)


def square(at: int, side: int = 20, n: int = 60) -> np.ndarray:
    x = np.zeros((n, n), np.uint8)
    x[at : at + side, at : at + side] = 1
    return x


def test_a_shift_within_the_tolerance_costs_nothing_and_one_beyond_it_nearly_all():
    assert boundary_f(square(20), square(20), 2).tolist() == [1, 1]
    assert boundary_f(square(20), square(22), 2, tolerance=2 * 2**0.5).tolist() == [1, 1]
    assert boundary_f(square(20), square(26), 2, tolerance=1)[1] < 0.3
    assert boundary_f(square(20), np.zeros((60, 60), int), 2).tolist() == [0, 0], "the thing was not found"
    assert boundary_f(np.zeros((9, 9), int), np.zeros((9, 9), int), 2).isnan().all(), "there is no boundary"


def test_the_tolerance_is_a_share_of_the_diagonal():
    """At 400 x 300 it is 3.75 pixels: a bar that moves by 3 is where it should be, one that moves by 4 is not."""

    def bar(at: int) -> np.ndarray:
        x = np.zeros((300, 400), np.uint8)
        x[:, at:] = 1
        return x

    assert boundary_f(bar(200), bar(203), 2).tolist() == [1, 1] and boundary_f(bar(200), bar(204), 2).tolist() == [0, 0]


def test_what_is_not_scored_bounds_nothing():
    t = square(20)
    t[:, :10] = 255
    p = square(20)
    p[:, :5] = 1
    assert boundary_f(t, p, 2).tolist() == [1, 1]
    scored = torch.from_numpy(t != 255)
    assert not boundaries(torch.from_numpy(t).long(), scored)[:, :12].any()


def test_maps_of_other_shapes_are_refused():
    for t, p in (((3, 4), (4, 3)), ((2, 3, 4), (2, 3, 4)), ((4,), (4,))):
        with pytest.raises(InputError, match=r"allowed: two of \(height, width\)"):
            boundary_f(np.zeros(t, int), np.zeros(p, int), 2)
