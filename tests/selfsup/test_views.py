"""Views: crops, turns and mirrors by a naive sampler, colours picture by picture, blur against SciPy, the draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.selfsup.pretraining import Encoder
from ptheta.selfsup.views import PRESETS, Drawn, Preset, blurred, draw, erased, preset, view

STILL = PRESETS["none"]


def some(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "pictures"), dtype=dtype)


def some_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(0, 0, "pictures"), dtype=torch.uint8)


def drawn(p: Preset, b: int, seed: int = 0) -> Drawn:
    return draw(p, b, generator(seed, 0, "views"))


# ---------------------------------------------------------------- eq. (1)


def cubic(points: torch.Tensor, i: int, n: int) -> torch.Tensor:
    """Keys' cubic convolution with a = −3/4 through points (4, …), which lie from the first to the last of n pixels."""
    at = 3 * i / (n - 1)
    total = 0 * points[0]
    for k in range(math.floor(at) - 1, math.floor(at) + 3):
        t = abs(at - k)
        weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        total = total + weight * points[min(max(k, 0), 3)]
    return total


def naive(
    x: torch.Tensor, theta: torch.Tensor, i: int, j: int, size: tuple[int, int], reflect: bool, bend=(0.0, 0.0)
) -> list[float]:
    """The pixel in row i and column j of a view of one picture (c, h, w), sampled by hand, moved by `bend`."""
    (_, h, w), (H, W) = x.shape, size
    u, v = (2 * j + 1) / W - 1, (2 * i + 1) / H - 1
    at_x = theta[0, 0] * u + theta[0, 1] * v * h / w + theta[0, 2] + bend[0]  # a turn is one of pixels
    at_y = theta[1, 0] * u * w / h + theta[1, 1] * v + theta[1, 2] + bend[1]
    column, row = (float(at_x) + 1) * w / 2 - 0.5, (float(at_y) + 1) * h / 2 - 0.5

    def mirrored(at: float, n: int) -> float:  # at the edges of the picture, half a pixel outside the last centres
        at = abs((at + 0.5) % (2 * n))
        return min(max((2 * n - at if at > n else at) - 0.5, 0), n - 1)

    if reflect:
        row, column = mirrored(row, h), mirrored(column, w)
    total = [0.0] * len(x)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            weight = (1 - abs(row - r)) * (1 - abs(column - c))
            if 0 <= r < h and 0 <= c < w:
                total = [t + weight * float(x[k, r, c]) for k, t in enumerate(total)]
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 5])
def test_a_view_is_the_picture_at_the_places_of_equation_1(channels, size):
    p = replace(STILL, crop=(0.2, 1.5), aspect=1.5, flip=0.5, turn=40.0, slant=30.0)
    x, d = some(6, channels, 7, 9), drawn(p, 6)
    got = view(x, d, size)
    shape = (size or 7, size or 9)
    assert got.shape == (6, channels, *shape)
    for b in range(6):
        for i, j in [(0, 0), (0, shape[1] - 1), (2, 3), (4, 4), (shape[0] - 1, 0)]:
            want = naive(x[b], d.theta[b].double(), i, j, shape, reflect=channels == 3)
            assert got[b, :, i, j].tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bent_view_is_moved_by_cubics_through_its_points(channels):
    p = replace(STILL, crop=(0.5, 1.0), turn=20.0, bend=0.1)
    x, d = some(6, channels, 7, 9), drawn(p, 6)
    got = view(x, d)
    for b in range(6):
        for i, j in [(0, 0), (0, 8), (2, 3), (4, 4), (6, 0), (5, 7)]:
            bend = cubic(cubic(d.bend[b].double().permute(1, 2, 0), i, 7), j, 9).tolist()
            want = naive(x[b], d.theta[b].double(), i, j, (7, 9), channels == 3, bend)
            assert got[b, :, i, j].tolist() == pytest.approx(want, abs=1e-5)


