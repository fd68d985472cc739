"""What all methods of the room share: normalisation, features, steps, figures, the alarm, --init, teachers."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from ptheta.data.order import generator
from ptheta.data.pictures import load, moments, of_arrays
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup import pictures, pretraining
from ptheta.selfsup.pretraining import HELD_OUT, Encoder, Pretraining, PretrainingConfig

CPU = Hardware(torch.device("cpu"), "fp32")
ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none"}


def some_bytes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


class Model(Encoder):
    """The features of a view, read by one linear layer, are to be all of length 1."""

    name = "plain"

    def __init__(self, shape, seed: int = 0, data: str = "", **encoder):
        super().__init__()
        self.arguments = {"shape": list(shape), "seed": seed, "data": data, **encoder}
        g = self.set_up(shape, seed, data, **encoder)
        self.head = nn.Parameter(torch.randn(3, self.feature_count, generator=g))
        self.frozen = nn.Parameter(torch.randn(2, 2, generator=g), requires_grad=False)

    def loss(self, x, step: int):
        z = linear(self.features(self.view(x, step, "view")), self.head)
        return (z.square().mean(1) - 1).square(), {"length": z.square().mean()}


class Other(Model):
    name = "other"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the model above."""


class Method(Pretraining):
    Config, Model = Config, Model
    steps = 100


class OtherMethod(Method):
    Model = Other


def small(shape=(3, 8, 8), kind: type = Model, **more) -> Model:
    return kind(list(shape), **{**ENCODER, **more})


def learner(x: torch.Tensor | None = None, y=None, kind: type = Method, hardware: Hardware = CPU, steps=10, **more):
    x = some_bytes(40, 1, 8, 8) if x is None else x
    parts = {"x": x.numpy()} | ({} if y is None else {"y": y.numpy()})
    config = Config(**{"batch_size": 8, "width": 4, "warmup": 2, "views": "none", **more})
    return kind(config, of_arrays("array", parts, "made here"), 0, hardware, steps)


def trained(method, steps: int = 3):
    for _, batch in zip(range(steps), method.batches(0, 0, 1)):
        method.update(batch)
    return method


# ---------------------------------------------------------------- normalisation


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 30), c=st.sampled_from([1, 3]), side=st.integers(1, 5), low=st.integers(0, 254))
def test_moments_are_numpys(n, c, side, low):
    x = torch.from_numpy(np.random.RandomState(n).randint(low, 256, (n, c, side, side)).astype(np.uint8))
    mean, deviation = moments(x)
    values = x.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation, values.std((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_training_pictures_are_normalised_to_mean_0_and_deviation_1():
    x = some_bytes(40, 3, 8, 8)
    x[:, 1] //= 3
    model = learner(x).model
    z = model.normalised(load(x.numpy()).split("train"))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)
    blank = learner(torch.full((40, 1, 8, 8), 7, dtype=torch.uint8)).model
    assert blank.normalised(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)).abs().max() < 1e-3


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("cells", [1, 2, 5])
@pytest.mark.parametrize("encoder", ["resnet", "vit"])
def test_features_of_bytes_are_those_of_their_values_and_of_flat_rows(encoder, cells):
    model, x = small(encoder=encoder, width=32, cells=cells), some_bytes(5, 3, 8, 8)
    z = model.embed(x)
    assert z.shape == (5, model.feature_count) and z.dtype == torch.float32 and not z.requires_grad
    for same in (x / 255, (x / 255).double(), x.flatten(1), x.numpy(), x.numpy() / 255):
        torch.testing.assert_close(model.embed(same), z)
    assert model.embed(x[:0]).shape == (0, model.feature_count)
    assert model.embed(x > 99).shape == z.shape
    wanted = model.encoder.features * min(cells, model.encoder.grid[0]) ** 2
    assert model.feature_count == wanted


def test_features_do_not_depend_on_neighbours_and_asking_for_them_changes_nothing(monkeypatch):
    """Nor does building a model with a grid of cells, whose count of features was once found by a pass of zeros."""
    model, x = small(cells=2), some_bytes(7, 3, 8, 8)
    assert (model.encoder.stem[0].norm.running_var == 1).all()
    model.train()
    model(x, 0)
    model.encoder.layers[0].eval()  # as a method may keep a part of it
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    z = model.embed(x)
    assert model.feature_count == z.shape[1]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    torch.testing.assert_close(z, torch.cat([model.embed(x[i : i + 1]) for i in range(7)]))
    torch.testing.assert_close(z, model.eval().features(model.normalised(x)).detach())
    monkeypatch.setattr(pretraining, "AT_ONCE", 3)
    torch.testing.assert_close(model.embed(x), z)
    with pytest.raises(InputError):
        model.train().embed(x[:, :1])
    assert model.training and small((1, 4, 4), cells=2).feature_count == 16


