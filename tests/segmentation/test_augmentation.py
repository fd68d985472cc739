"""Paired augmentation against eq. (1) pixel by pixel, and the weights of classes against their definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.segmentation.augmentation import Drawn, augmented, draw, grid, labels_at, median_frequency


def some(b: int, h: int, w: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(h * w)
    x = torch.randint(0, 256, (b, channels, h, w), generator=g, dtype=torch.uint8)
    return x, torch.randint(0, 7, (b, h, w), generator=g, dtype=torch.uint8)


def told(scale=1.0, place=(0.0, 0.0), sign=1.0) -> Drawn:
    return Drawn(
        torch.tensor([scale]), torch.tensor([place]), torch.tensor([sign]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_with_nothing_drawn_a_picture_is_itself(channels):
    x, y = some(1, 13, 17, channels)
    same, labels = augmented(x, y, told(), (13, 17))
    torch.testing.assert_close(same, x / 255, atol=1e-5, rtol=0)
    assert torch.equal(labels, y) and labels.dtype == torch.uint8


def test_a_mirrored_picture_has_mirrored_labels():
    x, y = some(1, 10, 12)
    mirrored, labels = augmented(x, y, told(sign=-1.0), (10, 12))
    torch.testing.assert_close(mirrored, x.flip(3) / 255, atol=1e-5, rtol=0)
    assert torch.equal(labels, y.flip(2))


@pytest.mark.parametrize(("place", "rows", "columns"), [((-1, -1), 0, 0), ((1, 1), 6, 8), ((-1, 1), 0, 8)])
def test_the_ends_of_the_way_are_the_corners(place, rows, columns):
    x, y = some(1, 10, 12)
    cut, labels = augmented(x, y, told(place=tuple(map(float, place))), (4, 4))
    torch.testing.assert_close(cut, x[:, :, rows : rows + 4, columns : columns + 4] / 255, atol=1e-5, rtol=0)
    assert torch.equal(labels, y[:, rows : rows + 4, columns : columns + 4])


def test_twice_as_large_each_label_is_four():
    x, y = some(1, 6, 8)
    _, labels = augmented(x, y, told(scale=2.0), (12, 16))
    assert torch.equal(labels, y.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_half_as_large_all_of_the_picture_is_there_and_the_rest_is_not_learned():
    x, y = some(1, 8, 8)
    _, labels = augmented(x, y, told(scale=0.5), (8, 8))
    assert (labels[0, 2:6, 2:6] < 7).all() and (labels == 255).sum() == 64 - 16
    for place in (-1.0, 1.0):
        _, labels = augmented(x, y, told(scale=0.5, place=(place, place)), (8, 8))
        corner = labels[0, :4, :4] if place > 0 else labels[0, 4:, 4:]  # the window moves, its picture the other way
        assert (corner < 7).all() and (labels == 255).sum() == 64 - 16


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**20), h=st.integers(2, 12), w=st.integers(2, 12), h2=st.integers(1, 14), w2=st.integers(1, 14)
)
def test_labels_are_those_of_eq_1_pixel_by_pixel(seed, h, w, h2, w2):
    x, y = some(2, h, w)
    d = draw(2, generator(seed, 0, "augmentation"), (0.5, 2.0), 0.5, 0.3)
    d = Drawn(d.scale.double(), d.place.double(), d.sign.double(), d.gain.double())
    got = labels_at(y, grid((h, w), d, (h2, w2)))
    for b in range(2):
        s, f = d.scale[b].item(), d.sign[b].item()
        o = [d.place[b, k].item() * abs(n - m / s) / 2 for k, (n, m) in enumerate([(h, h2), (w, w2)])]
        for i in range(h2):
            for j in range(w2):
                row = h / 2 + o[0] + (i + 0.5 - h2 / 2) / s
                column = w / 2 + o[1] + f * (j + 0.5 - w2 / 2) / s
                if min(abs(row - round(row)), abs(column - round(column))) < 1e-9:
                    continue  # on an edge between two pixels either is the nearest
                inside = 0 <= row < h and 0 <= column < w
                assert got[b, i, j] == (y[b, int(row), int(column)] if inside else 255)


def test_pictures_move_with_their_labels():
    """A picture that is painted by its labels still is after any augmentation, away from edges."""
    y = torch.zeros(20, 40, 48, dtype=torch.uint8)
    y[:, 10:28, 14:30] = 1
    x = (y * 200)[:, None].expand(-1, 3, -1, -1).contiguous()
    d = draw(20, generator(0, 0, "augmentation"), (0.6, 1.8), 0.5, 0.0)
    picture, labels = augmented(x, y, d, (32, 32))
    said = (picture[:, 0] * 255 > 100).to(torch.uint8)
    assert (said == labels)[labels != 255].double().mean() > 0.99
    assert {0, 1, 255} == set(labels.unique().tolist())


def test_draws_are_as_asked_and_follow_the_seed():
    d = draw(4000, generator(1, 2, "augmentation"), (0.5, 2.0), 0.25, 0.3)
    again = draw(4000, generator(1, 2, "augmentation"), (0.5, 2.0), 0.25, 0.3)
    assert all(torch.equal(getattr(d, n), getattr(again, n)) for n in d.__dataclass_fields__)
    assert d.scale.min() >= 0.5 and d.scale.max() <= 2 and abs(d.scale.log().mean()) < 0.03
    assert abs((d.sign < 0).double().mean() - 0.25) < 0.03
    assert d.gain[:, :3].min() >= 0.7 and d.gain[:, :3].max() <= 1.3 and abs(d.gain[:, 3]).max() <= 0.2


def test_weights_by_median_frequency_are_those_of_the_definition():
    y = torch.from_numpy(np.random.RandomState(0).choice([0, 1, 2, 255], (6, 9, 8), p=[0.7, 0.2, 0.05, 0.05]))
    y = y.to(torch.uint8)
    y[:3][y[:3] == 2] = 0  # class 2 is in half of the pictures
    f = []
    for c in range(3):
        having = [one for one in y if (one == c).any()]
        f.append(sum((one == c).sum().item() for one in having) / sum((one != 255).sum().item() for one in having))
    want = [float(np.median(f)) / v for v in f]
    np.testing.assert_allclose(median_frequency(y, 3), want, rtol=1e-6)
    got = median_frequency(y, 5)  # two classes that occur nowhere change nothing
    np.testing.assert_allclose(got, [*want, 0, 0], rtol=1e-6)