def test_a_slant_moves_rows_and_margins_hold_the_whole_picture():
    """(u, v) ↦ (u + t v, v): the middle row stays, the first moves by t. Above the area 1 the picture is inside."""
    slanted = drawn(replace(STILL, slant=20.0), 4000).theta.double()
    angle = slanted[:, 0, 1].atan() * 180 / math.pi
    assert angle.abs().max() <= 20 + 1e-4 and angle.std().item() == pytest.approx(20 / 3**0.5, rel=0.05)
    assert (slanted[:, :, 0] == torch.tensor([1.0, 0])).all() and (slanted[:, 1, 1] == 1).all()
    theta = drawn(replace(STILL, crop=(1.0, 2.0), aspect=1.0), 4000).theta
    side, centre = theta[:, 0, 0], theta[:, :, 2].abs()
    assert side.min() >= 1 and side.max() <= 2**0.5 + 1e-6 and (centre <= (side - 1)[:, None] + 1e-6).all()
    assert (centre.mean(0) / (side - 1).mean() - 0.5).abs().max() < 0.02


def test_bends_are_normal_and_change_nothing_else():
    p = replace(PRESETS["photographs"], bend=0.2)
    d, without = drawn(p, 4000), drawn(replace(p, bend=0.0), 4000)
    assert d.bend.std().item() == pytest.approx(0.2, rel=0.02) and d.bend.mean().abs() < 0.003
    assert not without.bend.any()
    for name in ("theta", "gain", "deviation", "solarise", "box"):
        assert torch.equal(getattr(d, name), getattr(without, name))


def test_theta_is_the_centre_the_turn_and_the_size_of_equation_1():
    """R(θ) diag(±w, h): what is drawn can be read off it, and lies in the ranges of the preset."""
    p = replace(STILL, crop=(0.3, 0.6), aspect=1.3, flip=0.5, turn=25.0)
    theta = drawn(p, 4000).theta.double()
    A, centre = theta[:, :, :2], theta[:, :, 2]
    h, turn = A[:, :, 1].norm(dim=1), torch.atan2(-A[:, 0, 1], A[:, 1, 1])
    w, sign = A[:, :, 0].norm(dim=1), A.det().sign()
    torch.testing.assert_close(A[:, :, 0], sign[:, None] * torch.stack([turn.cos() * w, turn.sin() * w], 1))
    assert 0.3 <= (w * h).min() < 0.31 and 0.59 < (w * h).max() <= 0.6 + 1e-6
    assert 1 / 1.3 - 1e-6 <= (w / h).min() < 0.78 and 1.28 < (w / h).max() <= 1.3 + 1e-6
    assert (w / h).log().mean().abs() < 0.01, "as often wide as tall"
    assert turn.abs().max() * 180 / math.pi <= 25 + 1e-4 and turn.std() * 180 / math.pi == pytest.approx(
        25 / 3**0.5, rel=0.05
    )
    assert (sign < 0).double().mean() == pytest.approx(0.5, abs=0.03)
    assert (centre[:, 0].abs() <= 1 - w + 1e-6).all() and (centre[:, 1].abs() <= 1 - h + 1e-6).all()
    assert (centre.abs() / (1 - torch.stack([w, h], 1))).mean() == pytest.approx(0.5, abs=0.02), "uniform"


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (1, 5, 9), (3, 37, 8)])
def test_the_preset_none_gives_the_picture_itself(shape):
    x = some_bytes(4, *shape)
    seen = view(x, drawn(PRESETS["none"], 4))
    torch.testing.assert_close(seen, x / 255, rtol=0, atol=1e-5)
    assert torch.equal((seen * 255).round().byte(), x)
    torch.testing.assert_close(view(x / 255, drawn(PRESETS["none"], 4)), seen)


def test_mirrors_are_mirrors():
    x = some_bytes(8, 3, 6, 9)
    d = drawn(replace(STILL, flip=0.5), 8)
    flipped = (d.theta[:, 0, 0] < 0)[:, None, None, None]
    assert 0 < flipped.sum() < 8
    want = torch.where(flipped, x.flip(3), x)
    assert torch.equal((view(x, d) * 255).round().byte(), want)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_a_turn_keeps_angles_and_lengths_of_pictures_that_are_not_square(shape):
    x, d = some(1, 1, *shape), drawn(STILL, 1)
    turned = view(x, replace(d, theta=torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])))
    top, left, side = (shape[0] - min(shape)) // 2, (shape[1] - min(shape)) // 2, min(shape)
    before, after = (t[..., top : top + side, left : left + side] for t in (x, turned))
    torch.testing.assert_close(after, torch.rot90(before, 1, (2, 3)))


