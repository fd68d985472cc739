"""Wolpertinger: the nearest actions against a search of all, and what the critic makes of them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ptheta
from ptheta.control import wolpertinger
from ptheta.control.envs import Environment
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect


@settings(max_examples=80, deadline=None)
@given(
    m=st.integers(1, 3), values=st.integers(2, 12), k=st.integers(1, 15), seed=st.integers(0, 10_000),
    edge=st.booleans(),
)  # fmt: skip
def test_the_nearest_are_those_of_a_search_of_all(m, values, k, seed, edge):
    k = min(k, values**m)
    g = torch.Generator().manual_seed(seed)
    a = 2 * torch.rand(20, m, generator=g, dtype=torch.float64) - 1
    if edge:
        a = a.sign() * (0.9 + 0.1 * a.abs())
    line = torch.linspace(-1, 1, values, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * m).view(-1, m)
    found = wolpertinger.nearest(a, values, k)
    assert found.shape == (20, k, m)
    distance = (found - a[:, None]).norm(dim=2).sort(1).values
    torch.testing.assert_close(distance, torch.cdist(a, grid).sort(1).values[:, :k], atol=1e-9, rtol=0)
    to_grid = torch.cdist(found.view(-1, m), grid).min(1)
    assert to_grid.values.max() < 1e-6
    assert all(len(set(row.tolist())) == k for row in to_grid.indices.view(20, k))  # no action twice


def model(env: str, **options) -> wolpertinger.Wolpertinger:
    return wolpertinger.Wolpertinger(env, Environment(env).spaces.to_dict(), hidden=[8], **options)


def test_with_all_actions_near_it_is_the_critics_best():
    """k = A: the proto-action no longer matters, and π is greedy for Q."""
    pi = model("ptheta/GridWorld-v0", k=5)
    s = torch.eye(25)
    with torch.no_grad():
        points = pi.as_point(torch.arange(5))
        q = torch.stack([pi.Q(s, p[None].expand(25, 1)) for p in points], 1)
        assert torch.equal(pi.decide(s), q.argmax(1))


def test_with_one_near_it_is_the_nearest():
    pi = model("Pendulum-v1", k=1, actions=11)
    s = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        proto, done = pi.policy(s), pi.decide(s)
    torch.testing.assert_close(done, (proto * 5).round() / 5)


def test_numbers_of_actions_and_points_are_each_others_inverse():
    pi = model("CartPole-v1")
    assert pi.values == 2 and torch.equal(pi.as_action(pi.as_point(torch.tensor([0, 1, 1]))), torch.tensor([0, 1, 1]))
    assert model("Pendulum-v1", actions=100_000).values == 100_000
    wide = model("Swimmer-v5", actions=100_000)
    assert wide.values == 317  # 317² is the first square from 100,000 on


def test_an_update_by_hand():
    c = wolpertinger.Config(hidden=(8,), actions=101, k=4, warmup=8, batch_size=16)
    method = wolpertinger.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 100)
    for p in method.targets.parameters():
        p.data.add_(0.05)
    net, slow = copy.deepcopy(method.model), copy.deepcopy(method.targets)
    g = torch.Generator().manual_seed(0)
    s, after = torch.randn(2, 16, 3, generator=g).unbind()
    a = torch.randint(101, (16, 1), generator=g) / 50.0 - 1
    batch = Transitions(s, a, torch.randn(16, generator=g), after, torch.rand(16, generator=g) < 0.3)
    loss = method.learn(batch)["loss"]

    line = torch.linspace(-1, 1, 101)
    y = []
    with torch.no_grad():
        for i in range(16):
            four = line[(line - slow.policy(after[i : i + 1])[0, 0]).abs().argsort()[:4]]
            best = max(slow.Q(after[i : i + 1], x.view(1, 1)).item() for x in four)
            y.append(batch.r[i] + 0.99 * (~batch.terminated[i]) * best)
        torch.testing.assert_close(loss, (net.Q(s, a) - torch.stack(y)).square().mean(), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_take_is_refused(tmp_path):
    with pytest.raises(UsageError, match="117,649 candidates a state; allowed: up to 20,000, so a smaller --k"):
        model("HalfCheetah-v5", k=10)
    assert model("HalfCheetah-v5", k=4).k == 4


def test_random_actions_are_of_the_grid(tmp_path):
    c = wolpertinger.Config(hidden=(4,), actions=5, k=2, warmup=100, envs=2, updates=0)
    method = wolpertinger.Method(c, Environment("Pendulum-v1"), 0, detect("cpu", "fp32"), 200)
    next(method.batches(0, 0, 1))
    assert set(method.replay.a[:100].flatten().tolist()) == {-1.0, -0.5, 0.0, 0.5, 1.0}


def test_it_learns_with_the_grid_worlds_five_actions(tmp_path):
    run = ptheta.train(
        "wolpertinger", "ptheta/GridWorld-v0", out=str(tmp_path / "run"), steps=4_000, eval_every=2_000, threads=1,
        gamma=0.9, hidden=(32,), k=5, batch_size=64, envs=4, warmup=500, sigma=0.5, critic_rate=0.003,
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert max(found) > found[0] + 50
