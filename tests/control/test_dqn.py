"""Double DQN: its goal by hand, exploration, and what it is for: the bias of a maximum."""

import pytest
import torch

import ptheta
from ptheta.control import dqn
from ptheta.control.envs import Environment
from ptheta.control.replay import Transitions
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect


def test_the_goal_by_hand():
    """Eq. (1): one network chooses, the other judges."""
    fast = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    slow = torch.tensor([[7.0, 3.0, 8.0], [2.0, 6.0, 6.0], [1.0, 1.0, 1.0]])
    r, over = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, False, True])
    torch.testing.assert_close(dqn.goal(r, over, fast, slow, 0.5), torch.tensor([2.5, 3.0, 3.0]))


def test_two_networks_are_not_as_hopeful_as_one():
    """Of actions that are all worth 0, with independent noise: a maximum is too large, the double goal is not."""
    g = torch.Generator().manual_seed(0)
    fast, slow = torch.randn(2, 20_000, 10, generator=g).unbind()
    none = torch.zeros(20_000, dtype=torch.bool)
    double = dqn.goal(torch.zeros(20_000), none, fast, slow, 1.0)
    single = dqn.goal(torch.zeros(20_000), none, slow, slow, 1.0)
    assert abs(double.mean()) < 3 * double.std() / 20_000**0.5
    assert single.mean() == pytest.approx(1.5388, abs=0.02)  # the mean of the largest of ten normal numbers


@pytest.mark.parametrize(("taken", "share"), [(0, 1.0), (75, 0.525), (150, 0.05), (900, 0.05)])
def test_chance_falls_linearly(taken, share):
    c = dqn.Config(hidden=(4,), warmup=1, envs=2)
    method = dqn.Method(c, Environment("ptheta/GridWorld-v0"), 0, detect("cpu", "fp32"), 1000)
    method.taken = taken
    method.envs.envs *= 10_000  # as many draws
    s = torch.eye(25)[[3]].expand(20_000, -1)
    a = method.explore(s, torch.Generator().manual_seed(0))
    best = method.model.decide(s[:1])
    assert (a == best).float().mean() == pytest.approx(1 - share + share / 5, abs=0.015)


def test_it_refuses_vectors_of_actions(tmp_path):
    with pytest.raises(UsageError, match="dqn takes a number of actions to choose from; Pendulum-v1 has .* ddpg"):
        ptheta.train("dqn", "Pendulum-v1", out=str(tmp_path / "run"))


def test_it_finds_its_way_in_the_grid_world(tmp_path):
    run = ptheta.train(
        "dqn", "ptheta/GridWorld-v0", out=str(tmp_path / "run"), steps=12_000, eval_every=3_000, threads=1, gamma=0.9,
        hidden=(32,), learning_rate=0.005, envs=8, updates=2,
    )  # fmt: skip
    found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
    assert max(found) > 90 > found[0] + 50  # the best is 97.5


def test_values_are_means_over_states_that_look_alike():
    """One step in ten is the last: q = 1 + 0.9 γ q. Errors cut to [−1, 1] would find a median, that of going on."""
    c = dqn.Config(hidden=(8,), warmup=1, envs=1, tau=0.1, learning_rate=0.01, epsilon=0.0)
    method = dqn.Method(c, Environment("CartPole-v1"), 0, detect("cpu", "fp32"), 1_000_000)
    b = 40
    s, over = torch.ones(b, 4), torch.arange(b) % 10 == 0
    for _ in range(1500):
        method.learn(Transitions(s, torch.zeros(b, dtype=torch.int64), torch.ones(b), s, over))
    # what is chosen next is action 0, which grows, once it is above the other
    assert method.model.Q(s[:1])[0, 0].item() == pytest.approx(1 / (1 - 0.9 * c.gamma), rel=0.1)
