"""Maximum likelihood: the step size, the averaged iterates, the figures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import build, everything, some

from ptheta.data.binary import load
from ptheta.density import fvsbn, made, nade
from ptheta.density.likelihood import LikelihoodConfig, evaluate, log_odds
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware

CPU = Hardware(torch.device("cpu"), "fp32")
MODULES = pytest.mark.parametrize("module", [fvsbn, nade, made])


def learner(module, x, steps=25, seed=0, **config):
    small = {"hidden": 6} if module is nade else {"hidden": (6,), "masks": 2} if module is made else {}
    return module.Method(module.Config(**{**small, **config}), load(np.asarray(x)), seed, CPU, steps)


@settings(deadline=None, max_examples=40)
@given(ones=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_log_odds_count_one_more_of_each_value(ones):
    x = (torch.arange(30)[:, None] < torch.tensor(ones)).to(torch.uint8)
    by_hand = [math.log((k + 1) / (30 - k + 1)) for k in ones]
    assert log_odds(x).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_log_odds_of_many_rows_do_not_overflow():
    x = torch.ones(70_000, 1, dtype=torch.uint8)
    assert log_odds(x).item() == pytest.approx(math.log(70_001))


@pytest.mark.parametrize("module", [fvsbn, made, nade])
def test_learning_starts_from_the_best_model_of_independent_variables(module):
    x = some(300, 5) * some(300, 5, seed=2)
    method = learner(module, x)
    if module is not fvsbn:
        method.averaged.V.data.zero_()
    train = method.data.split("train")
    p = (train.double().sum(0) + 1) / (len(train) + 2)
    independent = -(train * p.log() + (1 - train) * (1 - p).log()).sum(1).mean().item()
    assert method.evaluate(method.data, "train")["nats"].mean == pytest.approx(independent, rel=1e-6)


# ---------------------------------------------------------------- step size


def rates(steps: int, **config) -> list[float]:
    method = learner(fvsbn, everything(2), steps=steps, learning_rate=1.0, **config)
    return [method.learning_rate(t) for t in range(steps)]


def test_the_step_size_rises_in_a_line_stays_and_falls_along_a_half_cosine():
    rate = rates(1000, warmup=99, decay=0.4)
    assert rate[:99] == pytest.approx([(t + 1) / 100 for t in range(99)])
    assert rate[99:600] == pytest.approx([1.0] * 501)
    assert rate[600:] == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 400)) for t in range(400)])
    assert rate[800] == pytest.approx(0.5) and 0 < rate[-1] < 1e-4


def test_the_step_size_falls_from_the_start_by_default_and_never_without_decay():
    assert rates(100, warmup=0) == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 100)) for t in range(100)])
    assert rates(50, warmup=0, decay=0.0) == [1.0] * 50
    assert rates(50, warmup=9, decay=0.0)[:11] == pytest.approx([*(t / 10 for t in range(1, 11)), 1.0])


@pytest.mark.parametrize("config", [{}, {"decay": 0.001}, {"warmup": 1000}, {"decay": 1.0, "warmup": 0}])
def test_every_step_size_is_positive_and_at_most_the_highest(config):
    for steps in (1, 2, 3, 100):
        assert all(0 < rate <= 1 for rate in rates(steps, **config))


def test_the_step_size_reaches_the_optimizer():
    method = learner(fvsbn, everything(3), learning_rate=0.5, warmup=4, decay=0.0)
    batch = everything(3, torch.float32)
    for t in range(6):
        method.update(batch)
        assert method.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * min(1, (t + 1) / 5))


# ---------------------------------------------------------------- eq. (2)


@MODULES
def test_the_model_that_is_used_is_the_average_of_the_iterates(module):
    """Eq. (2) by hand: each update while there are few, then every tenth with α to that power."""
    method = learner(module, some(200, 6), average=0.9, learning_rate=0.1, warmup=0)
    mean = {k: p.detach().clone() for k, p in method.model.named_parameters()}
    batches = method.batches(0, 0, 1)
    for t in range(1, 26):
        logs = method.update(next(batches))
        assert logs["loss"].shape == () and not logs["loss"].requires_grad
        alpha = min(0.9, (t + 1) / (t + 10))
        alpha = alpha if t < 10 else alpha**10 if t % 10 == 0 else 1.0
        for k, p in method.model.named_parameters():
            mean[k] = alpha * mean[k] + (1 - alpha) * p.detach()
        for k, p in method.averaged.named_parameters():
            torch.testing.assert_close(p, mean[k], rtol=1e-5, atol=1e-6)
    different = [not torch.allclose(p, q) for p, q in zip(method.averaged.parameters(), method.model.parameters())]
    assert any(different)


@MODULES
def test_without_averaging_the_last_iterate_is_used(module):
    method = learner(module, some(200, 6), average=0.0, warmup=0, learning_rate=0.1)
    batches = method.batches(0, 0, 1)
    for _ in range(20):
        method.update(next(batches))
    for p, q in zip(method.averaged.parameters(), method.model.parameters(), strict=True):
        assert torch.equal(p, q)


@MODULES
def test_the_update_is_adam_on_the_mean_of_minus_log_p(module):
    """The first step of Adam moves each parameter by the step size against the sign of its gradient."""
    method = learner(module, some(50, 6), warmup=0, decay=0.0, learning_rate=0.01)
    x = some(50, 6, seed=1, dtype=torch.float32)
    before = {k: p.detach().clone() for k, p in method.model.named_parameters()}
    loss = method.model(x, 0).mean()
    gradients = dict(zip(before, torch.autograd.grad(loss, list(method.model.parameters())), strict=True))
    logs = method.update(x)
    assert logs["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for k, p in method.model.named_parameters():
        g = gradients[k]
        step = -0.01 * torch.where(g == 0, 0, g / (g.abs() + 1e-8))
        torch.testing.assert_close(p.detach() - before[k], step, rtol=1e-3, atol=1e-6)
    method.update(x)
    assert all(not p.grad.any() if p.grad is not None else True for p in method.model.parameters())


@MODULES
def test_learning_comes_near_the_entropy_of_its_data(module):
    """Two bits, the second a noisy copy of the first: all three models can hold this, so nats reach the entropy."""
    x = torch.tensor([[0, 0]] * 4 + [[0, 1]] * 1 + [[1, 0]] * 2 + [[1, 1]] * 3).repeat(20, 1)
    entropy = -sum(p * math.log(p) for p in (0.4, 0.1, 0.2, 0.3))
    method = learner(module, x, steps=600, learning_rate=0.05, warmup=0, average=0.9)
    train = method.data.split("train")
    batches = method.batches(0, 0, 1)
    start = evaluate(method.averaged, train)["nats"].mean
    for _ in range(600):
        method.update(next(batches))
    empirical = torch.bincount((2 * train[:, 0] + train[:, 1]).long(), minlength=4).double() / len(train)
    best = -(empirical * empirical.log()).sum().item()
    assert best == pytest.approx(entropy, abs=0.05) and start > best + 0.05
    assert best - 1e-6 <= evaluate(method.averaged, train)["nats"].mean < best + 0.005


def test_batches_hold_the_training_rows_in_the_dtype_of_the_model():
    x = everything(6)
    method = learner(fvsbn, x, batch_size=10)
    batches = method.batches(0, 0, 1)
    first = [next(batches) for _ in range(5)]
    assert all(b.shape == (10, 6) and b.dtype == torch.float32 for b in first)
    train = method.data.split("train")
    assert len({tuple(v) for b in first for v in b.tolist()} - {tuple(v) for v in train.float().tolist()}) == 0
    assert len({tuple(v) for b in first for v in b.tolist()}) == 50, "no row twice in an epoch"
    torch.testing.assert_close(next(method.batches(3, 0, 1)), first[3])


# ---------------------------------------------------------------- figures


def test_the_standard_error_is_the_spread_by_the_root_of_the_count():
    model, x = build("made 1", 6, dtype=torch.float32), some(500, 6)
    nats = -model.double().log_prob(x).numpy()
    figures = evaluate(model, x)
    assert figures["nats"].mean == pytest.approx(nats.mean(), abs=1e-9)
    assert figures["nats"].standard_error == pytest.approx(nats.std(ddof=1) / math.sqrt(500), abs=1e-9)
    assert figures["nats"].n == 500
    bits = figures["bits_per_dim"]
    assert bits.mean == pytest.approx(nats.mean() / (6 * math.log(2)))
    assert bits.standard_error == pytest.approx(figures["nats"].standard_error / (6 * math.log(2)))


def test_fair_coins_cost_one_bit_each():
    model = fvsbn.FVSBN(7)
    figures = evaluate(model, everything(7))
    assert figures["bits_per_dim"].mean == pytest.approx(1) and figures["nats"].standard_error < 1e-6


def test_one_vector_has_no_standard_error_and_none_is_refused():
    one = evaluate(fvsbn.FVSBN(3), torch.zeros(1, 3))["nats"]
    assert one.mean == pytest.approx(3 * math.log(2)) and math.isnan(one.standard_error) and one.n == 1
    with pytest.raises(InputError, match="no vector to evaluate on; name another --split"):
        evaluate(fvsbn.FVSBN(3), torch.zeros(0, 3))


def test_only_the_first_vectors_are_looked_at_if_so_asked():
    method = learner(fvsbn, some(200, 4))
    for limit in (1, 7, None):
        got = method.evaluate(method.data, "train", limit)["nats"]
        want = evaluate(method.averaged, method.data.split("train")[:limit])["nats"]
        assert got.n == want.n == (limit or 160) and got.mean == want.mean


# ---------------------------------------------------------------- starting from another, impossible values


@MODULES
def test_learning_goes_on_from_the_weights_of_another_model(module):
    x = some(200, 6)
    old, new = learner(module, x, seed=1), learner(module, x, seed=2)
    batches = old.batches(0, 0, 1)
    for _ in range(12):
        old.update(next(batches))
    new.start_from(old.averaged)
    for model in (new.model, new.averaged):
        assert torch.equal(model.log_prob(x), old.averaged.log_prob(x))
    other = learner(nade if module is not nade else fvsbn, x)
    with pytest.raises(InputError, match="--init holds a .* this run wants"):
        new.start_from(other.averaged)
    with pytest.raises(InputError, match="--init holds a .* this run wants"):
        new.start_from(learner(module, some(200, 5)).averaged)


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("batch_size", 2.5), ("batch_size", "ten"), ("learning_rate", 0.0), ("learning_rate", math.inf),
     ("learning_rate", math.nan), ("learning_rate", True), ("warmup", -1), ("decay", 1.1), ("decay", -0.1),
     ("weight_decay", -1.0), ("average", 1.0), ("average", -0.1)],
)  # fmt: skip
def test_impossible_values_are_refused_with_what_is_allowed(field, value):
    with pytest.raises(
        UsageError, match=rf"{field} = .*; allowed: .* \(field {field}, option --{field.replace('_', '-')}\)"
    ):
        LikelihoodConfig(**{field: value})
