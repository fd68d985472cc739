"""TRPO: the surrogate and its bound on the grid world, exactly; the step that keeps to its region."""

import copy

import pytest
import torch
from grid_samples import WORLD, some_theta
from hypothesis import given, settings
from hypothesis import strategies as st

import ptheta
from ptheta.control import trpo
from ptheta.control.envs import Environment
from ptheta.control.gridworld import GridWorld, book, exact, softmax
from ptheta.control.policies import Categorical, Gaussian
from ptheta.data.order import generator
from ptheta.engine.hardware import detect
from ptheta.nets.mlp import MLP

GAMMA = WORLD.gamma


def surrogate(world: GridWorld, pi: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """L of eq. (2)."""
    e = exact(world, pi)
    return e.first_value + (e.rho[:, None] * new * (e.q - e.v[:, None])).sum()


def kl(pi, new):
    return (pi * (pi.log() - new.log())).sum(1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), near=st.floats(0.01, 2.0), gamma=st.sampled_from([0.5, 0.9, 0.97]))
def test_the_difference_of_two_policies_and_its_bound(seed, near, gamma):
    """Eqs. (1) and (3), for policies near and far."""
    world = book(gamma)
    theta = some_theta(seed)
    pi, new = softmax(theta), softmax(theta + near * some_theta(seed + 1))
    old, after = exact(world, pi), exact(world, new)
    A = old.q - old.v[:, None]
    torch.testing.assert_close(after.first_value, old.first_value + (after.rho[:, None] * new * A).sum())
    penalty = 4 * A.abs().max() * gamma / (1 - gamma) ** 2 * kl(pi, new).max()
    assert after.first_value >= surrogate(world, pi, new) - penalty - 1e-9


def test_the_surrogate_is_j_to_first_order():
    theta, way = some_theta(0), some_theta(9)
    pi = softmax(theta)

    def J(t):
        return exact(WORLD, softmax(theta + t * way)).first_value

    def L(t):
        return surrogate(WORLD, pi, softmax(theta + t * way))

    torch.testing.assert_close(J(0.0), L(0.0))
    x, y = torch.zeros((), dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64)
    y.requires_grad_()
    slopes = torch.autograd.grad(J(x), x)[0], torch.autograd.grad(L(y), y)[0]
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs() > 1e-3
    gaps = [(J(t) - L(t)).abs() for t in (0.1, 0.05)]
    assert 3 < gaps[0] / gaps[1] < 5  # of second order, and there


def made(kind: str, seed: int = 0):
    net = MLP(generator(seed, 0, "net"), 3, (8,), 2)
    pi = (Categorical(net) if kind == "discrete" else Gaussian(net, 2, 0.6)).double()
    g = generator(seed, 1, "samples")
    s = torch.randn(200, 3, generator=g, dtype=torch.float64)
    with torch.no_grad():
        a = pi.draw(pi.given(s), g)
    return pi, s, a, torch.randn(200, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
@pytest.mark.parametrize("delta", [1e-4, 1e-2, 0.3])
def test_a_step_keeps_to_the_region_and_grows_the_surrogate(kind, delta):
    for seed in range(5):
        pi, s, a, A = made(kind, seed)
        before = copy.deepcopy(pi)
        said = trpo.trust_region_step(pi, s, a, A, delta, damping=1e-3)
        old = tuple(x.detach() for x in before.given(s))
        with torch.no_grad():
            divergence = before.kl(old, pi.given(s)).mean()
            grown = trpo.surrogate(pi.log_prob(pi.given(s), a), before.log_prob(old, a), A) - A.mean()
        assert said.tries > 0 and 0 < divergence <= delta and grown > 0
        torch.testing.assert_close(said.kl, divergence)
        torch.testing.assert_close(said.improved, grown)
    if delta <= 1e-2 and kind == "vectors":
        assert divergence > 0.3 * delta  # the longest step, or one of the first shorter ones


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_what_is_no_longer_visited_is_not_forgotten(kind):
    """Eq. (5): where samples are all at one place, the policy elsewhere changes little too."""
    for seed in range(5):
        pi, s, a, A = made(kind, seed)
        s, elsewhere, delta = s[:1] + 0.03 * s, s, 0.01
        free, bound = copy.deepcopy(pi), copy.deepcopy(pi)
        trpo.trust_region_step(free, s, a, A, delta, damping=1e-3)
        said = trpo.trust_region_step(bound, s, a, A, delta, damping=1e-3, past=elsewhere)
        with torch.no_grad():

            def changed(new, at, pi=pi):
                return pi.kl(pi.given(at), new.given(at)).mean()

            assert changed(free, s) <= delta < changed(free, elsewhere) / 5
            assert said.tries > 0
            torch.testing.assert_close(said.kl, max(changed(bound, s), changed(bound, elsewhere)))
            assert said.kl <= delta


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_a_search_that_fails_leaves_every_bit(kind, monkeypatch):
    pi, s, a, A = made(kind)
    before = [p.clone() for p in pi.parameters()]
    said = trpo.trust_region_step(pi, s, a, torch.zeros_like(A), 0.01)  # nothing to gain
    assert said.tries == 0 and all(torch.equal(p, b) for p, b in zip(pi.parameters(), before))
    monkeypatch.setattr(type(pi), "kl", lambda self, old, new: kinds[type(self)](self, old, new) + 1.0)
    said = trpo.trust_region_step(pi, s, a, A, 0.01)  # no step is allowed
    assert said.tries == 0 and float(said.kl) == 0 and all(torch.equal(p, b) for p, b in zip(pi.parameters(), before))


kinds = {Categorical: Categorical.kl, Gaussian: Gaussian.kl}


def test_the_deviation_is_among_what_the_step_moves_and_the_critic_is_not():
    c = trpo.Config(envs=4, rollout=64, critic_epochs=0)
    method = trpo.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 1000)
    fresh = copy.deepcopy(method.model)
    logs = method.update(next(method.batches(0, 0, 1)))
    assert logs["tries"] > 0 and not torch.equal(method.model.policy.omega, fresh.policy.omega)
    assert all(torch.equal(a, b) for a, b in zip(method.model.value.parameters(), fresh.value.parameters()))


def test_every_iteration_of_a_run_keeps_to_delta(tmp_path):
    run = ptheta.train("trpo", "CartPole-v1", out=str(tmp_path / "run"), steps=8_000, eval_every=4_000, threads=1,
                       envs=8, rollout=32, delta=0.02, seed=1)  # fmt: skip
    logged = [m for m in run.metrics() if "kl" in m]
    assert len(logged) > 20 and all(0 <= m["kl"] <= 0.02 * max(0.01, 1 - (m["step"] - 256) / 8_000) for m in logged)
    assert sum(m["kl"] > 0.005 for m in logged) > 10
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert found[-1] > 2 * found[0]


def test_gamma_grows_over_half_of_a_run():
    """Eq. (6)."""

    def gammas(**fields):
        method = trpo.Method(trpo.Config(envs=1, **fields), Environment("CartPole-v1"), 0, detect("cpu", "fp32"), 1000)
        found = []
        for method.taken in (0, 250, 500, 1000, 1200):
            found.append(method.gamma)
        return found

    assert gammas(gamma=0.9, gamma_last=0.99) == pytest.approx([0.9, 1 - 0.1**1.5, 0.99, 0.99, 0.99])
    assert gammas(gamma=0.95, gamma_last=0.0) == pytest.approx([0.95] * 5)
    assert gammas(gamma=1.0) == [1.0] * 5
