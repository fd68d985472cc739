"""VICReg: each term beside numpy and loops, the weights as the authors' code has them, and many processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.data.pictures import load
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect
from ptheta.selfsup import vicreg
from ptheta.selfsup.vicreg import Config, Method, VICReg, covariance, variance

ENCODER = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "auto"}


def build(**changes) -> VICReg:
    return VICReg([1, 8, 8], **{"data": "digits", "hidden": 12, "project": 6, **ENCODER, **changes})


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator(seed, 0, "pictures"), dtype=torch.uint8)


# ---------------------------------------------------------------- the terms


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(2, 6), d=st.integers(1, 5), scale=st.floats(0.1, 3), seed=st.integers(0, 2**30),
    shift=st.floats(-5, 5),
)  # fmt: skip
def test_variance_and_covariance_are_those_of_numpy(n, d, scale, seed, shift):
    z = scale * some(n, d, seed=seed)
    deviations = np.sqrt(z.numpy().var(0, ddof=1) + 1e-4)
    assert variance(z).item() == pytest.approx(np.mean(np.maximum(0, 1 - deviations)), rel=1e-9, abs=1e-12)
    C = np.cov(z.numpy(), rowvar=False).reshape(d, d)
    want = sum(C[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    assert covariance(z).item() == pytest.approx(want, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(variance(z + shift), variance(z))  # neither knows where the mean is
    torch.testing.assert_close(covariance(z + shift), covariance(z), rtol=1e-7, atol=1e-9)


def test_the_variance_is_a_hinge_at_one_with_its_constant_inside_of_the_root():
    wide, constant = torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)
    assert variance(wide).item() == 0, "a deviation of √2 costs nothing"
    assert variance(constant).item() == pytest.approx(1 - 0.01)
    assert variance(torch.cat([wide, constant], 1)).item() == pytest.approx(0.99 / 2)
    half = torch.tensor([[0.0], [np.sqrt(2) / 2]])  # unbiased deviation 1/2
    assert variance(half).item() == pytest.approx(1 - np.sqrt(0.25 + 1e-4), abs=1e-6)


def test_collapsed_vectors_have_finite_gradients_that_undo_the_collapse():
    z = (1e-3 * some(8, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(variance(z), z)
    assert variance(z - 0.1 * gradient) < variance(z)
    z = torch.zeros(8, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(variance(z) + covariance(z), z)
    assert torch.isfinite(gradient).all(), "the root has no slope at zero without ε"


def test_coordinates_that_say_the_same_cost_and_independent_ones_do_not():
    u = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    assert covariance(torch.stack(u, 1)).item() == 0
    assert covariance(torch.stack([u[0], u[0]], 1)).item() == pytest.approx((4 / 3) ** 2)  # 2 · (4/3)² / D


# ---------------------------------------------------------------- the loss


def naive(model: VICReg, z: torch.Tensor, z2: torch.Tensor, weights=(25, 25, 1)) -> torch.Tensor:
    """Eq. (4) in loops, the variances halved and the distance divided by D, as the authors' code has them."""
    (n, d), of_s, of_v, of_c = z.shape, *weights
    s = sum((z[i, k] - z2[i, k]) ** 2 for i in range(n) for k in range(d)) / (n * d)
    v = c = 0
    for y in (z, z2):
        mean = [sum(y[i, k] for i in range(n)) / n for k in range(d)]
        for j in range(d):
            for k in range(d):
                cov = sum((y[i, j] - mean[j]) * (y[i, k] - mean[k]) for i in range(n)) / (n - 1)
                if j == k:
                    v = v + torch.relu(1 - (cov + 1e-4).sqrt()) / d / 2
                else:
                    c = c + cov**2 / d
    return of_s * s + of_v * v + of_c * c


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (2.0, 3.0, 5.0)])
def test_loss_and_gradient_are_those_of_the_naive_computation(weights):
    names = ("invariance", "variance", "covariance")
    model, x = build(**dict(zip(names, weights))).train(), pictures(5)
    loss, figures = model.loss(x, 3)
    loss.backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    z, z2 = (model.head(model.encoder(model.view(x, 3, s))) for s in ("first view", "second view"))
    want = naive(model, z, z2, weights)
    want.backward()
    torch.testing.assert_close(loss, want)
    assert loss.item() == pytest.approx(sum(w * figures[n].item() for w, n in zip(weights, names)), rel=1e-5)
    assert min(f.item() for f in figures.values()) > 1e-3, "each term has its say"
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-3, atol=1e-4 * p.grad.abs().max().item())
        assert p.grad.abs().max() > 1e-6, name


