"""Large pictures by tiles: every pixel is covered, overlaps suffice, and inside of tiles nothing is changed."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.segmentation.hdc import HDC
from ptheta.segmentation.tiling import pieces, tiled, weights


class Local(nn.Module):
    """Scores by two convolutions of 3 × 3: a field of 5."""

    classes = ("a", "b", "c")
    backbone = SimpleNamespace(output_stride=1)

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
@given(n=st.integers(1, 3000), t=st.integers(32, 700), share=st.floats(0, 0.49), d=st.sampled_from([1, 4, 8, 32]))
def test_tiles_cover_a_side_overlap_and_begin_where_the_network_sees_the_same(n, t, share, d):
    v = int(share * t)
    found = pieces(n, t, v, d)
    assert found[0][0] == 0 and found[-1][1] == n and found == sorted(set(found))
    assert all(a % d == 0 for a, _ in found)
    if len(found) == 1:
        assert n < t + d
    else:
        assert all(b - a == t for a, b in found[:-1]) and t <= n - found[-1][0] < t + d
        assert all(end - begin >= v - d + 1 for (_, end), (begin, _) in zip(found, found[1:]))
        assert len(found) == 2 or (len(found) - 2) * (t - v) + t < n, "one tile fewer would not do"


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
        for ends in pieces(n, 40, 12, 1):
            for edge in ends:
                if 0 < edge < n:
                    sure.index_fill_(axis, torch.arange(edge - 2, edge + 2), False)
    assert sure.float().mean() > 0.5 and torch.equal(got[sure], whole[sure])


@pytest.mark.parametrize("stride", [4, 8])
def test_a_network_with_strides_says_the_same_inside_of_tiles_of_any_picture(stride):
    """Tiles that begin between multiples of the stride would be seen otherwise, all over."""
    net = HDC((3, 48, 48), ["a", "b", "c"], seed=0, width=4, rates=(1,), output_stride=stride).eval()
    torch.nn.init.normal_(net.W, std=1.0)
    x = torch.randint(0, 256, (3, 390, 413), generator=generator(0, 0, "x"), dtype=torch.uint8)
    whole, got = net.predict(x)[0], tiled(net, x, 200, 90)
    sure = torch.ones(390, 413, dtype=torch.bool)
    for n, axis in zip((390, 413), (0, 1)):
        for ends in pieces(n, 200, 90, stride):
            for edge in ends:
                if 0 < edge < n:
                    near = torch.arange(max(0, edge - 48), min(n, edge + 48))
                    sure.index_fill_(axis, near, False)
    assert sure.any() and torch.equal(got[sure], whole[sure])


@pytest.mark.parametrize(("tile", "overlap"), [(31, 0), (64, 32), (64, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(UsageError, match=f"tile = {tile}, overlap = {overlap}; allowed: tiles from 32"):
        tiled(Local(), torch.zeros(3, 100, 100, dtype=torch.uint8), tile, overlap)
