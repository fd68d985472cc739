"""QAC: with the exact q its estimate is the exact gradient; its critic's fixed point is q."""

import pytest
import torch
from grid_samples import AFTER, WORLD, R, agrees, exact_gradient, gradients, some_theta

import ptheta
from ptheta.control import qac
from ptheta.control.gridworld import exact, softmax
from ptheta.control.spaces import Spaces
from ptheta.engine.errors import UsageError

THETA = some_theta(1)
PI = softmax(THETA)
EXACT = exact(WORLD, PI)
GROUPS, EACH = 40, 2_000


def test_the_estimate_is_the_exact_gradient():
    """States from ρ_π, which adds up to 1 / (1 − γ)."""
    g = torch.Generator().manual_seed(0)
    total = EXACT.rho.sum()
    torch.testing.assert_close(total, torch.tensor(1 / (1 - WORLD.gamma), dtype=torch.float64))
    s = torch.multinomial(EXACT.rho, GROUPS * EACH, replacement=True, generator=g)
    a = torch.multinomial(PI[s], 1, generator=g)[:, 0]
    parts = [x.split(EACH) for x in (s, a)]

    def loss(k, theta):
        s, a = (x[k] for x in parts)
        return total * qac.actor_loss(theta.log_softmax(1)[s, a], EXACT.q[s, a])

    agrees(gradients(loss, THETA, GROUPS), exact_gradient(THETA))


def test_the_critic_stands_still_at_q_and_nowhere_near_it():
    """Eq. (2) in the mean over all s, a, a': Σ π(a' | s') … is what the draw of a' stands for."""
    s, a, then = (
        x.flatten() for x in torch.meshgrid(torch.arange(25), torch.arange(5), torch.arange(5), indexing="ij")
    )
    weight = PI[AFTER[s, a], then]

    def slope(q):
        x = q.clone().requires_grad_()
        goal = R[s, a] + WORLD.gamma * q[AFTER[s, a], then]
        each = torch.stack([qac.critic_loss(x[i, j][None], y[None]) for i, j, y in zip(s, a, goal)])
        return torch.autograd.grad((weight * each).sum(), x)[0]

    assert slope(EXACT.q).abs().max() < 1e-10
    other = EXACT.q + torch.linspace(-0.1, 0.1, 125, dtype=torch.float64).view(25, 5)
    assert slope(other).abs().max() > 1e-3


def test_the_goal_holds_still():
    q = torch.randn(4, requires_grad=True)
    goal = torch.randn(4, requires_grad=True)
    qac.critic_loss(q, goal).backward()
    torch.testing.assert_close(q.grad, (q - goal).detach() / 4)
    assert goal.grad is None


def test_the_actor_leaves_the_critic_and_learns_the_grid_world(tmp_path):
    run = ptheta.train(
        "qac", "ptheta/GridWorld-v0", out=str(tmp_path / "run"), steps=40_000, eval_every=20_000, threads=1, gamma=0.9,
        normalise_observations=False, learning_rate=0.003, critic_rate=0.01, hidden=(),
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert found[-1] > found[0] + 20
    q = torch.randn(3, requires_grad=True)
    qac.actor_loss(torch.randn(3, requires_grad=True), q).backward()
    assert q.grad is None


def test_pictures_with_vectors_of_actions_are_refused():
    spaces = Spaces((3, 8, 8), None, (-1.0,), (1.0,)).to_dict()
    with pytest.raises(UsageError, match="qac takes pictures only with a number of actions .* Methods for it: a2c"):
        qac.QAC("Game", spaces)
    model = qac.QAC("Game", Spaces((3, 8, 8), 4).to_dict())
    s = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert model.q(s, torch.tensor([0, 3])).shape == model.decide(s).shape == (2,)
