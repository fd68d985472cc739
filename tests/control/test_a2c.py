"""A2C: its loss against the same written out, by finite differences, and its bootstrapping."""

import math

import pytest
import torch

import ptheta
from ptheta.control import a2c
from ptheta.control.envs import Environment
from ptheta.engine.errors import InputError
from ptheta.engine.hardware import detect


def test_the_gradient_is_that_of_three_terms():
    g = torch.Generator().manual_seed(0)
    log_pi, A, V, R, H = torch.randn(5, 40, generator=g, dtype=torch.float64).unbind()
    for x in (log_pi, V, H):
        x.requires_grad_()
    a2c.loss(log_pi, A, V, R, H, 0.7, 0.02).backward()
    torch.testing.assert_close(log_pi.grad, -A / 40)
    torch.testing.assert_close(V.grad, 0.7 * 2 * (V - R).detach() / 40)
    torch.testing.assert_close(H.grad, torch.full((40,), -0.02 / 40, dtype=torch.float64))


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_advantages_of_a_rollout_by_hand(lam, monkeypatch):
    """Every step of every environment: V of what an episode was cut with, 0 where it was terminated, nothing from the
    episode after."""
    c = a2c.Config(envs=3, rollout=30, lam=lam, hidden=(8,), normalise_rewards=False, normalise_observations=False)
    method = a2c.Method(c, Environment("CartPole-v1"), 0, detect("cpu", "fp32"), 1000)
    for env in method.envs.envs:
        env._max_episode_steps = 12  # some are cut, some fall
    batch = next(method.batches(0, 0, 1))
    assert batch.cut and batch.terminated.any()
    seen = {}
    whole = a2c.loss
    monkeypatch.setattr(
        a2c, "loss", lambda lp, A, V, R, H, v, e: (seen.update(A=A, R=R), whole(lp, A, V, R, H, v, e))[1]
    )
    with torch.no_grad():
        V = method.model.V(batch.observations)
        cut = dict(zip(batch.cut, method.model.V(batch.cut_with)))
    method.update(batch)
    A = torch.zeros(30, 3)
    for e in range(3):
        for t in reversed(range(30)):
            if batch.terminated[t, e]:
                after, more = 0.0, 0.0
            elif batch.truncated[t, e]:
                after, more = cut[(t, e)], 0.0
            else:
                after, more = V[t + 1, e], (A[t + 1, e] if t < 29 else 0.0)
            A[t, e] = batch.rewards[t, e] + 0.99 * after - V[t, e] + 0.99 * lam * more
    torch.testing.assert_close(seen["A"].view(30, 3), A, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["R"].view(30, 3), A + V[:-1], rtol=1e-4, atol=1e-5)


def test_one_sample_gives_no_nan(tmp_path):
    run = ptheta.train(
        "a2c", "CartPole-v1", out=str(tmp_path / "run"), steps=20, eval_every=20, envs=1, rollout=1, standardise=True,
        threads=1,
    )  # fmt: skip
    assert all(torch.isfinite(p).all() for p in ptheta.load(run).parameters())


def test_the_probability_is_that_of_the_action_before_it_was_cut(monkeypatch):
    """Of a policy far outside of the bounds, actions that are done all lie on them, and those that are learned from do
    not."""
    c = a2c.Config(envs=2, rollout=8, hidden=(4,))
    method = a2c.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 1000)
    with torch.no_grad():
        method.model.policy.net.b[-1].fill_(30.0)
    batch = next(method.batches(0, 0, 1))
    assert (batch.actions > 20).all()
    mean = method.model.policy.given(batch.observations[:-1].flatten(0, 1))[0]
    assert (batch.actions.flatten(0, 1) - mean).abs().mean() < 2


def test_it_learns_the_pole(tmp_path):
    run = ptheta.train(
        "a2c", "CartPole-v1", out=str(tmp_path / "run"), steps=8_000, eval_every=4_000, threads=1, seed=1
    )
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert max(found) > 5 * found[0] and max(found) > 100


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """The loss is finite, its gradient is not: it is told as the loss of that step, before it is saved."""
    whole, count = a2c.loss, [0]

    def breaks(log_pi, *rest):
        count[0] += 1
        return whole(log_pi, *rest) + (0 * (log_pi - log_pi.detach()).abs().sqrt().sum() if count[0] == 6 else 0)

    monkeypatch.setattr(a2c, "loss", breaks)
    with pytest.raises(InputError, match="the loss of step 192 is not finite; the checkpoint of step 128 is kept"):
        ptheta.train(
            "a2c", "CartPole-v1", out=str(tmp_path / "run"), steps=1_280, eval_every=64, envs=4, eval_size=1, threads=1
        )  # fmt: skip


def test_the_deviation_stays_above_its_least_and_is_what_it_was_when_loaded(tmp_path):
    spaces = Environment("Pendulum-v1").spaces.to_dict()
    model = a2c.A2C("Pendulum-v1", spaces, (8,), sigma=0.3)
    s = torch.randn(4, 3)
    for omega in (-0.7, -1e6):
        with torch.no_grad():
            model.policy.omega.fill_(omega)
            sigma = model.policy.given(s)[1].exp()
        assert (sigma > math.exp(-2) * 0.999).all()
        model.save_pretrained(tmp_path / str(omega))
        again = a2c.A2C.from_pretrained(tmp_path / str(omega))
        assert torch.equal(again.policy.given(s)[1].exp(), sigma)
    torch.testing.assert_close(sigma, torch.full((4, 1), math.exp(-2)))