def test_the_weights_are_the_papers_unless_others_are_asked_for():
    config, made = Config(), VICReg([1, 8, 8], data="digits", **ENCODER)
    assert made.weights == (config.invariance, config.variance, config.covariance) == (25, 25, 1)
    assert made.head.W[-1].shape == (config.project, config.hidden) == (512, 512)


def test_a_collapsed_model_pays_the_whole_variance_and_nothing_else():
    model = build().train()
    model.head.W[-1].data.zero_()
    loss, figures = model.loss(pictures(6), 0)
    assert figures["variance"].item() == pytest.approx(0.99) and loss.item() == pytest.approx(25 * 0.99)


def test_a_bias_of_the_last_layer_would_change_nothing():
    model, x = build().train(), pictures(6)
    loss = model.loss(x, 0)[0]
    assert model.head.b is None
    model.head.b = torch.nn.Parameter(some(6).float())
    shifted = model.loss(x, 0)[0]
    torch.testing.assert_close(shifted, loss, rtol=1e-4, atol=1e-4)
    shifted.backward()
    assert model.head.b.grad.abs().max() < 1e-4 * model.head.W[-1].grad.abs().max()


# ---------------------------------------------------------------- many processes


def test_the_losses_of_two_processes_have_the_mean_and_the_gradient_of_one(monkeypatch):
    """In eval mode, since batch norms of one process see half of the batch here; see test_contract_processes.py."""
    model, x = build().eval(), pictures(8)
    whole = model.loss(x, 5)[0]
    want = torch.autograd.grad(whole, [p for p in model.parameters()])

    model.world, given = 2, {0: [], 1: []}

    def halves():
        out = []
        for model.rank in (0, 1):
            out.append(model.loss(x[4 * model.rank : 4 * model.rank + 4], 5)[0])
        return out

    monkeypatch.setattr(vicreg, "gathered", lambda u, world: given[model.rank].append(u) or u)
    alone = halves()  # notes what each process gives away
    noted, calls = {r: list(us) for r, us in given.items()}, {0: 0, 1: 0}

    def gathered(u, world):
        i, calls[model.rank] = calls[model.rank], calls[model.rank] + 1
        torch.testing.assert_close(u, noted[model.rank][i])
        return torch.cat([u if r == model.rank else noted[r][i] for r in (0, 1)])

    monkeypatch.setattr(vicreg, "gathered", gathered)
    together = halves()
    assert calls == {0: 2, 1: 2}, "both views"
    mean = (together[0] + together[1]) / 2
    torch.testing.assert_close(mean, whole)
    assert abs((alone[0] + alone[1]) / 2 - whole) > 1e-3, "without the others' vectors it would be another"
    for got, gradient in zip(torch.autograd.grad(mean, [p for p in model.parameters()]), want):
        torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


# ---------------------------------------------------------------- held-out pictures, errors, training


@pytest.mark.parametrize("changes", [{}, {"cells": 2}, {"encoder": "vit", "width": 32}])
def test_a_held_out_loss_changes_nothing(changes):
    model = build(**changes).eval()
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with torch.no_grad():
        assert torch.isfinite(model(pictures(2), 2**40)[0])
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_a_batch_of_one_is_refused():
    for model in (build().train(), build().eval()):
        with pytest.raises(UsageError, match="vicreg .* got 1; raise --batch-size"):
            model.loss(pictures(1), 0)


@pytest.mark.parametrize("field", [{"invariance": -1.0}, {"variance": -1.0}, {"covariance": -0.1}, {"project": 0}])
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} .*allowed: .*option --{name}"):
        Config(**field)


def test_thirty_updates_lower_the_loss_and_collapse_nothing():
    data = load("digits")
    chosen = {"learning_rate": 0.01, "warmup": 0, "width": 8, "batch_size": 64, "hidden": 64, "project": 64}
    method = Method(Config(**chosen), data, 0, detect("cpu", "fp32", 1), 30)
    before = method.evaluate(data, "valid")
    logs = [method.update(batch) for _, batch in zip(range(30), method.batches(0, 0, 1))]
    after = method.evaluate(data, "valid")
    assert after["loss"].mean < before["loss"].mean - 5 and after["loss"].mean < 25 * 0.99 - 2, "lower than collapsed"
    assert after["rank_me"].mean > before["rank_me"].mean and after["spread"].mean > before["spread"].mean
    assert logs[-1]["invariance"] < logs[0]["invariance"] / 2
