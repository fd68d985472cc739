"""Colourising: the classes of colours, their soft targets and weights, the loss, and grey pictures that get colour."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.colour import luminance
from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.colourise import (
    Colouriser,
    Config,
    Method,
    annealed_mean,
    centres,
    join,
    loss_of_colours,
    rebalanced,
    soft,
    split,
)

SHAPE = (3, 9, 12)
ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none"}
CPU = Hardware(torch.device("cpu"), "fp32")
TENTHS = centres(0.1).double()


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, 0, "colourise"), dtype=torch.float64)


def pictures(b: int, seed: int = 0) -> torch.Tensor:
    return (some(b, *SHAPE, seed=seed) * 255).to(torch.uint8)


def build(**changes) -> Colouriser:
    """A model in eval mode with weights that are not small."""
    model = Colouriser(SHAPE, 0, "", **{**ENCODER, **changes}).double()
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * torch.randn(p.shape, generator=generator(1, i, "more"), dtype=torch.float64)
    model.start_at(torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.25, 0.3, 0.35]))
    return model.eval()


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("square", [0.05, 0.1, 0.2])
def test_a_class_is_the_colour_of_some_pixel_and_no_colour_lacks_a_class(square):
    c = centres(square).double()
    assert (c == 0).all(1).any() and len(c.unique(dim=0)) == len(c), "grey is one of them"
    torch.testing.assert_close(c, (c / square).round() * square, rtol=0, atol=1e-7)
    every = torch.cartesian_prod(*[torch.linspace(0, 1, 65, dtype=torch.float64)] * 3)  # all of the cube, not its faces
    y = split(every.t().view(1, 3, -1, 1))[1][0, :, :, 0].t()
    distance = torch.cat([(rows[:, None] - c).abs().amax(2).amin(1) for rows in y.split(20_000)])
    assert distance.max() <= square / 2 + 0.002  # the classes come from colours 0.003 apart
    near = torch.stack([(y - k).abs().amax(1).amin() for k in c])
    assert near.max() <= square / 2 + 0.006


def test_there_are_as_many_classes_as_is_said():
    assert len(centres(0.1)) == 101 and len(centres(0.05)) == 349


def test_luminance_and_colour_together_are_the_picture():
    x = some(2, *SHAPE)
    y, colour = split(x)
    assert torch.equal(y, luminance(x)) and colour.shape == (2, 2, 9, 12)
    torch.testing.assert_close(join(y, colour), x, rtol=1e-9, atol=1e-9)
    grey = x[:, :1].expand(-1, 3, -1, -1)
    assert split(grey)[1].abs().max() < 1e-12
    assert torch.equal(join(y, colour * 9), join(y, colour * 9).clamp(0, 1))


# ---------------------------------------------------------------- eq. (1)


def test_a_colour_is_spread_over_its_five_nearest_classes():
    c, y = centres(0.1).double(), split(some(1, 3, 4, 5))[1]
    Z = soft(y, c, 0.1)
    for i, j in np.ndindex(4, 5):
        d = ((y[0, :, i, j] - c) ** 2).sum(1)
        near = sorted(range(len(c)), key=lambda k: d[k].item())[:5]
        weight = {k: np.exp(-d[k].item() / (2 * 0.05**2)) for k in near}
        for k in range(len(c)):
            assert Z[0, k, i, j].item() == pytest.approx(weight.get(k, 0.0) / sum(weight.values()), abs=1e-12)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_soft_targets_are_a_distribution_about_the_colour(r, g, b):
    c, y = TENTHS, split(torch.tensor([r, g, b], dtype=torch.float64).view(1, 3, 1, 1))[1]
    Z = soft(y, c, 0.1)
    assert Z.min() >= 0 and Z.sum().item() == pytest.approx(1) and (Z > 0).sum() <= 5
    assert Z.argmax() == ((y.flatten() - c) ** 2).sum(1).argmin() or Z.flatten().topk(2).values.diff().abs() < 1e-9
    assert (torch.einsum("bkhw,ka->a", Z, c) - y.flatten()).norm() < 0.08


def test_colours_far_from_every_class_have_finite_targets():
    Z = soft(torch.full((1, 2, 1, 1), 50.0), centres(0.02), 0.02)
    assert torch.isfinite(Z).all() and Z.sum().item() == pytest.approx(1)


# ---------------------------------------------------------------- eqs. (2) to (4)


def test_weights_have_mean_one_and_lift_what_is_rare():
    p = some(9) ** 3
    p[4] = 0
    p /= p.sum()
    for uniform in (0.1, 0.5, 1.0):
        w = rebalanced(p, uniform)
        assert (p * w).sum().item() == pytest.approx(1)
        raw = [(1 - uniform) * q + uniform / 9 for q in p.tolist()]
        for k in range(9):
            assert (w[k] / w[4]).item() == pytest.approx(raw[4] / raw[k])
    torch.testing.assert_close(rebalanced(p, 1.0), torch.ones(9, dtype=torch.float64))


def test_the_loss_is_a_weighted_cross_entropy_in_loops():
    c = centres(0.2).double()
    K = len(c)
    logits, Z, w = 4 * some(2, K, 3, 4), soft(split(some(2, 3, 3, 4))[1], c, 0.2), some(K, seed=5)
    want = torch.zeros(2, dtype=torch.float64)
    for n, i, j in np.ndindex(2, 3, 4):
        p = logits[n, :, i, j].exp() / logits[n, :, i, j].exp().sum()
        entropy = -sum(Z[n, k, i, j] * p[k].log() for k in range(K))
        want[n] += w[int(Z[n, :, i, j].argmax())] * entropy / 12
    torch.testing.assert_close(loss_of_colours(logits, Z, w), want)


def test_the_annealed_mean_lies_between_the_mean_and_the_mode():
    c, logits = centres(0.2).double(), 3 * some(2, len(centres(0.2)), 3, 4)
    p = logits.softmax(1)
    torch.testing.assert_close(annealed_mean(logits, c, 1.0), torch.einsum("bkhw,ka->bahw", p, c))
    torch.testing.assert_close(annealed_mean(logits, c, 1e-7), c[logits.argmax(1)].permute(0, 3, 1, 2))
    powers = p ** (1 / 0.38)
    want = torch.einsum("bkhw,ka->bahw", powers / powers.sum(1, keepdim=True), c)
    torch.testing.assert_close(annealed_mean(logits, c, 0.38), want)


# ---------------------------------------------------------------- the model


def test_the_network_sees_luminance_alone():
    """Pictures of other colours and the same luminance: same guess, same features; another luminance: others."""
    model, y = build(), 0.3 + 0.4 * some(3, 1, 9, 12)
    one, other = (join(y, 0.05 * (some(3, 2, 9, 12, seed=s) - 0.5)) for s in (1, 2))
    torch.testing.assert_close(luminance(one), luminance(other), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(one, other, atol=1e-3)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(model.logits(model.normalised(one)), model.logits(model.normalised(other)), **close)
    torch.testing.assert_close(model.embed(one), model.embed(other), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.colourise(one), model.colourise(other), **close)
    grey = luminance(one).expand(-1, 3, -1, -1)
    torch.testing.assert_close(model.embed(one), model.encoder(model.normalised(grey)).float(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.embed(one), model.embed(one.flip(3)), atol=1e-3)


def test_the_loss_of_a_model_is_that_of_the_equations():
    model, x = build(), pictures(3)
    model.weights.copy_(some(101, seed=8))
    pixels = (x.float() / 255).double()
    colour = split(pixels)[1]
    small = torch.zeros(3, 2, 5, 6, dtype=torch.float64)
    for i, j in np.ndindex(5, 6):  # rows of nine are shared by five: adaptive cells overlap
        top, bottom = i * 9 // 5, -(-(i + 1) * 9 // 5)
        small[:, :, i, j] = colour[:, :, top:bottom, 2 * j : 2 * j + 2].mean((2, 3))
    with torch.no_grad():
        grey = model.normalised(luminance(pixels).expand(-1, 3, -1, -1))
        logits = model.decoder(model.encoder.map(grey))
        want = loss_of_colours(logits, soft(small, model.centres, 0.1), model.weights)
        found, _ = model.loss(x, 0)
    assert logits.shape == (3, 101, 5, 6)
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)
    loss = model(x, 0)[0]
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.world, parts = 3, []
    for model.rank in range(3):
        parts.append(model.loss(x[model.rank : model.rank + 1], 0)[0])
    torch.testing.assert_close(torch.cat(parts), found)


def test_half_precision_touches_neither_targets_nor_luminance():
    model, x = build().float(), pictures(2)
    pixels = model.values(x)
    with torch.autocast("cpu", torch.bfloat16):
        Z, grey, logits = model.targets(pixels), model.grey(model.normalised(x)), model.logits(model.normalised(x))
    assert torch.equal(Z, model.targets(pixels)) and torch.equal(grey, model.grey(model.normalised(x)))
    assert logits.dtype == torch.float32 and not torch.equal(logits, model.logits(model.normalised(x)))


def test_pictures_get_colours_and_keep_their_luminance():
    model, x = build(), pictures(3)
    model.decoder.W.data *= 0
    k = int(((model.centres - torch.tensor([0.1, 0.0])) ** 2).sum(1).argmin())
    model.decoder.b.data[k] = 50.0
    pixels = 0.3 + 0.4 * some(3, *SHAPE)
    done = model.colourise(pixels)
    y, colour = split(done)
    torch.testing.assert_close(y, luminance(pixels), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(colour, model.centres[k].view(1, 2, 1, 1).expand_as(colour), rtol=1e-5, atol=1e-6)
    grey = luminance(pixels)
    torch.testing.assert_close(model.colourise(grey), done, rtol=1e-6, atol=1e-6)
    assert model.colourise(x).shape == x.shape
    with pytest.raises(InputError, match="x has shape"):
        model.colourise(x[:, :2])


# ---------------------------------------------------------------- the method


def test_grey_pictures_are_refused_because_they_have_no_colours():
    grey = (some(30, 8, 8).numpy() * 255).astype(np.uint8)
    for data in (load("digits"), load(grey), load(np.repeat(grey[..., None], 3, 3))):
        with pytest.raises(UsageError, match="grey pictures, which have no colours to tell; allowed: ") as said:
            Method(Config(), data, 0, CPU, 1)
        assert "\n" not in str(said.value) and data.name in str(said.value)
    with pytest.raises(UsageError, match="no colours"):
        Colouriser((1, 8, 8), **ENCODER)


def striped(n: int) -> np.ndarray:
    """Pictures that are bright above and red, or bright below and blue: luminance tells the colour."""
    ramp = torch.linspace(0.35, 0.65, 8, dtype=torch.float64).view(8, 1).expand(8, 8)
    up = some(n, 1, 1) < 0.5
    y = torch.where(up, ramp, ramp.flip(0))[:, None] + 0.1 * (some(n, 1, 1, 1, seed=1) - 0.5)
    colour = torch.where(up[:, None], 1.0, -1.0) * torch.tensor([0.2, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    x = join(y, colour.expand(n, 2, 8, 8))
    return (x.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def test_weights_are_of_the_training_pictures_and_are_kept_with_the_model():
    data = load(striped(80))
    method = Method(Config(width=4, batch_size=16), data, 0, CPU, 1)
    x = data.split("train").double() / 255
    small = split(x)[1].unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    Z = soft(small, centres(0.1).double(), 0.1)
    share = Z.sum((0, 2, 3)) / Z.sum()
    w = 1 / (0.5 * share + 0.5 / 101)
    torch.testing.assert_close(method.model.weights.double(), w / (share * w).sum(), rtol=1e-4, atol=1e-4)
    assert torch.equal(method.state_dict()["model"]["weights"], method.model.weights)


def test_colours_that_luminance_tells_are_recovered():
    data = load(striped(400))
    config = Config(width=8, batch_size=64, learning_rate=0.01, warmup=5)
    method = Method(config, data, 0, CPU, 60)
    before = method.evaluate(data, "valid")["recovered"].mean
    for _, batch in zip(range(60), method.batches(0, 0, 1)):
        method.update(batch)
    after = method.evaluate(data, "valid")["recovered"]
    assert before < 0.2 and after.mean > 0.8 and after.n == len(data.split("valid"))
    assert {"reconstructions", "neighbours", "map"} == set(method.pictures())
