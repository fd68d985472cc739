"""Off-policy actor–critic: weights make another policy's samples speak for this one."""

import pytest
import torch
from grid_samples import AFTER, WORLD, R, agrees, exact_gradient, gradients, some_theta

import ptheta
from ptheta.control import offpac
from ptheta.control.gridworld import exact, softmax, value_iteration
from ptheta.engine.errors import UsageError

THETA = some_theta(2)
PI = softmax(THETA)
BETA = softmax(some_theta(3))
D_BETA = exact(WORLD, BETA).d
EXACT = exact(WORLD, PI, D_BETA)  # ρ carries d_β on by π
GROUPS, EACH = 40, 2_500


def samples():
    g = torch.Generator().manual_seed(0)
    s = torch.multinomial(EXACT.rho, GROUPS * EACH, replacement=True, generator=g)
    a = torch.multinomial(BETA[s], 1, generator=g)[:, 0]
    delta = R[s, a] + WORLD.gamma * EXACT.v[AFTER[s, a]] - EXACT.v[s]
    return s, a, delta


def test_the_estimate_is_the_exact_gradient():
    parts = [x.split(EACH) for x in samples()]

    def loss(k, theta):
        s, a, delta = (x[k] for x in parts)
        return EXACT.rho.sum() * offpac.actor_loss(theta.log_softmax(1)[s, a], BETA.log()[s, a], delta)

    agrees(gradients(loss, THETA, GROUPS), exact_gradient(THETA, D_BETA))


def test_without_weights_it_would_not_be():
    parts = [x.split(EACH) for x in samples()]

    def loss(k, theta):
        s, a, delta = (x[k] for x in parts)
        same = theta.detach().log_softmax(1)[s, a]  # as if β were π
        return EXACT.rho.sum() * offpac.actor_loss(theta.log_softmax(1)[s, a], same, delta)

    with pytest.raises(AssertionError):
        agrees(gradients(loss, THETA, GROUPS), exact_gradient(THETA, D_BETA))


def test_the_critic_stands_still_at_the_value_of_pi_and_not_of_beta():
    """Eq. (2), right, in the mean over β: with the weights at v_π."""
    s, a = (x.flatten() for x in torch.meshgrid(torch.arange(25), torch.arange(5), indexing="ij"))

    def slope(v, log_pi):
        x = v.clone().requires_grad_()
        goal = R[s, a] + WORLD.gamma * v[AFTER[s, a]]
        each = torch.stack(
            [offpac.critic_loss(x[i][None], y[None], p[None], b[None])
             for i, y, p, b in zip(s, goal, log_pi, BETA.log()[s, a])]
        )  # fmt: skip
        return torch.autograd.grad((BETA[s, a] * each).sum(), x)[0].abs().max()

    log_pi, log_beta = PI.log()[s, a], BETA.log()[s, a]
    assert slope(EXACT.v, log_pi) < 1e-10
    assert slope(exact(WORLD, BETA).v, log_pi) > 1e-3
    assert slope(exact(WORLD, BETA).v, log_beta) < 1e-10  # without weights it is β's


def test_weights_are_cut():
    log_pi = torch.log(torch.tensor([0.9, 0.5, 0.1]))
    log_beta = torch.log(torch.tensor([0.1, 0.5, 0.9]))
    delta = torch.ones(3)
    x = log_pi.clone().requires_grad_()
    offpac.actor_loss(x, log_beta, delta, 2.0).backward()
    torch.testing.assert_close(x.grad, -torch.tensor([2.0, 1.0, 1 / 9]) / 3)


def test_it_finds_the_best_policy_of_the_grid_world(tmp_path):
    run = ptheta.train("offpac", out=str(tmp_path / "run"), steps=60_000, eval_every=30_000, threads=1)
    model = ptheta.load(run)
    with torch.no_grad():
        best = model.decide(torch.eye(25))
    policy = torch.nn.functional.one_hot(best, 5).double()
    P, r = WORLD.matrices()
    P_pi = torch.einsum("sa,sat->st", policy, P)
    v = torch.linalg.solve(torch.eye(25, dtype=torch.float64) - 0.9 * P_pi, (policy * r).sum(1))
    lost = value_iteration(WORLD)[0] - v
    uniform = value_iteration(WORLD)[0] - exact(WORLD, torch.full((25, 5), 0.2, dtype=torch.float64)).v
    assert lost.mean() < 0.6 < uniform.mean() / 10  # what acts at random, and is learned from, loses more than 6


def test_a_behaviour_that_was_learned(tmp_path):
    made = ptheta.train(
        "a2c", "ptheta/GridWorld-v0", out=str(tmp_path / "a"), steps=2_000, threads=1, hidden=(8,), envs=4
    )
    run = ptheta.train(
        "offpac", out=str(tmp_path / "b"), steps=4_000, threads=1, hidden=(8,), behaviour=str(made.path), envs=4
    )
    rho = [m["rho"] for m in run.metrics() if "rho" in m]
    assert 0.7 < sum(rho) / len(rho) < 1.3  # E_β [π / β] = 1
    with pytest.raises(UsageError, match="is for observations 25, 5 actions; allowed: one for observations 4"):
        ptheta.train("offpac", "CartPole-v1", out=str(tmp_path / "c"), steps=100, behaviour=str(made.path))
    dqn = ptheta.train("dqn", "ptheta/GridWorld-v0", out=str(tmp_path / "d"), steps=100, warmup=50, threads=1)
    with pytest.raises(UsageError, match="is of dqn, which draws no actions with a known probability"):
        ptheta.train("offpac", out=str(tmp_path / "e"), steps=100, behaviour=str(dqn.path))