@pytest.mark.parametrize(
    ("x", "message"),
    [(some_bytes(2, 1, 8, 8), r"x has shape \(2, 1, 8, 8\); allowed: \(b, 3, 8, 8\)"),
     (some_bytes(3, 8, 8), r"\(3, 8, 8\)"), (some_bytes(2, 64), r"\(2, 64\)"), (3, r"shape \(\)"),
     (some_bytes(2, 3, 8, 8).long(), r"x holds \d+; allowed: bytes \(uint8\), or values from 0"),
     (torch.full((2, 3, 8, 8), -0.5), "x holds -0.5"), (torch.full((2, 3, 8, 8), math.nan), "x holds nan"),
     (np.zeros((2, 3, 8, 8), np.uint16), "holds torch.uint16"), (np.zeros((2, 3, 8, 8), complex), "torch.complex128"),
     ("picture.png", "x is no array of numbers"), (None, "x is no array of numbers"), ([["a"]], "x is no array")],
)  # fmt: skip
def test_what_is_no_picture_of_the_model_is_refused(x, message):
    with pytest.raises(InputError, match=message) as error:
        small().embed(x)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- training


def test_the_step_rises_by_equal_parts_and_falls_along_half_a_cosine():
    method = learner(steps=100, warmup=9, learning_rate=0.5)
    cosine = [0.5 * (1 + math.cos(math.pi * t / 100)) for t in range(101)]
    for t in range(101):
        want = 0.5 * cosine[t] * min(1, (t + 1) / 10)
        assert method.learning_rate(t) == pytest.approx(want, abs=1e-12)
    assert method.learning_rate(100) == pytest.approx(0, abs=1e-12) and method.learning_rate(250) == pytest.approx(0)
    assert learner(warmup=0).learning_rate(0) == 2e-3
    trained(method, 4)
    assert {group["lr"] for group in method.optimizer.param_groups} == {method.learning_rate(3)}


def test_weights_decay_and_vectors_do_not():
    """With no gradient, a step of AdamW is the decay alone; what is not trained stays."""
    method = learner(weight_decay=0.1, warmup=0, learning_rate=0.01)
    before = {name: p.clone() for name, p in method.model.named_parameters()}
    for p in method.model.parameters():
        p.grad = torch.zeros_like(p)
    for group in method.optimizer.param_groups:
        group["lr"] = 0.01
    method.optimizer.step()
    for name, p in method.model.named_parameters():
        decays = name == "head" or name.endswith(".W")
        torch.testing.assert_close(p, before[name] * (1 - 0.01 * 0.1 if decays else 1))
    assert all(p is not method.model.frozen for group in method.optimizer.param_groups for p in group["params"])


def test_an_update_is_a_step_down_the_loss_with_hooks_before_and_after(monkeypatch):
    method, seen = learner(learning_rate=1e-4, warmup=0, weight_decay=0.0), []
    for name in ("before_update", "after_update"):
        monkeypatch.setattr(method.model, name, lambda *at: seen.append((*at, method.model.head.detach().clone())))
    batch = next(method.batches(0, 0, 1))
    first = method.update(batch)
    assert [s[:2] for s in seen] == [(0, 10), (0, 10)]
    assert method.step == 1 and not first["loss"].requires_grad and not first["length"].requires_grad
    assert (seen[1][2] - seen[0][2]).abs().max() == pytest.approx(1e-4, rel=1e-3), "Adam's first step is of its size"
    assert method.model(batch, 0)[0] < first["loss"] and all(p.grad is None for p in method.model.parameters())


def test_batches_are_slices_of_one_order():
    method = learner()
    whole = [next(method.batches(start, 0, 1)) for start in range(4)]
    for start in range(4):
        parts = [next(method.batches(start, rank, 2)) for rank in (0, 1)]
        assert torch.equal(torch.cat(parts), whole[start])
    assert len({bytes(x.numpy()) for batch in whole for x in batch}) == 32, "an epoch shows each picture once"


def test_too_few_pictures_are_refused():
    with pytest.raises(InputError, match="array has 1 picture to learn from; at least 2 are needed"):
        learner(some_bytes(1, 1, 8, 8))
    assert learner(some_bytes(11, 1, 8, 8)).evaluate(load(some_bytes(11, 1, 8, 8).numpy()), "valid")["loss"].n == 1
    with pytest.raises(UsageError, match="views 'photos' is unknown"):
        learner(views="photos")


# ---------------------------------------------------------------- figures


