"""DDPG: the deterministic gradient against a problem with a closed form; targets, noise, bounds."""

import copy
import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import ptheta
from ptheta.control import ddpg
from ptheta.control.envs import Environment
from ptheta.control.offpolicy import follow, uphill
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect

# A linear system with quadratic costs: s' = A s + B a + w, r = −(s² + C a²), a = −k s, E w² = W, E s_0² = S.
A, B, C, GAMMA, W, S = 0.9, 0.5, 0.3, 0.9, 0.2, 1.5


def J(k: torch.Tensor) -> torch.Tensor:
    """With c = A − B k, E s_{t+1}² = c² E s_t² + W, so that Σ γ^t E s_t² = (S + γ W / (1 − γ)) / (1 − γ c²)."""
    c = A - B * k
    return -(1 + C * k**2) * (S + GAMMA * W / (1 - GAMMA)) / (1 - GAMMA * c**2)


def q(k: float):
    """q of that policy, −s² − C a² + γ (P (A s + B a)² + …) with v(s) = P s² + const, and its slope in a."""
    P = -(1 + C * k**2) / (1 - GAMMA * (A - B * k) ** 2)
    return lambda s, a: (
        (-(s**2) - C * a**2 + GAMMA * P * (A * s + B * a) ** 2)[:, 0],
        -2 * C * a + 2 * GAMMA * P * B * (A * s + B * a),
    )


class Linear(nn.Module):
    def __init__(self, k: float):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, s):
        return -self.k * s


class Unbounded(nn.Module):
    """A policy that does what its network says."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.within, self.slope = net, lambda y: y, torch.ones_like


@pytest.mark.parametrize("k", [0.1, 0.6, 1.4])
def test_the_estimate_is_the_exact_gradient(k):
    """Of states from the discounted distribution: t is geometric, and so many steps are walked."""
    x = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(J(x), x)
    g = torch.Generator().manual_seed(0)
    n, groups = 400_000, 40
    s = S**0.5 * torch.randn(n, generator=g, dtype=torch.float64)
    until = torch.log(torch.rand(n, generator=g, dtype=torch.float64)).div(math.log(GAMMA)).floor()
    for t in range(int(until.max())):
        s = torch.where(t < until, (A - B * k) * s + W**0.5 * torch.randn(n, generator=g, dtype=torch.float64), s)
    found = []
    for part in s[:, None].chunk(groups):
        policy = Linear(k)
        uphill(Unbounded(policy), q(k), part)
        found.append(-policy.k.grad / (1 - GAMMA))
    found = torch.stack(found)
    error = found.std() / groups**0.5
    assert abs(found.mean() - exact) <= 3 * error < abs(exact)


def test_the_deterministic_gradient_is_the_limit_of_the_stochastic():
    """∫ N(a; μ, σ²) (a − μ) / σ² q(a) da → q'(μ), with an error of σ²: four times less for half the deviation."""
    mu = 0.4
    a = torch.linspace(-12, 12, 200_001, dtype=torch.float64)

    def stochastic(sigma):
        x = mu + sigma * a
        return (torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi) * a / sigma * torch.cos(3 * x + 1)).sum() * (
            a[1] - a[0]
        )

    limit = -3 * math.sin(3 * mu + 1)
    errors = [abs(float(stochastic(s)) - limit) for s in (0.2, 0.1, 0.05, 0.025)]
    assert all(3.5 < b / c < 4.5 for b, c in zip(errors, errors[1:])) and errors[-1] < 0.02


def test_what_follows_a_terminated_step_counts_nothing():
    r, after = torch.tensor([1.0, 2.0]), torch.tensor([10.0, torch.nan])
    torch.testing.assert_close(ddpg.goal(r, torch.tensor([False, True]), after, 0.5), torch.tensor([6.0, 2.0]))


@pytest.fixture
def method():
    c = ddpg.Config(hidden=(16,), warmup=64, batch_size=32)
    return ddpg.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 1000)


def some(b: int = 32) -> Transitions:
    g = torch.Generator().manual_seed(0)
    s, after = torch.randn(2, b, 3, generator=g).unbind()
    a = 2 * torch.rand(b, 1, generator=g) - 1
    return Transitions(s, a, torch.randn(b, generator=g), after, torch.rand(b, generator=g) < 0.3)


def test_an_update_by_hand(method):
    """One step of each rule against the same written out with plain SGD-free arithmetic: targets from the slow copies,
    the critic's step before the actor's, and neither in the other's."""
    for p in method.targets.parameters():  # slow weights that differ
        p.data.add_(0.1)
    model, slow, batch = copy.deepcopy(method.model), copy.deepcopy(method.targets), some()
    method.learn(batch)

    with torch.no_grad():
        y = batch.r + 0.99 * (~batch.terminated) * slow.Q(batch.after, slow.policy(batch.after))
    critic = torch.optim.Adam(model.critic.parameters(), 1e-3)
    nn.functional.mse_loss(model.Q(batch.s, batch.a), y).backward()
    critic.step()
    model.zero_grad()
    actor = torch.optim.Adam(model.policy.parameters(), 1e-3)
    (-model.Q(batch.s, model.policy(batch.s)).mean()).backward()
    actor.step()
    for name, p in method.model.named_parameters():
        torch.testing.assert_close(p, dict(model.named_parameters())[name], msg=name)
    for old, p, new in zip(slow.parameters(), model.parameters(), method.targets.parameters()):
        torch.testing.assert_close(new, old + 0.005 * (p - old))