def test_half_precision_of_training_does_not_reach_views():
    """Under autocast, places in bf16 would be off by a pixel, and colours and blur by 1/256."""
    x, d = some_bytes(6, 3, 64, 64), drawn(replace(PRESETS["photographs"], blur=1.0, colour=1.0, grey=0.0), 6)
    want = view(x, d)
    with torch.autocast("cpu", torch.bfloat16):
        got = view(x, d)
    assert got.dtype == torch.float32 and torch.equal(got, want)


# ---------------------------------------------------------------- eq. (2), solarising, erasing


@pytest.mark.parametrize("shape", [(24, 24), (20, 31)])
def test_blur_is_scipys_away_from_the_edges_and_keeps_constants(shape):
    x, s = some(3, 2, *shape), torch.tensor([0.6, 1.0, 1.4]).double()
    got = blurred(x, s / max(shape))
    for b in range(3):
        want = gaussian_filter(x[b].numpy(), [0, float(s[b]), float(s[b])], truncate=8)
        inner = slice(7, -7)
        np.testing.assert_allclose(got[b, :, inner, inner], want[:, inner, inner], atol=1e-5)
    torch.testing.assert_close(blurred(torch.full_like(x, 0.3), s / 24), torch.full_like(x, 0.3))


@pytest.mark.parametrize("side", [8, 32, 224, 600])
def test_a_picture_that_is_not_blurred_stays_as_it_is_beside_others_that_are(side):
    x = some(2, 1, side, side, dtype=torch.float32)
    got = blurred(x, torch.tensor([0, 0.05]))
    torch.testing.assert_close(got[0], x[0], rtol=0, atol=1e-6)
    assert side < 20 or not torch.allclose(got[1], x[1], atol=1e-2)


def test_solarising_turns_what_is_light():
    x, d = some_bytes(20, 1, 4, 4), drawn(replace(STILL, solarise=0.5), 20)
    p, chosen = x / 255, (d.solarise > 0).view(-1, 1, 1, 1)
    assert 0 < chosen.sum() < 20
    want = torch.where(chosen & (x >= 128), 1 - p, p)
    torch.testing.assert_close(view(x, d), want, rtol=0, atol=1e-5)


def test_erasing_sets_one_rectangle_of_the_drawn_size_to_one_value():
    d = drawn(replace(STILL, erase=0.7, erased=(0.1, 0.3)), 300)
    x, got = torch.full((300, 3, 40, 40), -1.0), erased(torch.full((300, 3, 40, 40), -1.0), d.box)
    chosen = d.box[:, 1] > d.box[:, 0]
    assert chosen.double().mean() == pytest.approx(0.7, abs=0.08) and torch.equal(got[~chosen], x[~chosen])
    for picture, (top, bottom, left, right, value) in zip(got[chosen], d.box[chosen].tolist()):
        gone = picture[0] != -1
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns) and picture[:, gone].unique().tolist() == [
            pytest.approx(value)
        ]
        assert (
            abs(rows.sum().item() / 40 - (bottom - top)) <= 1 / 40
            and abs(columns.sum() / 40 - (right - left)) <= 1 / 40
        )
        assert top >= 0 and bottom <= 1 + 1e-6 and left >= 0 and right <= 1 + 1e-6 and 0 <= value <= 1
        assert 0.1 - 1e-6 <= (bottom - top) * (right - left) <= 0.3 + 1e-6


# ---------------------------------------------------------------- draws


