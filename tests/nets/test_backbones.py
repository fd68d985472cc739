"""Backbones: their maps' sides, what rates and strides do, and what is refused."""

import pytest
import torch
from torch.nn.functional import conv2d, relu

from ptheta.engine.errors import UsageError
from ptheta.nets.backbones import Backbone
from ptheta.nets.encoders import Block, Convolution


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("stride", "far"), [(4, (24, 30)), (8, (12, 15)), (16, (6, 8)), (32, (3, 4))])
def test_maps_have_a_quarter_of_the_sides_and_the_output_stride(stride, far):
    net = Backbone(generator(), 1, 4, (1, 2, 3), stride)
    near, last = net(torch.zeros(2, 1, 97, 121))
    assert near.shape == (2, 8, 24, 30) and last.shape == (2, 16, *far)
    assert (net.near_channels, net.far_channels) == (8, 16)


def test_strides_and_rates_change_no_parameter_but_projections():
    states = [
        Backbone(generator(), 3, 4, rates, stride).state_dict()
        for rates, stride in (((1, 1, 1), 32), ((1, 2, 5), 8), ((2, 2, 2), 4))
    ]
    shapes = [{k: v.shape for k, v in state.items()} for state in states]
    assert shapes[1] == shapes[2]
    more = [k for k in shapes[0] if k not in shapes[1]]
    assert all(k.startswith(("blocks.2.project", "blocks.3.project")) for k in more)
    assert shapes[1] == {k: v for k, v in shapes[0].items() if k not in more}


@pytest.mark.parametrize("rate", [1, 2, 5])
def test_a_rate_is_that_of_both_convolutions_of_a_block(rate):
    block, x = Block(generator(), 3, 3, 1, rate).eval(), torch.randn(2, 3, 20, 20)
    h = relu(conv2d(x, block.first.W, padding=rate, dilation=rate) / (1 + 1e-5) ** 0.5)
    want = relu(conv2d(h, block.second.W, padding=rate, dilation=rate) / (1 + 1e-5) ** 0.5 + x)
    torch.testing.assert_close(block(x), want, rtol=1e-5, atol=1e-5)


def test_a_kernel_of_one_place_has_no_padding():
    layer = Convolution(generator(), 3, 5, 1, rate=4)
    assert layer(torch.zeros(2, 3, 7, 9)).shape == (2, 5, 7, 9)


@pytest.mark.parametrize(
    ("rates", "stride", "message"),
    [
        ((1, 0), 8, r"rates = \(1, 0\) are impossible; allowed: whole numbers from 1 on"),
        ((1,), 32, "output_stride = 32 is impossible with 1 rated blocks; allowed: 4, 8, 16"),
        ((), 16, "output_stride = 16 is impossible with 0 rated blocks; allowed: 4, 8"),
        ((1, 1), 6, "output_stride = 6 is impossible"),
    ],
)
def test_what_cannot_be_is_refused(rates, stride, message):
    with pytest.raises(UsageError, match=message):
        Backbone(generator(), 3, 4, rates, stride)
