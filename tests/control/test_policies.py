"""Policies against torch.distributions, their draws against their probabilities, and bounds that are kept."""

import math

import pytest
import torch
from torch import distributions as D
from torch import nn

from ptheta.control.policies import HIGH, LEAST, Categorical, Deterministic, Gaussian
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets.mlp import MLP, orthogonal


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=torch.float64)


def test_discrete_actions_are_torchs():
    pi, s = Categorical(nn.Identity()), some(50, 4)
    given, old = pi.given(3 * s), (some(50, 4, seed=1),)
    theirs, before = D.Categorical(logits=3 * s), D.Categorical(logits=old[0])
    a = pi.draw(given, generator(0, 0, "actions"))
    torch.testing.assert_close(pi.log_prob(given, a), theirs.log_prob(a))
    torch.testing.assert_close(pi.entropy(given), theirs.entropy())
    torch.testing.assert_close(pi.kl(old, given), D.kl_divergence(before, theirs))
    assert torch.equal(pi.best(given), theirs.probs.argmax(1)) and a.shape == (50,)


def test_vectors_are_torchs():
    pi, s = Gaussian(nn.Identity(), 3, sigma=0.7).double(), some(50, 3)
    with torch.no_grad():
        pi.omega.copy_(torch.tensor([-0.3, 0.2, 0.9]))
    given = pi.given(s)
    old = (some(50, 3, seed=1), some(50, 3, seed=2) / 3)
    theirs = D.Independent(D.Normal(given[0], given[1].exp()), 1)
    before = D.Independent(D.Normal(old[0], old[1].exp()), 1)
    a = pi.draw(given, generator(0, 0, "actions"))
    torch.testing.assert_close(pi.log_prob(given, a), theirs.log_prob(a))
    torch.testing.assert_close(pi.entropy(given), theirs.entropy())
    torch.testing.assert_close(pi.kl(old, given), D.kl_divergence(before, theirs))
    assert torch.equal(pi.best(given), s)


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_draws_are_as_likely_as_they_are_said_to_be(kind):
    n, g = 40_000, generator(0, 0, "draws")
    if kind == "discrete":
        pi, s = Categorical(nn.Identity()), some(1, 4).expand(n, 4)
        found = torch.bincount(pi.draw(pi.given(s), g), minlength=4) / n
        want = s[0].softmax(0)
        assert ((found - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()
    else:
        pi = Gaussian(nn.Identity(), 2, sigma=0.5).double()
        a = pi.draw(pi.given(torch.tensor([[1.0, -2.0]]).double().expand(n, 2)), g)
        assert (a.mean(0) - torch.tensor([1.0, -2.0])).abs().max() < 4 * 0.5 / n**0.5
        assert (a.std(0) - 0.5).abs().max() < 4 * 0.5 / (2 * n) ** 0.5


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_kl_to_itself_is_zero_has_no_gradient_and_its_curvature_is_the_fisher_matrix(kind):
    """The mean of ∇log π ∇log π^T, exactly for discrete actions, by its closed form 1 / σ² for μ."""
    z = some(1, 3).requires_grad_()
    pi = Categorical(nn.Identity()) if kind == "discrete" else Gaussian(nn.Identity(), 3, sigma=0.5).double()
    old = tuple(x.detach() for x in pi.given(z))
    kl = pi.kl(old, pi.given(z)).sum()
    (gradient,) = torch.autograd.grad(kl, z, create_graph=True)
    H = torch.stack([torch.autograd.grad(gradient[0, i], z, retain_graph=True)[0][0] for i in range(3)])
    assert kl.item() == pytest.approx(0, abs=1e-12) and gradient.abs().max() < 1e-12
    if kind == "discrete":
        fisher = torch.zeros(3, 3, dtype=torch.float64)
        for a in range(3):
            (score,) = torch.autograd.grad(pi.log_prob(pi.given(z), torch.tensor([a]))[0], z)
            fisher += z[0].softmax(0)[a].detach() * score[0][:, None] * score[0][None]
    else:
        fisher = torch.eye(3, dtype=torch.float64) / 0.5**2
    torch.testing.assert_close(H, fisher, atol=1e-6, rtol=1e-6)


def test_the_deviation_stays_within_its_bounds_and_can_leave_their_neighbourhood():
    for least in (LEAST, 0.1):
        pi = Gaussian(nn.Identity(), 1, sigma=0.3, least=least)
        assert pi.given(torch.zeros(1, 1))[1].exp().item() == pytest.approx(0.3, rel=1e-5)
        for omega, bound in ((1e6, HIGH), (-1e6, math.log(least))):
            with torch.no_grad():
                pi.omega.fill_(omega)
            assert pi.given(torch.zeros(1, 1))[1].item() == pytest.approx(bound)
    with pytest.raises(UsageError, match="allowed: between 0.2 and 7.39"):
        Gaussian(nn.Identity(), 1, sigma=0.1, least=0.2)
    for sigma in (0.0, 1e-3, 100.0):
        with pytest.raises(UsageError, match="sigma = .* is impossible; allowed: between"):
            Gaussian(nn.Identity(), 1, sigma=sigma)


def test_one_action_reaches_its_own_bounds_and_no_further():
    low, high = torch.tensor([-2.0, 0.0, 5.0]), torch.tensor([2.0, 0.1, 11.0])
    pi = Deterministic(nn.Identity(), low, high)
    torch.testing.assert_close(pi(torch.zeros(1, 3))[0], (low + high) / 2)
    torch.testing.assert_close(pi(torch.full((1, 3), 1e3))[0], high)
    torch.testing.assert_close(pi(torch.full((1, 3), -1e3))[0], low)
    y = torch.tensor([[-1.5, 0.2, 0.7]], requires_grad=True)
    (slope,) = torch.autograd.grad(pi.within(y).sum(), y)
    torch.testing.assert_close(pi.slope(y), slope)
    for bad_low, bad_high in (([0.0], [math.inf]), ([1.0], [1.0]), ([math.nan], [1.0])):
        with pytest.raises(UsageError, match="allowed: finite, low below high"):
            Deterministic(nn.Identity(), torch.tensor(bad_low), torch.tensor(bad_high))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (7, 3), (3, 7), (1, 5)])
def test_orthogonal(rows, columns):
    Q = orthogonal(generator(0, 0, "Q"), rows, columns, gain=1.5)
    product = Q @ Q.T if rows <= columns else Q.T @ Q
    torch.testing.assert_close(product, 2.25 * torch.eye(min(rows, columns)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_perceptron_is_eq_1(activation):
    net, x = MLP(generator(0, 0, "net"), 5, (7, 6), 2, activation, last_gain=0.01), torch.randn(2, 3, 5)
    f = getattr(torch, activation)
    h = f(f(x @ net.W[0].T + net.b[0]) @ net.W[1].T + net.b[1])
    torch.testing.assert_close(net(x), h @ net.W[2].T + net.b[2])
    assert net.W[2].norm(dim=1).max().item() == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(UsageError, match="at least 1 in each"):
        MLP(generator(0, 0, "net"), 5, (0,), 2)
