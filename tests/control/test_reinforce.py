"""REINFORCE: its estimate is the exact gradient, baselines change nothing but the variance."""

import math

import pytest
import torch
from grid_samples import WORLD, R, agrees, exact_gradient, gradients, some_theta, walks

import ptheta
from ptheta.control import reinforce
from ptheta.control.gridworld import exact, softmax
from ptheta.control.returns import Steps, discounted
from ptheta.engine.errors import UsageError

THETA = some_theta()
PI = softmax(THETA)
GROUPS, EACH, T = 40, 250, 120  # γ^120 is 3e-6


@pytest.mark.parametrize("baseline", [False, True])
def test_the_estimate_is_the_exact_gradient(baseline):
    v = exact(WORLD, PI).v
    g = torch.Generator().manual_seed(0)
    s, a, r = walks(PI, GROUPS * EACH, T, g)
    none = torch.zeros_like(r, dtype=torch.bool)
    G = discounted(Steps(r, torch.zeros_like(r), none, none), WORLD.gamma)
    weight = G - v[s] if baseline else G
    parts = [x.split(EACH, 1) for x in (s, a, weight)]

    def loss(k, theta):
        s, a, w = (x[k] for x in parts)
        log_pi = theta.log_softmax(1)[s, a]
        return reinforce.loss(log_pi, w, torch.ones_like(w, dtype=torch.bool), WORLD.gamma)

    agrees(gradients(loss, THETA, GROUPS), exact_gradient(THETA))


def test_a_baseline_has_no_mean_gradient():
    """Eq. (2), by summing over actions."""
    for theta in (THETA, some_theta(1, 3.0)):
        b = torch.randn(WORLD.states, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = theta.clone().requires_grad_()
        mean = (softmax(theta) * b[:, None] * x.log_softmax(1)).sum()
        assert torch.autograd.grad(mean, x)[0].abs().max() < 1e-14


def test_the_best_baseline_has_the_least_variance():
    """Eq. (3): the mean square of (q − b) ∇log π over actions, in each state."""
    q = exact(WORLD, PI).q
    squared = (torch.eye(5, dtype=torch.float64) - PI[:, None]).square().sum(2)  # |e_a − π|²

    def mean_square(b):
        return (PI * squared * (q - b[:, None]).square()).sum(1)

    best = reinforce.best_baseline(squared, PI, q)
    least = mean_square(best)
    for other in (exact(WORLD, PI).v, torch.zeros_like(best), best + 0.01, best - 0.01):
        assert (mean_square(other) >= least - 1e-12).all() and (mean_square(other) > least + 1e-9).any()
    b = best.clone().requires_grad_()
    assert torch.autograd.grad(mean_square(b).sum(), b)[0].abs().max() < 1e-12


def test_what_comes_after_an_episode_counts_nothing():
    g = torch.Generator().manual_seed(2)
    log_pi, weight = torch.randn(2, 6, 3, generator=g, dtype=torch.float64)
    alive = torch.tensor([6, 2, 4])[None] > torch.arange(6)[:, None]
    by_hand = -sum(
        0.9**t * weight[t, e] * log_pi[t, e] for e, n in enumerate((6, 2, 4)) for t in range(n)
    ) / 3  # fmt: skip
    torch.testing.assert_close(reinforce.loss(log_pi, weight, alive, 0.9), by_hand)
    spoilt = torch.where(alive, weight, 1e9)
    torch.testing.assert_close(reinforce.loss(log_pi, spoilt, alive, 0.9), by_hand)


def test_the_gradient_does_not_flow_through_the_returns():
    log_pi, weight = torch.randn(2, 3, 2).unbind()
    weight.requires_grad_()
    log_pi.requires_grad_()
    reinforce.loss(log_pi, weight, torch.ones(3, 2, dtype=torch.bool)).backward()
    assert weight.grad is None and log_pi.grad is not None


@pytest.mark.parametrize("baseline", [True, False])
def test_it_learns_the_pole(baseline, tmp_path):
    run = ptheta.train(
        "reinforce", "CartPole-v1", out=str(tmp_path / "r"), steps=20_000, eval_every=10_000, threads=1,
        baseline=baseline,
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert found[0] < 30 and max(found) > 60


def test_it_refuses_an_impossible_discount():
    with pytest.raises(UsageError, match="gamma = 2.0 is impossible"):
        reinforce.Config(gamma=2.0)


def test_the_reward_of_a_walk_is_the_worlds():
    """The walks that the tests above rest on."""
    s, a, r = walks(PI, 50, 10, torch.Generator().manual_seed(3))
    assert torch.equal(r, R[s, a]) and math.isclose(float((s >= 0).float().mean()), 1.0)
    for t in range(9):
        for k in range(50):
            assert WORLD.step(int(s[t, k]), int(a[t, k])) == (int(s[t + 1, k]), float(r[t, k]))
