"""The networks of this room against their equations: identity initialisation, fields, pyramids, dense upsampling."""

import importlib

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, relu

from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.segmentation import context, deeplab, hdc, receptive
from ptheta.segmentation.context import ContextModule, channels, identity

NAMES = ("context", "deeplab", "hdc")
CLASSES = ["a", "b", "c", "d"]
every_network = pytest.mark.parametrize("name", NAMES)


def build(name: str, shape=(3, 48, 64), **settings):
    module = importlib.import_module(f"ptheta.segmentation.{name}")
    return module.Model(shape=shape, classes=CLASSES, seed=0, width=4, **settings)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


# ---------------------------------------------------------------- all


@every_network
@pytest.mark.parametrize("sides", [(48, 64), (45, 61), (17, 16), (100, 33)])
def test_pictures_of_any_size_have_a_score_at_every_pixel(name, sides):
    net = build(name)
    v = net.normalised(some(2, 3, *sides))
    assert net.scores(v).shape == (2, 4, *sides)
    x = some(2, 3, *sides)
    p, y = net.probabilities(x), net.predict(x)
    assert p.shape == (2, 4, *sides) and y.shape == (2, *sides) and y.dtype == torch.uint8
    torch.testing.assert_close(p.sum(1), torch.ones(2, *sides))
    assert torch.equal(p.argmax(1).to(torch.uint8), y)
    assert torch.equal(net.predict(x[0]), y[:1]), "of one picture without the others"
    assert net.predict(x[:0]).shape == (0, *sides) and net.probabilities(x[:0]).shape == (0, 4, *sides)


@every_network
def test_predicting_changes_nothing_and_bytes_are_shares_of_255(name):
    net, x = build(name).train(), some(3, 3, 32, 40)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    y = net.predict(x)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert (net.predict(x / 255) == y).float().mean() > 0.999
    assert torch.equal(net.predict(x), y)


@every_network
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 32, 32), r"x has shape \(2, 1, 32, 32\); allowed: \(b, 3, H, W\), with sides of 16"),
        (torch.zeros(2, 3, 15, 32), r"x has shape \(2, 3, 15, 32\)"),
        (torch.zeros(32, 32), r"x has shape \(32, 32\)"),
        (torch.full((1, 3, 32, 32), 1.5), "x holds 1.5; allowed: bytes"),
        (torch.full((1, 3, 32, 32), torch.nan), "x holds nan; allowed: bytes"),
        (torch.full((1, 3, 32, 32), 7), "x holds torch.int64; allowed: bytes"),
        (torch.ones(1, 3, 32, 32, dtype=torch.bool), "x holds torch.bool; allowed: bytes"),
        ("a picture", "x is no array of numbers"),
    ],
)
def test_what_is_no_picture_is_refused(name, x, message):
    net = build(name)
    for use in (net.predict, net.probabilities):
        with pytest.raises(InputError, match=message):
            use(x)


@every_network
def test_every_parameter_learns(name):
    net = build(name).double()
    net(some(4, 3, 40, 48), torch.randint(0, 4, (4, 40, 48), dtype=torch.uint8)).backward()
    still = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


@every_network
def test_a_batch_of_one_learns(name):
    net = build(name)
    loss = net(some(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.uint8))
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


# ---------------------------------------------------------------- context


@pytest.mark.parametrize("kind", ["basic", "large"])
@pytest.mark.parametrize("C", [1, 3, 7])
def test_the_module_starts_as_the_identity_of_what_is_positive(kind, C):
    """By eq. (3) layer after layer: each of the C maps is there c_7 / C times, as a c_7 / C-th of itself."""
    c, g = channels(kind, C), generator(0, 0, "weights")
    F = torch.randn(2, C, 9, 11, generator=g, dtype=torch.float64)
    out = F
    for before, after, r in zip(c[:-1], c[1:], context.RATES, strict=True):
        out = relu(conv2d(out, identity(g, before, after, C, sigma=0.0).double(), padding=r, dilation=r))
    copies = c[-1] // C
    torch.testing.assert_close(out, relu(F).repeat_interleave(copies, 1) / copies)
    near = ContextModule(generator(0, 0, "weights"), kind, C).double().eval()
    assert (near(F) - out).abs().max() < 1.0, "with noise, and running statistics of nothing, it is near the identity"


def test_eq_3_weight_by_weight():
    C, c, c2 = 3, 6, 12
    W = identity(generator(0, 0, "weights"), c, c2, C, sigma=0.0)
    for b in range(c2):
        for a in range(c):
            want = C / c2 if (a * C) // c == (b * C) // c2 else 0.0
            assert W[b, a, 1, 1] == want
    W[:, :, 1, 1] = 0
    assert not W.any()
    noise = identity(generator(0, 0, "weights"), 32, 32, 1, sigma=0.01)
    assert noise[:, :, 0, 0].std() == pytest.approx(0.01, rel=0.1)


