"""Receptive fields of networks: chains against the closed form, any network against what changing a pixel changes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import max_pool2d

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets.encoders import ResNet
from ptheta.segmentation.dilation import Layer, receptive_field, support
from ptheta.segmentation.receptive import effective, read, trace

LAYERS = st.lists(
    st.builds(Layer, kernel=st.integers(1, 4), rate=st.integers(1, 3), stride=st.integers(1, 2)), min_size=1, max_size=3
)


def chain(layers: list[Layer], sides: int = 2) -> nn.Sequential:
    convolution = nn.Conv2d if sides == 2 else nn.Conv1d
    return nn.Sequential(
        *(
            part
            for i, l in enumerate(layers)
            for part in (convolution(1 if i == 0 else 2, 2, l.kernel, l.stride, dilation=l.rate), nn.ReLU())
        )
    )


@settings(deadline=None, max_examples=40)
@given(layers=LAYERS, sides=st.sampled_from([1, 2]))
def test_chains_have_the_field_and_the_holes_of_the_closed_form(layers, sides):
    net, want = chain(layers, sides), support(layers)
    shape = (1, *([want.field] * sides))
    before = copy.deepcopy(net.state_dict())
    rows, found = trace(net, shape), read(net, shape)
    assert rows[-1].field == receptive_field(layers) == want.field
    assert [(r.kernel, r.rate, r.stride) for r in rows] == [(l.kernel, l.rate, l.stride) for l in layers]
    assert found.field == (want.field,) * sides and found.share == pytest.approx((want.used / want.field) ** sides)
    line = found.pixels if sides == 1 else found.pixels[0]
    assert tuple(p for p, seen in enumerate(line.tolist()) if not seen) == want.holes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Branches(nn.Module):
    """A residual and two parallel branches, a maximum between, batch norm, as a dictionary."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)
        self.near, self.far = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=3, dilation=3)

    def forward(self, x):
        y = self.pool(x[:, :1] + torch.relu(self.norm(self.first(x))))
        return {"out": torch.relu(self.near(y)) - self.far(y), "other": y.mean((2, 3))}


def changed(net: nn.Module, shape, q) -> torch.Tensor:
    """Which pixels change the output at q when they are changed, in any of many draws: (2) by trying."""
    g = generator(0, 0, "tries")
    seen = torch.zeros(shape[1:], dtype=torch.bool)
    with torch.no_grad():
        for _ in range(6):
            x = torch.randn(1, *shape, generator=g, dtype=torch.float64)
            y = net(x)["out"][0, :, *q]
            for i in range(shape[1]):
                for j in range(shape[2]):
                    for shift in (8.0, -8.0):
                        moved = x.clone()
                        moved[:, :, i, j] += shift
                        seen[i, j] |= bool((net(moved)["out"][0, :, *q] != y).any())
    return seen


@pytest.mark.parametrize("place", [None, (0, 0), (4, 2)])
def test_branches_read_what_changing_pixels_shows(place):
    torch.manual_seed(0)
    net = Branches().double().eval()
    found = read(net, (2, 12, 10), place)
    assert found.place == (place or (3, 2))
    assert torch.equal(found.pixels, changed(net, (2, 12, 10), found.place))
    assert 0 < found.share < 1, "the far branch leaves holes"


def test_nets_written_with_functions_are_read_too():
    """`ResNet` convolves by functions: 28 pixels are halved once, and its three blocks see 4 + 2 · (…) pixels."""
    net = ResNet((1, 64, 64), generator(0, 0, "net"), width=4, blocks=1, stages=2)

    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net.map(x)

    found = read(Map(), (1, 64, 64))
    halvings = len(net.stem)
    layers = [Layer(4, 1, 2)] * halvings + [Layer(3)] * 2 + [Layer(3, 1, 2), Layer(3)]
    assert found.field == (receptive_field(layers),) * 2 and found.share == 1.0


class Subtracted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.a(x) - self.b(x)