def test_figures_are_of_fixed_views_in_eval_mode_and_change_nothing():
    y = torch.arange(300) % 3
    x = (some_bytes(300, 1, 8, 8) // 4 + 80 * y.byte().view(-1, 1, 1, 1)).byte()
    method = trained(learner(x, y, views="photographs"))
    method.model.rank, method.model.world = 1, 2
    state, before = copy.deepcopy(method.state_dict()["model"]), torch.get_rng_state()
    found, again = (method.evaluate(method.data, "valid") for _ in range(2))
    assert {k: v.mean for k, v in found.items()} == {k: v.mean for k, v in again.items()}
    assert torch.equal(torch.get_rng_state(), before) and method.model.training
    assert all(torch.equal(v, state[k]) for k, v in method.model.state_dict().items())
    model, held = copy.deepcopy(method.model).eval(), method.data.split("valid")
    model.rank, model.world = 0, 1
    losses = [model(held[8 * i : 8 * i + 8], HELD_OUT + i)[0].item() for i in range(3)]  # 30 pictures in batches of 8
    assert found["loss"].mean == pytest.approx(np.mean(losses)) and found["loss"].n == 3
    z, bank = model.embed(held).double(), model.embed(method.data.split("train")).double()
    sigma = np.linalg.svd(z.numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert found["rank_me"].mean == pytest.approx(math.exp(-(p * np.log(p + 1e-30)).sum()), rel=1e-3)
    assert found["knn"].n == 30 and found["knn"].mean > 0.9
    near = torch.nn.functional.cosine_similarity(z[:, None], bank[None], dim=2).topk(1).indices[:, 0]
    labels, truth = method.data.labels("train"), method.data.labels("valid")
    assert labels is not None and abs((labels[near] == truth).double().mean().item() - found["knn"].mean) < 0.1
    assert method.evaluate(method.data, "valid", limit=10)["knn"].n == 10
    assert "knn" not in learner().evaluate(learner().data, "valid")


def test_neighbours_are_looked_for_among_the_pictures_that_the_labels_are_of():
    """Another set's labels belong to its own pictures, and not to those that were trained on."""
    y = torch.arange(300) % 3
    x = (some_bytes(300, 1, 8, 8) // 4 + 80 * y.byte().view(-1, 1, 1, 1)).byte()
    method = learner(x.flip(0), y.flip(0)[torch.randperm(300, generator=generator(0, 0, "labels"))])
    other = of_arrays("other", {"x": x.numpy(), "y": y.numpy()}, "made here")
    assert method.evaluate(other, "test")["knn"].mean > 0.9


def test_the_alarm_is_given_once_when_features_collapse(capsys):
    method = learner()
    for p in method.model.encoder.parameters():
        nn.init.zeros_(p)
    method.evaluate(method.data, "train")
    assert capsys.readouterr().err == "", "before the first update nothing is learned yet"
    method.step = 7
    found = method.evaluate(method.data, "train")
    said = capsys.readouterr().err
    assert said.startswith("ptheta: step 7: the features collapse (RankMe 1.00") and said.count("\n") == 1
    assert found["rank_me"].mean == pytest.approx(1) and found["spread"].mean == 0
    method.evaluate(method.data, "train")
    assert capsys.readouterr().err == ""
    healthy = trained(learner())
    healthy.evaluate(healthy.data, "train")
    assert capsys.readouterr().err == ""


def test_pictures_are_those_of_one_process_in_eval_mode(monkeypatch):
    method, seen = trained(learner()), []
    method.model.rank, method.model.world = 1, 2
    monkeypatch.setattr(pictures, "of_model", lambda model, data, seed: seen.append(model) or {})
    method.pictures()
    assert (seen[0].rank, seen[0].world, seen[0].training) == (0, 1, False) and seen[0] is not method.model
    assert method.model.world == 2 and method.model.training


# ---------------------------------------------------------------- states


def test_a_state_goes_on_where_it_was():
    whole, half, other = trained(learner(), 6), trained(learner(), 3), learner()
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    for _, batch in zip(range(3), other.batches(3, 0, 1)):
        other.update(batch)
    assert other.step == 6
    for k, v in whole.model.state_dict().items():
        assert torch.equal(v, other.model.state_dict()[k]), k


def test_init_takes_the_encoder_and_the_rest_from_the_same_method_alone():
    source = trained(learner(some_bytes(40, 1, 8, 8, seed=4)))
    for kind, same in ((Method, True), (OtherMethod, False)):
        method = learner(kind=kind)
        before = copy.deepcopy(method.model.state_dict())
        method.start_from(copy.deepcopy(source.model).eval())
        for k, v in method.model.state_dict().items():
            theirs = source.model.state_dict()[k]
            assert torch.equal(v, theirs if same or k.startswith("encoder.") else before[k]), k
        assert not torch.equal(before["head"], source.model.head) and method.step == 0
        trained(method, 1)


@pytest.mark.parametrize("more", [{"width": 8}, {"depth": 2}, {"encoder": "vit", "width": 32}])
def test_init_from_another_encoder_is_refused(more):
    method = learner()
    before = copy.deepcopy(method.model.state_dict())
    with pytest.raises(InputError, match="--init holds another encoder .*--encoder, --width, --depth") as error:
        method.start_from(small((1, 8, 8), **more))
    assert "\n" not in str(error.value) and all(torch.equal(v, before[k]) for k, v in method.model.state_dict().items())


def test_init_from_a_deeper_encoder_does_not_take_its_first_layers():
    method = learner(encoder="vit", width=32, depth=1)
    with pytest.raises(InputError, match="it has more layers"):
        method.start_from(small((1, 8, 8), encoder="vit", width=32, depth=3))


def test_the_card_tells_what_was_learned_from_what(tmp_path):
    method = trained(learner())
    method.save_model(tmp_path / "model")
    said = (tmp_path / "model" / "README.md").read_text()
    assert "from pictures without labels, after 3 updates" in said and method.data.origin in said and "(b, 16)" in said
    assert all(f"| {name} |" in said for name in method.config.to_dict())
