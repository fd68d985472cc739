"""The decoder: its sizes, its stages written as loops, and pictures of any size."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.nets.decoders import Decoder, sizes
from ptheta.nets.encoders import EPSILON, ResNet

sides = st.integers(1, 300)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "decoder"), dtype=torch.float64)


@given(start=st.tuples(sides, sides), end=st.tuples(sides, sides))
def test_sides_at_most_double_and_end_where_they_are_to(start, end):
    way = [start, *sizes(start, end)]
    assert way[-1] == end
    for before, after in itertools.pairwise(way):
        assert after[0] <= 2 * before[0] and after[1] <= 2 * before[1]
    grown = [a for a in way[:-1] if a[0] < end[0] or a[1] < end[1]]
    assert len(sizes(start, end)) == 1 or grown == way[:-1], "a stage more than it takes"


def test_sides_of_the_pictures_that_there_are():
    assert sizes((4, 4), (28, 28)) == [(7, 7), (14, 14), (28, 28)]
    assert sizes((2, 2), (8, 8)) == [(4, 4), (8, 8)]
    assert sizes((4, 6), (4, 6)) == [(4, 6)] and sizes((7, 7), (4, 4)) == [(4, 4)]


@settings(deadline=None, max_examples=12)
@given(c=st.sampled_from([1, 3]), h=st.integers(1, 45), w=st.integers(1, 45), k=st.integers(1, 5))
def test_a_picture_of_any_size_comes_back(c, h, w, k):
    g = generator(0, 0, "encoder")
    encoder = ResNet((c, h, w), g, width=4)
    decoder = Decoder(g, encoder.features, encoder.grid, (k, h, w)).eval()
    encoder.eval()
    assert decoder(encoder.map(torch.zeros(2, c, h, w))).shape == (2, k, h, w)


def convolved(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """A convolution of 3 × 3 with a border of zeros, place by place."""
    b, _, H, width = x.shape
    out = torch.zeros(b, len(W), H, width, dtype=x.dtype)
    for i, j, di, dj in itertools.product(range(H), range(width), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= i + di < H and 0 <= j + dj < width:
            out[:, :, i, j] += x[:, :, i + di, j + dj] @ W[:, :, di + 1, dj + 1].t()
    return out


def test_a_stage_is_what_equation_1_says():
    decoder = Decoder(generator(0, 0, "d"), 3, (2, 3), (2, 5, 11)).double().eval()
    assert decoder.sizes == [(3, 6), (5, 11)]
    for stage in decoder.stages:
        norm = stage.norm
        norm.running_mean.copy_(some(len(norm.running_mean), seed=1))
        norm.running_var.copy_(some(len(norm.running_mean), seed=2).abs() + 0.5)
        norm.weight.data, norm.bias.data = some(len(norm.weight), seed=3), some(len(norm.weight), seed=4)
    decoder.b.data = some(2, seed=5)
    x = some(2, 3, 2, 3)
    with torch.no_grad():
        y = x
        for (H, W), stage in zip(decoder.sizes, decoder.stages):
            h, w = y.shape[2:]
            up = torch.stack([y[:, :, i * h // H, j * w // W] for i in range(H) for j in range(W)], 2)
            y, n = convolved(up.unflatten(2, (H, W)), stage.W), stage.norm
            y = (y - n.running_mean[:, None, None]) / (n.running_var + EPSILON).sqrt()[:, None, None]
            y = (y * n.weight[:, None, None] + n.bias[:, None, None]).clamp(min=0)
        y = convolved(y, decoder.W) + decoder.b[:, None, None]
        torch.testing.assert_close(decoder(x), y, rtol=1e-10, atol=1e-10)


def test_channels_halve_down_to_sixteen_and_every_weight_is_trained():
    decoder = Decoder(generator(0, 0, "d"), 96, (4, 4), (1, 28, 28)).double()
    assert [s.W.shape[0] for s in decoder.stages] == [48, 24, 16]
    decoder(some(4, 96, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