def test_the_actors_step_leaves_the_critic(method):
    method.optimizers["critic"].param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(method.model)
    method.learn(some())
    assert all(torch.equal(a, b) for a, b in zip(before.critic.parameters(), method.model.critic.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(before.policy.parameters(), method.model.policy.parameters()))


def test_slow_weights_follow():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    before = [p.clone() for p in a.parameters()]
    follow(list(a.parameters()), list(b.parameters()), 0.25)
    for old, fast, slow in zip(before, b.parameters(), a.parameters()):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast)


def test_noise_has_its_deviation_and_judging_has_none(method):
    g = torch.Generator().manual_seed(0)
    s = torch.zeros(1, 3)
    drawn = torch.stack([method.explore(s, g)[0, 0] for _ in range(4000)])
    mean = method.model.policy(s)[0, 0]
    assert abs(drawn.std() - 0.1) < 0.005 and abs(drawn.mean() - mean) < 0.01
    assert method.model.act(np.zeros(3)) == method.model.act(np.zeros(3)) == pytest.approx(2 * mean.item())


def test_ornstein_and_uhlenbeck():
    """Eq. (4): a stationary deviation of σ / sqrt(1 − (1 − κ)²), correlation 1 − κ, and 0 after an episode."""
    c = ddpg.Config(hidden=(4,), noise="ou", sigma=0.05, warmup=1)
    method = ddpg.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 1000)
    g = torch.Generator().manual_seed(0)
    s = torch.zeros(1, 3)
    x = torch.stack([method.explore(s, g)[0, 0] for _ in range(20_000)]).detach()[100:]
    x = x - method.model.policy(s)[0, 0].detach()
    assert abs(x.std() - 0.05 / math.sqrt(1 - 0.85**2)) < 0.01
    assert abs((x[1:] * x[:-1]).mean() / x.square().mean() - 0.85) < 0.03
    method.ended([0])
    assert method.x.abs().max() == 0


def test_the_replay_holds_what_episodes_ended_with():
    """200 steps of the pendulum are truncated: s' of the last is no first observation, and nothing is terminated."""
    c = ddpg.Config(hidden=(4,), warmup=450, envs=2, updates=0)
    method = ddpg.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 1000)
    assert next(method.batches(0, 0, 1)) == 450 == method.replay.size
    s, after = method.replay.s[:450].view(-1, 2, 3), method.replay.after[:450].view(-1, 2, 3)
    same = (s[1:] == after[:-1]).all(2)
    assert (~same).nonzero()[:, 0].tolist() == [199, 199] and not method.replay.terminated.any()
    speed = after[199, :, 2] - s[199, :, 2]
    assert (speed.abs() < 3).all()  # a step of the pendulum and no jump to another episode


@pytest.mark.parametrize("env", ["CartPole-v1", "ptheta/GridWorld-v0"])
def test_it_refuses_actions_that_are_no_vectors(env, tmp_path):
    with pytest.raises(
        UsageError, match="ddpg takes vectors of actions within bounds .* Methods for it: a2c, trpo, rein"
    ):
        ptheta.train("ddpg", env, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class Target(gymnasium.Env):
    """An episode of one step: −|a − s|², within bounds that are not symmetric."""

    observation_space = gymnasium.spaces.Box(0.0, 4.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([0, 0]), np.float32([4, 4]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = self.np_random.uniform(0, 4, 2).astype(np.float32)
        return self.s, {}

    def step(self, action):
        return self.s, -float(np.square(action - self.s).sum()), True, False, {}


def test_it_learns_where_to_act(tmp_path):
    run = ptheta.train(
        "ddpg", Target, out=str(tmp_path / "run"), steps=1_500, eval_every=750, eval_size=50, threads=1, hidden=(32,),
        warmup=200, batch_size=64, learning_rate=0.003, critic_rate=0.003, sigma=0.3,
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert max(found) > -0.3 > found[0] + 1
    a = ptheta.load(run).act(np.float32([1.0, 3.0]))
    assert np.abs(a - [1, 3]).max() < 0.6


def test_where_a_run_starts_from_another_model_the_slow_copy_does_too():
    m = ddpg.Method(ddpg.Config(hidden=(8,)), Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 100)
    other = ddpg.DDPG("Pendulum-v1", m.data.spaces.to_dict(), (8,), 5)
    m.start_from(other)
    for name, p in other.named_parameters():
        assert torch.equal(dict(m.model.named_parameters())[name], p)
        assert torch.equal(dict(m.targets.named_parameters())[name], p)
