"""FVSBN is n logistic regressions."""

import numpy as np
import pytest
import torch
from zoo import build, everything, some

from ptheta.data.binary import load
from ptheta.density.fvsbn import FVSBN, Config, Method
from ptheta.density.likelihood import evaluate
from ptheta.engine.hardware import Hardware


@pytest.mark.parametrize("kind", ["fvsbn", "fvsbn random"])
def test_each_conditional_is_a_logistic_regression_on_the_variables_before(kind):
    model, x = build(kind, 6, seed=4), everything(6)
    o = model.order().tolist()
    logits = model.logits(x)
    for d in range(6):
        by_hand = model.b[d] + sum((model.W[d, j] * x[:, o[j]] for j in range(d)), torch.zeros(64).double())
        torch.testing.assert_close(logits[:, d], by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["fvsbn", "fvsbn random"])
def test_the_gradient_is_that_of_finite_differences_and_zero_above_the_diagonal(kind):
    model, x = build(kind, 5, seed=4), some(20, 5)
    assert torch.autograd.gradcheck(
        lambda W, b: torch.func.functional_call(model, {"W": W, "b": b, "o": model.o}, (x,)), (model.W, model.b)
    )
    model(x).mean().backward()
    assert (model.W.grad.triu() == 0).all() and (model.W.grad.tril(-1)[1:].abs().max(1).values > 0).all()


@pytest.mark.parametrize("ordering", ["natural", "random"])
def test_the_optimum_is_that_of_scikit_learn(ordering):
    from sklearn.linear_model import LogisticRegression

    n = 5
    x = build("made 1", n, seed=12, spread=0.3).sample(2000, seed=3)  # not of this family
    assert len(x.unique(dim=0)) == 2**n, "every vector occurs, so no regression is separable"
    model = FVSBN(n, ordering).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-11, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = model(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    best = np.zeros(len(x))
    v = x[:, model.order()].numpy()
    for d in range(n):
        past = v[:, :d] if d else np.zeros((len(v), 1))
        fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(past, v[:, d])
        if d:
            np.testing.assert_allclose(model.W[d, :d].detach().numpy(), fitted.coef_[0], atol=2e-4)
        np.testing.assert_allclose(model.b[d].item(), fitted.intercept_[0], atol=2e-4)
        best += fitted.predict_log_proba(past)[np.arange(len(v)), v[:, d].astype(int)]
    assert evaluate(model, x)["nats"].mean == pytest.approx(-best.mean(), abs=1e-7)


@pytest.mark.parametrize("kind", ["fvsbn", "fvsbn random"])
def test_features_are_the_gradient_of_log_p_by_the_biases(kind):
    model, x = build(kind, 5, seed=4), everything(5)
    features = model.embed(x)
    assert features.shape == (32, 5) and not features.requires_grad
    for v, f in zip(x, features, strict=True):
        (gradient,) = torch.autograd.grad(-model(v[None]).sum(), model.b)
        torch.testing.assert_close(f[model.order()], gradient, rtol=1e-12, atol=1e-12)


def test_biases_start_at_the_log_odds_whatever_the_ordering():
    for ordering in ("natural", "random"):
        model = FVSBN(6, ordering, seed=5)
        odds = torch.linspace(-2, 2, 6)
        model.start_at(odds)
        one = model.log_prob(torch.eye(6)) - model.log_prob(torch.zeros(1, 6))
        torch.testing.assert_close(one, odds, rtol=1e-5, atol=1e-5)


def test_random_orderings_follow_the_seed():
    assert FVSBN(30).order().tolist() == list(range(30))
    orders = [tuple(FVSBN(30, "random", seed=seed).order().tolist()) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(30)) != list(orders[0])


def test_the_penalty_is_added_to_the_loss_of_training_and_to_no_density():
    model, x = build("fvsbn", 5, seed=4, lasso=0.7), some(20, 5)
    with torch.no_grad():
        model.W.tril_(-1)
    nats = build("fvsbn", 5, seed=4)(x)
    torch.testing.assert_close(model(x), nats)
    model.train()
    penalty = sum(0.7 * abs(model.W[d, j]) for d in range(5) for j in range(d))
    torch.testing.assert_close(model(x), nats + penalty)
    torch.testing.assert_close(model.log_prob(x), -nats.detach())


def test_the_penalty_keeps_weights_small():
    data = load(np.repeat(everything(3).numpy(), [9, 1, 1, 9, 1, 9, 9, 1], 0))
    cpu = Hardware(torch.device("cpu"), "fp32")
    size = {}
    for lasso in (0.0, 0.01, 100.0):
        config = Config(lasso=lasso, learning_rate=0.02, warmup=0, average=0.0)
        method = Method(config, data, 0, cpu, 300)
        batches = method.batches(0, 0, 1)
        for _ in range(300):
            method.update(next(batches))
        size[lasso] = method.averaged.W.abs().sum().item()
    assert size[100.0] < 0.1 < size[0.01] < 0.95 * size[0.0]