def test_blurred_white_is_not_brighter_than_white():
    white = torch.ones(200, 1, 28, 28)
    seen = blurred(white, torch.linspace(0.001, 0.1, 200))
    assert seen.min() >= 1 - 1e-6 and seen.max() <= 1


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(PRESETS)), seed=st.integers(0, 2**32), channels=st.sampled_from([1, 3]))
def test_draws_keep_to_the_preset_and_views_to_0_and_1(name, seed, channels):
    p, d = PRESETS[name], drawn(PRESETS[name], 64, seed)
    area = d.theta[:, :, :2].det().abs()
    assert (area <= p.crop[1] + 1e-5).all() and (area >= p.crop[0] / p.aspect - 1e-5).all()
    ranges = [(p.brightness, 1), (p.contrast, 1), (p.saturation, 1), (p.hue * 2 * math.pi, 0)]
    for k, (reach, centre) in enumerate(ranges):
        gain = d.gain[:, k]
        assert (((gain - centre).abs() <= reach + 1e-5) | ((gain == 0) & (k == 2) & (p.grey > 0))).all()
    blur = d.deviation * 32
    assert ((blur == 0) | ((blur >= p.deviation[0] - 1e-6) & (blur <= p.deviation[1] + 1e-6))).all()
    if name == "none":
        assert (d.gain == torch.tensor([1.0, 1, 1, 0])).all() and not blur.any() and not d.solarise.any()
    seen = view(some_bytes(64, channels, 8, 8), d)
    assert seen.min() >= 0 and seen.max() <= 1 and torch.isfinite(seen).all()
    if name in ("digits", "handwriting"):
        assert (d.theta[:, :, :2].det() > 0).all(), "a mirrored digit is another sign"
        turn = torch.atan2(d.theta[:, 1, 0], d.theta[:, 0, 0]) * 180 / math.pi
        assert turn.abs().max() <= 15 + 1e-4


def test_shares_of_changed_pictures_are_those_of_the_preset():
    p, d = PRESETS["photographs"], drawn(PRESETS["photographs"], 5000)
    assert (d.theta[:, 0, 0] < 0).double().mean() == pytest.approx(p.flip, abs=0.03)
    assert (d.gain[:, 0] != 1).double().mean() == pytest.approx(p.colour, abs=0.03)
    assert (d.gain[:, 2] == 0).double().mean() == pytest.approx(p.grey, abs=0.03)
    assert (d.deviation > 0).double().mean() == pytest.approx(p.blur, abs=0.03)
    assert torch.equal(d.gain[:, 0] != 1, d.gain[:, 1] != 1), "brightness and contrast change together"


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [("auto", "digits", "digits"), ("auto", "mnist", "handwriting"), ("auto", "fashion_mnist", "clothes"),
     ("auto", "emoji", "photographs"), ("auto", "/some/folder", "photographs"), ("none", "mnist", "none")],
)  # fmt: skip
def test_presets_are_found_by_the_name_of_the_data(name, data, wanted):
    assert preset(name, data, 1) is PRESETS[wanted]
    with pytest.raises(UsageError, match="views 'photos' is unknown; allowed: auto, .*Did you mean 'photographs'"):
        preset("photos", data, 1)


class Plain(Encoder):
    name = "plain"

    def __init__(self, shape, **options):
        super().__init__()
        self.set_up(shape, 3, "", "resnet", 4, 1, 4, 1, **options)
        self.start_at(torch.full((shape[0],), 0.3), torch.full((shape[0],), 0.2))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_slices_of_what_one_would(world):
    model, x = Plain((3, 8, 8), views="photographs"), some_bytes(6, 3, 8, 8)
    whole = model.view(x, 5, "first")
    d, rows = drawn(model.views, 6), drawn(model.views, 6).rows(2, 5)
    for name in Drawn.__dataclass_fields__:
        assert torch.equal(getattr(rows, name), getattr(d, name)[2:5])
    model.world, parts, b = world, [], 6 // world
    for model.rank in range(world):
        parts.append(model.view(x[b * model.rank : b * (model.rank + 1)], 5, "first"))
        assert torch.equal(model.mine(torch.arange(6)), torch.arange(b * model.rank, b * (model.rank + 1)))
    torch.testing.assert_close(torch.cat(parts), whole)


def test_views_are_keyed_by_seed_step_and_stream_and_are_normalised():
    before = torch.get_rng_state()
    model, x = Plain((3, 8, 8), views="photographs"), some_bytes(6, 3, 8, 8)
    one = model.view(x, 5, "first")
    assert torch.equal(model.view(x, 5, "first"), one) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(model.view(x, 6, "first"), one) and not torch.equal(model.view(x, 5, "second"), one)
    model.seed = 4
    assert not torch.equal(model.view(x, 5, "first"), one)
    still = model.view(x, 5, "first", views=PRESETS["none"])
    torch.testing.assert_close(still, (x / 255 - 0.3) / 0.2, rtol=0, atol=1e-4)
    assert model.view(x, 5, "first", size=4).shape == (6, 3, 4, 4)
