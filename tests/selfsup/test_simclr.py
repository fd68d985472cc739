"""SimCLR: NT-Xent by a double loop, its value at collapse, two processes, the head and the views it reads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from ptheta.data.order import generator
from ptheta.data.pictures import load, of_arrays
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup import simclr
from ptheta.selfsup.pretraining import HELD_OUT
from ptheta.selfsup.simclr import Config, Method, SimCLR, nt_xent

ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "photographs"}


def some(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=dtype)


def some_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(0, 0, "pictures"), dtype=torch.uint8)


def units(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return normalize(some(n, d, seed=seed)), normalize(some(n, d, seed=seed + 1))


def small(shape=(3, 8, 8), **more) -> SimCLR:
    return SimCLR(list(shape), **{**ENCODER, "hidden": 6, "project": 5, "seed": 2, **more})


# ---------------------------------------------------------------- eq. (1)


@settings(deadline=None, max_examples=30)
@given(N=st.integers(2, 6), d=st.integers(1, 5), temperature=st.sampled_from([0.05, 0.2, 1.0]), seed=st.integers(0, 99))
def test_the_loss_is_a_double_loop_that_leaves_out_self_alone(N, d, temperature, seed):
    u, v = units(N, d, seed)
    every = [*u, *v]
    got = nt_xent(u, v, temperature)
    assert got.shape == (2 * N,)
    for i in range(2 * N):
        j = (i + N) % (2 * N)
        below = sum(math.exp(every[i] @ every[k] / temperature) for k in range(2 * N) if k != i)
        want = -math.log(math.exp(every[i] @ every[j] / temperature) / below)
        assert got[i].item() == pytest.approx(want, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("N", [2, 5, 64])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_a_collapsed_encoder_loses_ln_of_2n_minus_1(N, temperature):
    u = normalize(some(1, 8)).expand(N, -1)
    torch.testing.assert_close(nt_xent(u, u, temperature), torch.full((2 * N,), math.log(2 * N - 1)).double())


def test_the_loss_of_views_that_are_right_and_apart_is_nearly_none():
    u = torch.eye(6).double()
    assert (nt_xent(u, u, 0.05) < 1e-6).all() and (nt_xent(u, u.roll(1, 0), 0.05) > 10).all()


def test_half_precision_does_not_reach_the_cosines():
    u, v = (x.float() for x in units(50, 16))
    want = nt_xent(u, v, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nt_xent(u, v, 0.1), want)


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("world", [2, 3])
def test_processes_average_to_one_in_loss_and_gradient(world, monkeypatch):
    """Vectors of all processes stand in one graph, as all_gather with gradient puts them."""
    u, v = (x.requires_grad_() for x in units(6, 4))
    want = nt_xent(u, v, 0.3).mean()
    gradients = torch.autograd.grad(want, (u, v))
    b, losses = 6 // world, []
    for rank in range(world):
        mine = slice(b * rank, b * (rank + 1))
        everybody = iter((u, v))
        asked = iter((u[mine], v[mine]))

        def gathered(x, processes, everybody=everybody, asked=asked):
            assert processes == world and torch.equal(x, next(asked))
            return next(everybody)

        monkeypatch.setattr(simclr, "gathered", gathered)
        losses.append(nt_xent(u[mine], v[mine], 0.3, rank, world))
    parts = torch.cat([loss.chunk(2)[0] for loss in losses] + [loss.chunk(2)[1] for loss in losses])
    got = sum(loss.mean() for loss in losses) / world
    monkeypatch.undo()
    torch.testing.assert_close(parts, nt_xent(u, v, 0.3))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, (u, v)), gradients)


def test_a_batch_of_one_is_refused():
    with pytest.raises(UsageError, match="simclr compares pictures of a batch and got 1; raise --batch-size"):
        small()(some_bytes(1, 3, 8, 8))
    data, hardware = load(some_bytes(40, 1, 8, 8).numpy()), Hardware(torch.device("cpu"), "fp32")
    with pytest.raises(UsageError, match="batch_size = 1 is impossible for simclr.*at least 2") as error:
        Method(Config(batch_size=1), data, 0, hardware, 1)
    assert "\n" not in str(error.value)
    with pytest.raises(
        InputError, match="array has 1 picture for validation and simclr compares pictures; .*20 or more"
    ):
        Method(Config(width=4), load(some_bytes(15, 1, 8, 8).numpy()), 0, hardware, 1)
    with pytest.raises(InputError, match="array has 1 picture in test and simclr compares pictures; give at least 2"):
        Method(Config(width=4), data, 0, hardware, 1).evaluate(data, "test", limit=1)


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("more", [{}, {"cells": 2}, {"encoder": "vit", "width": 32}])
def test_the_loss_is_that_of_two_views_through_encoder_and_head(training, more):
    model, x = small(**more).train(training), some_bytes(5, 3, 8, 8)
    loss, figures = model(x, 7)
    both = torch.cat([model.view(x, 7, "first view"), model.view(x, 7, "second view")])
    h = model.head(model.features(both))
    u, v = h[:5] / h[:5].norm(dim=1, keepdim=True), h[5:] / h[5:].norm(dim=1, keepdim=True)
    torch.testing.assert_close(loss, nt_xent(u, v, 0.2).mean())
    torch.testing.assert_close(figures["alike"], (u * v).sum(1).mean().detach())
    assert not torch.equal(model.view(x, 7, "first view"), model.view(x, 7, "second view"))
    assert not torch.equal(model(x, 8)[0], loss) and not figures["alike"].requires_grad


def test_every_weight_is_trained():
    model = small()
    model(some_bytes(6, 3, 8, 8), 0)[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and (p.grad != 0).any(), name


def test_in_eval_mode_nothing_changes_and_the_global_generator_is_left_alone():
    model, x = small().eval(), some_bytes(5, 3, 8, 8)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(x, HELD_OUT)[0], model(x, HELD_OUT)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    same, other = small(), small(seed=3)
    assert all(torch.equal(v, state[k]) for k, v in same.state_dict().items())
    assert not torch.equal(other.head.W[0], model.head.W[0])


def test_a_saved_model_comes_back_as_it_was(tmp_path):
    model, x = small(cells=2, temperature=0.3), some_bytes(5, 3, 8, 8)
    model(x, 0)  # running statistics move
    model.start_at(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6]))
    again = SimCLR.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert again.arguments == model.arguments and not again.training and again.temperature == 0.3
    assert torch.equal(again.embed(x), model.embed(x)) and torch.equal(again(x, 3)[0], model.eval()(x, 3)[0])


def test_training_tells_pictures_apart():
    """Four kinds of stripes under noise: afterwards neighbours are of one kind, and the loss is far from collapse."""
    g = generator(0, 0, "stripes")
    y = torch.randint(4, (240,), generator=g)
    i, j = torch.arange(8)[:, None], torch.arange(8)
    kinds = torch.stack([(i % 4 < 2).expand(8, 8), (j % 4 < 2).expand(8, 8), (i + j) % 4 < 2, (i - j) % 4 < 2])
    x = (0.25 + 0.5 * kinds[y].float() + 0.2 * torch.randn(240, 8, 8, generator=g)).clamp(0, 1)
    data = of_arrays("stripes", {"x": x.numpy(), "y": y.numpy()}, "made here")
    config = Config(batch_size=48, width=8, hidden=32, project=16, warmup=5, learning_rate=5e-3, views="digits")
    method = Method(config, data, 0, Hardware(torch.device("cpu"), "fp32"), 60)
    before = method.evaluate(data, "valid")
    for _, batch in zip(range(60), method.batches(0, 0, 1)):
        method.update(batch)
    after = method.evaluate(data, "valid")
    collapsed = math.log(2 * 24 - 1)
    assert after["loss"].mean < 0.85 * before["loss"].mean and after["loss"].mean < 0.75 * collapsed
    assert after["rank_me"].mean > 3 and after["spread"].mean > 0.2 and after["knn"].mean > 0.9


@pytest.mark.parametrize("field", [{"temperature": 0.0}, {"hidden": 0}, {"project": 0}, {"batch_size": 0}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field)).replace("_", "-")
    with pytest.raises(UsageError, match=rf"allowed: .*option --{name}"):
        Config(**field)