class OverChannels(nn.Module):
    """Layer norm of the channels of each place, as ConvNeXt has it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convolution(before: int = 1, after: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


@pytest.mark.parametrize(
    ("net", "pixels"),
    [
        (lambda: nn.Sequential(convolution(), nn.InstanceNorm2d(3), convolution(3)), 256),
        (lambda: nn.Sequential(convolution(), nn.GroupNorm(1, 3), convolution(3)), 256),
        (lambda: nn.Sequential(convolution(), nn.BatchNorm2d(3), convolution(3)), 25),
        (lambda: nn.Sequential(convolution(), OverChannels(), convolution(3)), 25),
        (lambda: nn.Sequential(convolution(), nn.Softmax(1)), 9),
        (Subtracted, 9),
        (lambda: nn.MaxPool2d(2), 4),
        (lambda: nn.AdaptiveMaxPool2d(8), 4),
        (lambda: nn.Sequential(convolution(), nn.ConvTranspose2d(3, 1, 2, 2)), 9),
    ],
)
def test_layers_of_every_kind(net, pixels):
    assert read(net(), (1, 16, 16)).pixels.sum() == pixels


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UsageError, match="0 is a transposed convolution"):
        trace(nn.Sequential(nn.ConvTranspose2d(1, 1, 2, 2)), (1, 8, 8))
    with pytest.raises(UsageError, match=r"gives \(1, 3\) for \(1, 1, 8, 8\); allowed: a map"):
        read(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8))
    with pytest.raises(UsageError, match=r"place = \(9, 0\) is not in the output of \(8, 8\)"):
        read(nn.Conv2d(1, 1, 3, padding=1), (1, 8, 8), (9, 0))
    with pytest.raises(UsageError, match="at rate 2"):
        read(nn.Sequential(nn.MaxPool2d(2, dilation=2)), (1, 8, 8))
    assert read(nn.Conv2d(1, 1, 3, padding=1), (1, 8, 8), (0, 0)).field == (2, 2), "at the corner the rest is outside"


def test_a_maximum_that_is_a_function_reads_its_largest_alone():
    """Said in the docstring by what it promises: maxima of modules become means, those of functions stay maxima."""

    class Functional(nn.Module):
        def forward(self, x):
            return max_pool2d(x, 2)

    assert read(Functional(), (1, 8, 8)).pixels.sum() == 1
    assert read(nn.Sequential(nn.MaxPool2d(2)), (1, 8, 8)).pixels.sum() == 4


@pytest.mark.parametrize("place", [(4, 5), (0, 0)])
@pytest.mark.parametrize("channel", [0, 1])
def test_what_tells_is_the_kernel_where_the_net_is_one(place, channel):
    """Eq. (3) of y = W ∗_2 x: |W| at the places that are 2 apart, whatever x is."""
    net = nn.Conv2d(3, 2, 3, padding=2, dilation=2).double()
    g = generator(0, 0, "picture")
    x = torch.randn(3, 9, 10, generator=g, dtype=torch.float64)
    want = torch.zeros(9, 10, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            row, column = place[0] + 2 * (i - 1), place[1] + 2 * (j - 1)
            if 0 <= row < 9 and 0 <= column < 10:
                want[row, column] = net.weight[channel, :, i, j].abs().sum()
    torch.testing.assert_close(effective(net, x, place, channel), want)
    assert not x.requires_grad


def test_what_tells_by_finite_differences_and_within_what_may_be_read():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1)).double()
    x = torch.randn(1, 9, 9, generator=generator(0, 0, "picture"), dtype=torch.float64)
    found, h = effective(net, x, (4, 4), 1), 1e-6
    for row in range(9):
        for column in range(9):
            step = torch.zeros_like(x)
            step[0, row, column] = h
            change = (net((x + step)[None]) - net((x - step)[None]))[0, 1, 4, 4].item() / (2 * h)
            assert found[row, column] == pytest.approx(abs(change), abs=1e-8)
    assert not (found > 0)[~read(net, (1, 9, 9), (4, 4)).pixels].any()
