"""Masks: their shapes and shares, the error of what is hidden, and the share that is recovered."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import r2_score

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.masks import (
    Reconstruction,
    Restorer,
    Restoring,
    drawn,
    geometry,
    hidden_error,
    observed_pixels,
    recovered,
    rectangles,
)
from ptheta.selfsup.pretraining import PretrainingConfig
from ptheta.selfsup.views import PRESETS, draw, view

sides = st.integers(1, 20)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "masks"), dtype=torch.float64)


# ---------------------------------------------------------------- which part


@settings(deadline=None)
@given(h=sides, w=sides, low=st.floats(0.01, 0.9), more=st.floats(0, 0.5), seed=st.integers(0, 2**30))
def test_a_rectangle_is_one_and_of_the_share_that_was_asked_for(h, w, low, more, seed):
    high = min(0.9, low + more)
    m = rectangles(16, h, w, low, high, generator(seed, 0, "m"))
    assert m.shape == (16, 1, h, w) and m.dtype == torch.bool
    if h * w == 1:
        return
    for one in m[:, 0]:
        rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
        assert len(rows) and not one.all()
        full = torch.zeros_like(one)
        full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert torch.equal(one, full)
        # rounded to whole rows, and to whole columns, of which one is left
        assert one.sum() <= max(1.0, high * h * w + len(rows) / 2, len(rows)) + 1e-6
        assert (
            one.sum() >= min(low * h * w - len(rows) / 2, len(rows) * max(1, w - 1), h - 1 if w == 1 else h * w) - 1e-6
        )


def test_rectangles_lie_anywhere():
    m = rectangles(3000, 6, 7, 0.1, 0.3, generator(0, 0, "m"))[:, 0].double()
    assert (m.mean(0) > 0.04).all()
    torch.testing.assert_close(m.mean(0), m.mean(0).flip(0, 1), rtol=0, atol=0.04)


@settings(deadline=None)
@given(h=sides, w=sides, hide=st.floats(0.01, 0.9), seed=st.integers(0, 2**30))
def test_something_is_hidden_and_something_seen_in_pictures_of_any_size(h, w, hide, seed):
    if h * w == 1:
        with pytest.raises(UsageError, match="one pixel"):
            drawn(4, h, w, hide, generator(seed, 0, "m"))
        return
    m = drawn(64, h, w, hide, generator(seed, 0, "m"))
    assert m.shape == (64, 1, h, w) and m.any((1, 2, 3)).all() and not m.all(3).all(2).any()
    assert torch.equal(m, drawn(64, h, w, hide, generator(seed, 0, "m")))


def test_half_of_the_masks_are_one_rectangle_and_no_mask_hides_more_than_its_share():
    m = drawn(2000, 28, 28, 0.4, generator(0, 0, "m"))[:, 0]
    box = m.any(2).sum(1) * m.any(1).sum(1)
    single = (box == m.sum((1, 2))).sum().item()
    assert binomtest(single, 2000, 0.5).pvalue > 1e-3
    share = m.double().mean((1, 2))
    assert share.min() > 0.02 and share.max() < 0.4 * 1.1
    assert share[box == m.sum((1, 2))].mean() == pytest.approx(0.25, abs=0.02)


def test_blocks_cannot_cover_the_smallest_pictures():
    """With eight blocks of one pixel in pictures of four, most pictures were covered."""
    m = drawn(500, 2, 2, 0.9, generator(3, 0, "m"))
    assert not m.flatten(1).all(1).any() and (m.flatten(1).sum(1) == 3).any()


def test_what_is_observed_is_checked():
    x = torch.zeros(3, 1, 4, 5)
    one = torch.ones(4, 5, dtype=torch.bool)
    one[0] = False
    assert torch.equal(observed_pixels(one, x), one.expand(3, 1, 4, 5))
    each = torch.stack([one, one.flip(0), one | True])
    assert torch.equal(observed_pixels(each.numpy(), x)[:, 0], each)
    wanted = r"allowed: bool \(4, 5\) or \(3, 4, 5\)"
    for bad in (one.float(), one.t(), each[:2], one[None, None], "none", object()):
        with pytest.raises(InputError, match=wanted):
            observed_pixels(bad, x)
    each[1] = False
    with pytest.raises(UsageError, match="nothing is observed of picture 1; allowed: at least one pixel"):
        observed_pixels(each, x)


# ---------------------------------------------------------------- how well


def test_the_error_is_of_the_hidden_part_picture_by_picture():
    guess, x = some(4, 3, 5, 6), some(4, 3, 5, 6, seed=1)
    m = drawn(4, 5, 6, 0.5, generator(0, 0, "m"))
    want = []
    for n in range(4):
        errors = [
            (guess[n, c, i, j] - x[n, c, i, j]) ** 2
            for c in range(3) for i in range(5) for j in range(6) if m[n, 0, i, j]
        ]  # fmt: skip
        want.append(sum(errors) / len(errors))
    torch.testing.assert_close(hidden_error(guess, x, m), torch.stack(want), rtol=1e-12, atol=0)
    spoilt = torch.where(m, guess, 1e6)
    assert torch.equal(hidden_error(spoilt, x, m), hidden_error(guess, x, m))
    guess.requires_grad_()
    hidden_error(guess, x, m).sum().backward()
    assert guess.grad is not None and torch.equal(guess.grad != 0, m.expand_as(guess))


def test_recovered_is_r_squared_where_the_baseline_is_the_mean():
    x, guess = some(200, 4), some(200, 4, seed=1) * 0.3 + some(200, 4) * 0.7
    found = recovered((guess - x).square().sum(1), (x.mean(0) - x).square().sum(1))
    assert found.mean == pytest.approx(r2_score(x, guess, multioutput="variance_weighted"), abs=1e-12)
    assert found.n == 200


def test_recovered_at_its_ends():
    b = some(9)
    assert recovered(torch.zeros(9), b).mean == 1.0 and recovered(b, b).mean == 0.0 and recovered(2 * b, b).mean == -1.0
    assert recovered(b, b).standard_error == 0.0  # R is 1 in every picture
    assert recovered(torch.zeros(3), torch.zeros(3)).mean == 1.0
    assert np.isnan(recovered(b[:1], b[:1]).standard_error)


def test_the_standard_error_of_recovered_is_that_of_many_samples():
    g = np.random.default_rng(0)

    def one(n: int) -> tuple[float, float]:
        b = g.gamma(2.0, size=n)
        found = recovered(torch.from_numpy(0.3 * b + 0.2 * g.gamma(1.0, size=n)), torch.from_numpy(b))
        return found.mean, found.standard_error

    means, errors = np.array([one(300) for _ in range(1500)]).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.08)


# ---------------------------------------------------------------- models and methods


def test_the_geometry_of_a_preset_keeps_colours():
    x = torch.tensor([0.2, 0.7, 0.4]).view(1, 3, 1, 1).expand(20, 3, 8, 8).contiguous()
    for name in ("photographs", "clothes", "digits"):
        seen = view(x, draw(geometry(PRESETS[name]), 20, generator(0, 0, "v")))
        torch.testing.assert_close(seen, x, rtol=0, atol=1e-5)
        assert not torch.allclose(view(x, draw(PRESETS[name], 20, generator(0, 0, "v"))), x, atol=0.05)
    kept = geometry(PRESETS["clothes"])
    assert (kept.crop, kept.flip, kept.aspect) == tuple(
        getattr(PRESETS["clothes"], k) for k in ("crop", "flip", "aspect")
    )


class Known(Restorer):
    """Knows a share of each picture, and says the rest is the mean picture `of`."""

    name = "known"
    share, of = 0.0, torch.zeros(())

    def __init__(self, shape, seed, data, **encoder):
        super().__init__()
        self.set_up(shape, seed, data, **encoder)

    def loss(self, x, step):
        return self.look(x, step).mean((1, 2, 3)), {}

    def reconstruct(self, x, step):
        pixels = self.values(x)
        m = self.mine(drawn(len(x) * self.world, *x.shape[2:], 0.5, generator(0, step, "m")))
        guess = self.share * pixels + (1 - self.share) * self.of
        return Reconstruction(pixels, pixels.where(~m, 0.5), guess.where(m, pixels), m)


class Knowing(Restoring):
    Config, Model = PretrainingConfig, Known
    steps = 1


@pytest.fixture(scope="module")
def knowing():
    data = load((some(40, 8, 9).numpy() * 255).astype(np.uint8))
    return Knowing(
        PretrainingConfig(width=4, batch_size=8, views="none"), data, 0, Hardware(torch.device("cpu"), "fp32"), 1
    )


def test_a_method_measures_against_the_training_sets_mean_picture(knowing):
    x = knowing.data.split("train").double() / 255
    torch.testing.assert_close(knowing.average.double(), x.mean(0), rtol=0, atol=1e-6)
    knowing.model.of = knowing.average
    for share in (0.0, 0.5, 1.0):
        knowing.model.share = share
        for split in knowing.data.splits:
            found = knowing.evaluate(knowing.data, split)
            assert found["recovered"].mean == pytest.approx(1 - (1 - share) ** 2, abs=1e-5)
            assert found["recovered"].n == len(knowing.data.split(split)) and {"loss", "rank_me"} <= found.keys()
    assert knowing.evaluate(knowing.data, "train", 5)["recovered"].n == 5


def test_reconstructions_are_drawn_and_views_are_not_where_there_are_none(knowing):
    assert set(knowing.pictures()) == {"neighbours", "map", "reconstructions"}
    config = dataclasses.replace(knowing.config, views="photographs")
    other = Knowing(config, knowing.data, 0, knowing.hardware, 1)
    assert other.model.uses_views and not knowing.model.uses_views


def test_pictures_are_seen_as_they_are_or_in_a_view(knowing):
    x = knowing.data.split("train")[:4]
    assert torch.equal(knowing.model.look(x, 3), knowing.model.normalised(x))
    torch.testing.assert_close(knowing.model.unit(knowing.model.normalised(x)), x.float() / 255, rtol=0, atol=1e-6)
    assert torch.equal(knowing.model.values(x), x.float() / 255)
