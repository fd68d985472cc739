"""The network for pictures against torch's own layers, at every size."""

import pytest
import torch
from torch import nn

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets.pixels import LARGE, SMALL, Pixels

SIZES = [(1, 4, 4), (3, 4, 35), (3, 16, 16), (4, 35, 35), (4, 36, 36), (1, 36, 200), (3, 50, 41), (4, 84, 84)]


def made(*shape: int, **options: int) -> Pixels:
    return Pixels(generator(0, 0, "pixels"), shape, **options)


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(seed, 0, "bytes"), dtype=torch.uint8)


def torchs(net: Pixels, channels: int, sides: tuple[int, int], outputs: int) -> nn.Sequential:
    """The paper's layers by torch, with the same weights."""
    if min(sides) >= 36:
        layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
    else:
        layers = [nn.Conv2d(channels, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, 1, 1)]
    with torch.no_grad():
        for layer, W in zip(layers, net.W, strict=True):
            layer.weight.copy_(W)
            nn.init.zeros_(layer.bias)  # pyright: ignore
        convolutions = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())), nn.Flatten())
        last = nn.Linear(convolutions(torch.zeros(1, channels, *sides)).shape[1], outputs)
        last.weight.copy_(net.V)
        last.bias.copy_(net.b)
    return nn.Sequential(convolutions, last, nn.ReLU())


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_it_is_torchs_layers(shape):
    net, x = made(*shape, outputs=20), bytes_of(3, *shape)
    with torch.no_grad():
        net.b.copy_(0.1 * torch.randn(20, generator=generator(1, 0, "b")))
    theirs = torchs(net, shape[0], shape[1:], 20)
    y, want = net(x), theirs(x.double().float() / 255)
    torch.testing.assert_close(y, want)
    assert y.shape == (3, 20) and (y > 0).any() and (y == 0).any()
    y.square().sum().backward()
    want.square().sum().backward()
    pairs = zip([*net.W, net.V, net.b], [p for p in theirs.parameters() if p.dim() > 1] + [theirs[1].bias], strict=True)
    for ours, other in pairs:  # the convolutions of theirs have biases besides
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_every_size_from_4_to_84_has_places_left():
    for side in range(4, 85):
        net = made(1, side, side, outputs=2, width=2)
        assert net.layers == (LARGE if side >= 36 else SMALL)
        assert net(bytes_of(1, 1, side, side)).shape == (1, 2)


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 84, 3), (1, 2, 40), (1, 1, 1)])
def test_pictures_that_are_too_small_are_refused(shape):
    with pytest.raises(UsageError, match=rf"pictures of {shape[1]}x{shape[2]} are too small; allowed: sides from 4 on"):
        made(*shape)


def test_weights_are_orthogonal_with_gain_root_two():
    net = made(4, 36, 36)
    for W in [*net.W, net.V]:
        rows = W.detach().flatten(1)
        gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert not net.b.any()


def test_a_seed_is_a_network():
    a, b = made(1, 8, 8), Pixels(generator(1, 0, "pixels"), (1, 8, 8))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), made(1, 8, 8).parameters(), strict=True))
    assert not any(torch.equal(p, q) for p, q in zip([*a.W, a.V], [*b.W, b.V], strict=True))
