"""Points and boxes as a person would give them."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ptheta.sam.clicks import anywhere, errors, labels, loose_box, middle


def regions(seed, b=4, h=9, w=12, share=0.6):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(b, h, w, generator=g) < share, g


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_a_point_is_in_its_region(seed, share):
    region, g = regions(seed, share=share)
    for found in (anywhere(region, g), middle(region)):
        at, there = found
        assert torch.equal(there, region.flatten(1).any(1))
        for one, (x, y), is_there in zip(region, at.long().tolist(), there.tolist()):
            assert not is_there or one[y, x]


def test_all_pixels_are_alike():
    region = torch.zeros(1, 3, 4, dtype=torch.bool)
    region[0, 0, 1] = region[0, 2, 3] = region[0, 1, 0] = True
    at, _ = anywhere(region.expand(6000, -1, -1), torch.Generator().manual_seed(0))
    counts = [(at == torch.tensor([x, y])).all(1).sum().item() for x, y in ((1, 0), (3, 2), (0, 1))]
    assert sum(counts) == 6000 and max(abs(n - 2000) for n in counts) < 4 * (6000 * 2 / 9) ** 0.5


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.integers(1, 40), st.integers(1, 40))
def test_the_middle_is_the_first_pixel_that_is_farthest_from_the_edge(seed, share, h, w):
    region, _ = regions(seed, h=h, w=w, share=share)
    at, there = middle(region)
    assert torch.equal(there, region.flatten(1).any(1))
    for one, (x, y) in zip(region, at.tolist()):
        far: Any = ndimage.distance_transform_cdt(np.pad(one.numpy(), 1), metric="chessboard")[1:-1, 1:-1]
        if one.any():
            assert (int(y), int(x)) == np.unravel_index(far.argmax(), far.shape)


def test_errors_and_their_labels():
    truth = torch.tensor([[[True, False, True]]])
    m = torch.tensor([[[1.0, 1.0, -1.0]]])
    assert errors(m, truth).tolist() == [[[False, True, True]]]
    assert (
        labels(torch.tensor([[1.0, 0.0]]), truth).item() == 0 and labels(torch.tensor([[2.0, 0.0]]), truth).item() == 1
    )


def test_boxes_are_loose():
    mask = torch.zeros(1, 300, 400, dtype=torch.bool)
    mask[0, 100:200, 50:350] = True
    drawn = loose_box(mask.expand(4000, -1, -1), torch.Generator().manual_seed(0))
    off = drawn - torch.tensor([50.0, 100, 350, 200])
    assert off.abs().max() <= 20 and off.mean(0).abs().max() < 1
    assert 8 < off[:, 1].std() < 11  # a tenth of 100 pixels, cut at 20
    assert 15 < off[:, 0].std() < 20  # a tenth of 300 is more than 20


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_box_is_in_the_picture_and_not_empty(seed):
    mask, g = regions(seed, share=0.05)
    low, high = loose_box(mask, g).split(2, 1)
    assert (low >= 0).all() and (high <= torch.tensor([12, 9])).all() and (high - low > 0.999).all()
