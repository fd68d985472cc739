"""Large pictures by tiles: every pixel is covered, overlaps suffice, and inside of tiles nothing is changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.segmentation.tiling import beginnings, tiled, weights


class Local(nn.Module):
    """Scores by two convolutions of 3 × 3: a field of 5."""

    classes = ("a", "b", "c")

    def __init__(self):
        super().__init__()
        g = generator(0, 0, "weights")
        self.W = [torch.randn(6, 3, 3, 3, generator=g), torch.randn(3, 6, 3, 3, generator=g)]
        self.seen = []

    def probabilities(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        h = nn.functional.conv2d(x[None].float() / 255, self.W[0], padding=1).relu()
        return nn.functional.conv2d(h, self.W[1], padding=1).softmax(1)

    def predict(self, x):
        return self.probabilities(x).argmax(1).to(torch.uint8)


@settings(deadline=None)
@given(n=st.integers(1, 3000), t=st.integers(32, 700), share=st.floats(0, 0.49))
def test_tiles_cover_a_side_and_overlap(n, t, share):
    v = int(share * t)
    o = beginnings(n, t, v)
    assert o[0] == 0 and o == sorted(set(o))
    if n <= t:
        assert o == [0]
    else:
        assert o[-1] + t == n
        assert all(a + t - b >= v for a, b in zip(o, o[1:])), "neighbours share v pixels"
        assert len(o) == 2 or (len(o) - 2) * (t - v) + t < n, "one tile fewer would not do"


def test_weights_fall_to_the_edges_and_are_never_zero():
    assert weights(6, 2).tolist() == [0.5, 1.5, 2, 2, 1.5, 0.5]
    assert weights(5, 0).tolist() == [0.5, 1, 1, 1, 0.5]


@pytest.mark.parametrize("sides", [(40, 40), (33, 100), (100, 90)])
def test_tiles_say_what_the_whole_picture_says_but_near_their_edges(sides):
    net = Local()
    x = torch.randint(0, 256, (3, *sides), generator=generator(0, 0, "x"), dtype=torch.uint8)
    whole, net.seen = net.predict(x)[0], []
    got = tiled(net, x, 40, 12)
    assert got.dtype == torch.uint8 and got.shape == sides
    assert all(max(s) <= 40 for s in net.seen) and len(net.seen) > (max(sides) > 40)
    assert (got == whole).float().mean() > 0.99
    sure = torch.ones(sides, dtype=torch.bool)  # 2 pixels and more inside of every tile that has the pixel
    for n, axis in zip(sides, (0, 1)):
        for o in beginnings(n, 40, 12):
            for edge in (o, o + 40):
                if 0 < edge < n:
                    sure.index_fill_(axis, torch.arange(edge - 2, edge + 2), False)
    assert sure.float().mean() > 0.5 and torch.equal(got[sure], whole[sure])


@pytest.mark.parametrize(("tile", "overlap"), [(31, 0), (64, 32), (64, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(UsageError, match=f"tile = {tile}, overlap = {overlap}; allowed: tiles from 32"):
        tiled(Local(), torch.zeros(3, 100, 100, dtype=torch.uint8), tile, overlap)
