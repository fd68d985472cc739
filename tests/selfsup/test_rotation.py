"""Rotation: which way the turns go, the loss by hand, chance, what is kept from giving the turn away, and learning."""

import copy
import math

import numpy as np
import pytest
import torch

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup.pretraining import HELD_OUT
from ptheta.selfsup.rotation import Config, Method, Rotation, light, rotated, turn_loss
from ptheta.selfsup.views import PRESETS, draw, view

TINY = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "photographs"}


def build(shape=(3, 8, 8), seed: int = 0, **more) -> Rotation:
    return Rotation(list(shape), seed, "", **{"hidden": 8, **TINY, **more})


def some(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, *shape), generator=generator(seed, 0, "x"), dtype=torch.uint8)


# ---------------------------------------------------------------- equations


def test_turns_go_against_the_clock():
    x = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    want = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert rotated(x)[:, 0].tolist() == want


def test_a_turn_moves_each_pixel_and_four_give_the_picture_back():
    x = torch.rand(3, 2, 5, 5, generator=generator(0, 0, "x"))
    g = rotated(x).unflatten(0, (4, 3))
    assert torch.equal(g[0], x)
    for k in range(1, 4):
        assert torch.equal(rotated(g[k - 1])[3:6], g[k]), "k turns are k times one"
    assert torch.equal(rotated(g[3])[3:6], x)
    for i in range(5):  # (row, column) → (4 − column, row)
        for j in range(5):
            assert torch.equal(g[1][:, :, 4 - j, i], x[:, :, i, j])


def test_the_loss_is_that_of_a_loop_over_pictures_and_turns():
    logits = torch.randn(12, 4, generator=generator(0, 0, "logits"), dtype=torch.float64)
    nats, right = turn_loss(logits)
    for i in range(3):
        p = [logits[3 * k + i].exp() / logits[3 * k + i].exp().sum() for k in range(4)]
        assert nats[i].item() == pytest.approx(-sum(math.log(p[k][k]) for k in range(4)) / 4, rel=1e-12)
        assert [right[3 * k + i].item() for k in range(4)] == [float(p[k].argmax() == k) for k in range(4)]


def test_the_loss_where_nothing_can_be_told_is_ln_4():
    nats, _ = turn_loss(torch.full((20, 4), 0.3))
    torch.testing.assert_close(nats, torch.full((5,), math.log(4)))
    model, grey = build().eval(), torch.full((6, 3, 8, 8), 90, dtype=torch.uint8)
    loss, figures = model(grey, 0)  # turned, one colour is what it was: no better than chance, whatever the weights
    assert loss.item() >= math.log(4) - 1e-6 and figures["accuracy"] == 0.25
    with torch.no_grad():
        model.head.W[-1].zero_()
    assert model(grey, 0)[0].item() == pytest.approx(math.log(4), rel=1e-6)


def test_all_four_forms_go_through_one_pass():
    """In training, batch statistics are those of all forms together; in eval, each form is judged by itself."""
    model, x = build().double(), torch.rand(5, 3, 8, 8, generator=generator(0, 0, "x"), dtype=torch.float64)
    model.eval()
    whole = model.logits(x).unflatten(0, (4, 5))
    for k in range(4):
        alone = model.head(model.encoder(torch.rot90(x, k, (2, 3)))).float()
        torch.testing.assert_close(alone, whole[k])
    model.train().logits(x)
    first, stem = model.encoder.stem[0], torch.nn.functional.conv2d(rotated(x), model.encoder.stem[0].W, None, 1, 1)
    torch.testing.assert_close(first.norm.running_mean, 0.1 * stem.mean((0, 2, 3)).detach())


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("name", PRESETS)
def test_views_do_not_turn_pictures_and_keep_most_of_them(name):
    p = light(PRESETS[name])
    d = draw(p, 400, generator(0, 0, "views"))
    assert (d.theta[:, 0, 1] == 0).all() and (d.theta[:, 1, 0] == 0).all() and (d.theta[:, 1, 1] > 0).all()
    area = d.theta[:, 0, 0].abs() * d.theta[:, 1, 1]
    assert area.min() > 0.55 and (d.deviation == 0).all() and (d.solarise == 0).all()
    assert (d.box[:, 0] >= d.box[:, 1]).all()
    if name == "none":
        x = some(400, 3, 6, 6)
        torch.testing.assert_close(view(x, d), x.float() / 255, rtol=0, atol=1e-5)


def test_the_loss_is_of_views_that_are_keyed_and_those_of_processes_are_slices():
    model, x = build().eval(), some(6, 3, 8, 8)
    whole, _ = model.loss(x, 3)
    assert torch.equal(model.loss(x, 3)[0], whole) and not torch.allclose(model.loss(x, 4)[0], whole)
    model.world, parts = 2, []
    for model.rank in (0, 1):
        parts.append(model.loss(x[3 * model.rank : 3 * model.rank + 3], 3)[0])
    torch.testing.assert_close(torch.cat(parts), whole)


# ---------------------------------------------------------------- training and use


def arrows(n: int, seed: int) -> np.ndarray:
    """A bright bar in the upper half of a dark picture, anywhere from side to side."""
    r = np.random.RandomState(seed)
    x = r.randint(0, 60, (n, 8, 8)).astype(np.uint8)
    for picture, row, column in zip(x, r.randint(0, 3, n), r.randint(0, 3, n)):
        picture[row, column : column + 5] = 255
    return x


def test_training_learns_which_way_up_bars_stand():
    data = load(arrows(400, 0))
    config = Config(width=8, batch_size=64, learning_rate=0.01, warmup=0, hidden=16, views="none")
    method = Method(config, data, 0, Hardware(torch.device("cpu"), "fp32"), 40)
    before = method.evaluate(data, "valid")["loss"].mean
    for _, batch in zip(range(40), method.batches(0, 0, 1)):
        logs = method.update(batch)
    after = method.evaluate(data, "valid")["loss"].mean
    assert before > 0.9 * math.log(4) and after < 0.25 * math.log(4) and logs["accuracy"] > 0.9
    assert method.model.embed(data.split("test")).shape == (40, 32)


@pytest.mark.parametrize("encoder", [{}, {"encoder": "vit", "width": 8}, {"cells": 2}])
def test_everything_is_reached_by_the_gradient_and_measuring_changes_nothing(encoder):
    model, x = build(**encoder), some(8, 3, 8, 8)
    model.train()(x, 0)[0].backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.eval()(x, HELD_OUT)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_saved_model_comes_back_and_a_seed_gives_the_same_weights(tmp_path):
    model, x = build(seed=3), some(4, 3, 8, 8)
    model.start_at(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7]))
    again = Rotation.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert again.arguments == model.arguments and torch.equal(again.embed(x), model.eval().embed(x))
    assert torch.equal(again.loss(x, 1)[0], model.loss(x, 1)[0])
    assert torch.equal(build(seed=3).head.W[0], model.head.W[0])
    assert not torch.equal(build(seed=4).head.W[0], model.head.W[0])


def test_bf16_gives_a_finite_loss_in_float32():
    model, x = build().train(), some(8, 3, 8, 8)
    exact = copy.deepcopy(model)(x, 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, 0)[0]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(UsageError, match="rotation wants square pictures, got 8x12, .*; cut them to squares") as error:
        build((3, 8, 12))
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="hidden = 0 is impossible; allowed: at least 1"):
        Config(hidden=0)
    with pytest.raises(InputError, match=r"allowed: \(b, 3, 8, 8\)"):
        build().embed(some(2, 3, 8, 9))