def test_channels_are_the_papers():
    assert channels("basic", 21) == [21] * 8
    assert channels("large", 21) == [21, 42, 42, 84, 168, 336, 672, 672]


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_the_module_reads_67_places_a_side_and_every_one_of_them(kind):
    found = receptive.read(ContextModule(generator(0, 0, "weights"), kind, 1), (1, 81, 81))
    assert found.field == (67, 67) and found.pixels.sum() == 67 * 67


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_scores_are_those_of_eqs_1_and_2_layer_by_layer(kind):
    net = build("context", context=kind, maps=3).double().train()
    x = some(2, 3, 32, 48).double()

    def norm(x):
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()

    F = relu(norm(conv2d(net.backbone(x)[1], net.front.W)))
    for layer, r in zip(net.module.layers, (1, 1, 2, 4, 8, 16, 1), strict=True):
        F = relu(norm(conv2d(F, layer.W, padding=r, dilation=r)))
    want = interpolate(conv2d(F, net.W, net.b), size=(32, 48), mode="bilinear")
    torch.testing.assert_close(net.scores(x), want)


def test_the_front_end_of_the_default_sees_40_pixels_and_the_module_further():
    for kind, field in (("none", 40), ("basic", 40 + 66 * 8)):
        net = build("context", context=kind)
        found = receptive.read(Map(net), (3, 800, 800))
        assert found.field == (field, field), kind


class Map(torch.nn.Module):
    """The last map of a context network before its scores are interpolated."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, v):
        F = self.net.backbone(v)[1]
        return F if self.net.module is None else self.net.module(self.net.front(F))


def test_none_is_the_front_end_alone():
    net, x = build("context", context="none"), some(2, 3, 32, 48)
    v = net.normalised(x)
    want = conv2d(net.backbone(v)[1], net.W, net.b)
    torch.testing.assert_close(net.scores(v), interpolate(want, size=(32, 48), mode="bilinear"))


# ---------------------------------------------------------------- deeplab


def test_the_pyramid_reads_by_each_rate_and_as_a_whole():
    net = deeplab.Pyramid(generator(0, 0, "weights"), 5, 3, (2, 4)).eval().double()
    x, n = torch.randn(2, 5, 12, 10, dtype=torch.float64), (1 + 1e-5) ** 0.5
    parts = [relu(conv2d(x, net.here.W) / n)]
    parts += [relu(conv2d(x, a.W, padding=r, dilation=r) / n) for a, r in zip(net.around, (2, 4))]
    mean = relu(torch.einsum("oi,bi->bo", net.W_m[:, :, 0, 0], x.mean((2, 3))) + net.b_m)
    parts.append(mean[:, :, None, None].expand(-1, -1, 12, 10))
    want = relu(conv2d(torch.cat(parts, 1), net.join.W) / n)
    torch.testing.assert_close(net(x), want, rtol=1e-6, atol=1e-8)


def test_a_rate_above_the_map_reads_its_own_place_alone():
    net = deeplab.Pyramid(generator(0, 0, "weights"), 4, 4, (20,)).eval()
    x = torch.randn(1, 4, 12, 10)
    a = net.around[0]
    torch.testing.assert_close(a(x), a.norm(conv2d(x, a.W[:, :, 1:2, 1:2])))


# ---------------------------------------------------------------- hdc


@pytest.mark.parametrize("d", [4, 8])
def test_dense_upsampling_is_eq_1(d):
    net = build("hdc", output_stride=d, rates=(1, 2)).eval()
    v = net.normalised(some(1, 3, 32, 48))
    dense = conv2d(net.backbone(v)[1], net.W, net.b, padding=1)
    s = net.scores(v)
    for c, row, column in ((0, 0, 0), (1, 5, 17), (3, 31, 47), (2, 8, 16)):
        i, u, j, w = row // d, row % d, column // d, column % d
        assert s[0, c, row, column] == dense[0, c * d * d + d * u + w, i, j]


def test_sides_that_d_does_not_divide_are_continued():
    net = build("hdc").eval()
    v = net.normalised(some(1, 3, 45, 61))
    more = torch.nn.functional.pad(v, (0, 3, 0, 3))
    torch.testing.assert_close(net.scores(v), net.scores(more)[:, :, :45, :61])


def test_rates_and_strides_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="output_stride = 32 is impossible with 1 rated blocks"):
        build("hdc", rates=(1,), output_stride=32)
    with pytest.raises(UsageError, match="rates = 0 is impossible"):
        hdc.Config(rates=(0,))
