"""Judging against plain loops of gymnasium, and that it leaves everything as it was."""

import copy
import math

import gymnasium
import numpy as np
import pytest
import torch
from environments_by_hand import Dot, Scripted

from ptheta.control import episodes
from ptheta.control.a2c import A2C
from ptheta.control.envs import Environment, Envs
from ptheta.data.order import generator


def model_for(environment: Environment, seed: int = 0) -> A2C:
    """With weights that tell actions apart, and moments that are not trivial."""
    model = A2C(environment.name, environment.spaces.to_dict(), (8,), seed=seed).eval()
    g = generator(seed, 0, "moments")
    if not environment.spaces.pixels:
        model.moments.update(0.3 + 0.5 * torch.randn(50, *environment.spaces.observation, generator=g))
    with torch.no_grad():
        for p in model.policy.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=g))
    return model


@pytest.fixture
def seeds(monkeypatch):
    """What environments were reset with, in order, without those that went on."""
    found = []
    begun = gymnasium.Env.reset

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            found.append(seed)
        return begun(self, seed=seed, options=options)

    monkeypatch.setattr(gymnasium.Env, "reset", reset)
    return found


def plain(make, model: A2C, seed: int) -> tuple[float, int]:
    """One episode, by `act` alone."""
    env = make()
    s, _ = env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        s, reward, over, cut, _ = env.step(model.act(s))
        total, length, ended = total + float(reward), length + 1, over or cut
    env.close()
    return total, length


def cartpole():
    return gymnasium.make("CartPole-v1", max_episode_steps=60)


def pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=30)


def lake():
    return gymnasium.make("FrozenLake-v1", is_slippery=True)


def hopper():
    return gymnasium.make("Hopper-v5", max_episode_steps=40)


@pytest.mark.parametrize("make", [cartpole, pendulum, lake, hopper, Dot])
def test_a_judgement_is_a_plain_loops(make, seeds):
    environment = Environment(make)
    model = model_for(environment)
    returns, lengths = episodes.judged(model, environment, "valid", 20)  # more than are stepped at once
    used = [*seeds]
    assert len(used) == 20 == len(set(used))
    want = [plain(make, model, seed) for seed in used]
    # rows are multiplied 16 at a time here and one at a time there, and a vector's last digits may differ
    tolerance = 0 if environment.spaces.actions else 1e-4
    assert lengths.tolist() == [n for _, n in want]
    np.testing.assert_allclose(returns.numpy(), [total for total, _ in want], rtol=tolerance)
    assert returns.std() > 0 or make is lake


def test_the_first_episodes_are_the_same_whatever_their_number(seeds):
    environment = Environment(cartpole)
    model = model_for(environment)
    found = {}
    for n in (1, 5, 16, 17, 40):
        seeds.clear()
        found[n] = (episodes.judged(model, environment, "test", n)[0].tolist(), [*seeds])
    for returns, used in found.values():
        n = len(returns)
        assert used == found[40][1][:n] and returns == found[40][0][:n]
    assert len(set(found[40][1])) == 40


def test_splits_and_training_have_other_seeds(seeds):
    environment = Environment(cartpole)
    model = model_for(environment)
    used = {}
    for split in environment.splits:
        seeds.clear()
        episodes.judged(model, environment, split, 40)
        used[split] = {*seeds}
    for seed in range(40):  # whatever seed one trains with
        seeds.clear()
        Envs(environment, 4, seed)
        used[seed] = {*seeds}
    everything = [seed for found in used.values() for seed in found]
    assert len(everything) == 40 * 2 + 40 * 4 == len(set(everything))


def test_to_judge_and_to_draw_change_nothing():
    environment = Environment(cartpole)
    model = model_for(environment).train()
    before = copy.deepcopy(model.state_dict())
    random = torch.random.get_rng_state()
    numbers = str(np.random.get_state())
    first = episodes.judged(model, environment, "valid", 3)
    episodes.drawn(model, environment)
    again = episodes.judged(model, environment, "valid", 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert model.training and torch.equal(torch.random.get_rng_state(), random)
    assert str(np.random.get_state()) == numbers
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_rewards_are_the_environments_own_without_discount():
    script = [(1.5, False, False), (-4.0, False, False), (100.0, False, True)]
    environment = Environment(lambda: Scripted(script))
    returns, lengths = episodes.judged(model_for(environment), environment, "valid", 3)
    assert returns.tolist() == [97.5] * 3 and lengths.tolist() == [3] * 3


def test_figures_are_the_mean_and_its_error():
    returns = torch.tensor([1.0, 2.0, 6.0])
    found = episodes.figures(returns, torch.tensor([4.0, 4.0, 4.0]))
    assert found["return_mean"].mean == 3 and found["return_mean"].n == 3
    assert found["return_mean"].standard_error == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))
    assert (found["length_mean"].mean, found["length_mean"].standard_error) == (4, 0)


# ---------------------------------------------------------------- what is drawn


def test_a_trace_is_the_first_episode(seeds):
    environment = Environment(cartpole)
    model = model_for(environment)
    said = episodes.trace(model, environment)
    env = cartpole()
    s, _ = env.reset(seed=seeds[0])
    for t, (o, a, reward) in enumerate(zip(said["observations"], said["actions"], said["rewards"], strict=True)):
        assert np.array_equal(o, s) and a == [model.act(s)] and reward == 1
        s, _, over, cut, _ = env.step(model.act(s))
        assert (over or cut) == (t + 1 == len(said["rewards"]))
    returns, lengths = episodes.judged(model, environment, "valid", 1)
    assert len(said["rewards"]) == lengths[0] and said["rewards"].sum() == returns[0]


def test_a_trace_of_an_endless_episode_ends():
    environment = Environment(lambda: Scripted([(1.0, False, False)] * 1200))
    said = episodes.trace(model_for(environment), environment, limit=50)
    assert len(said["rewards"]) == 50 == said["rewards"].sum()


@pytest.mark.parametrize("make", [cartpole, pendulum, Dot])
def test_a_picture_shows_observations_actions_and_the_return(make):
    environment = Environment(make)
    model = model_for(environment)
    said = episodes.trace(model, environment)
    axes = episodes.drawn(model, environment).axes
    shown = np.asarray(axes[2].lines[0].get_ydata(), float)
    np.testing.assert_allclose(shown, np.cumsum(said["rewards"]))
    assert [a.get_ylabel() for a in axes] == ["observation", "action", "return so far"]
    total = f"{said['rewards'].sum():.4g}"
    assert axes[0].get_title() == (
        f"a2c on {environment.name}: an episode of {len(said['rewards'])} steps, return {total}"
    )
    assert len(axes[0].lines) == min(8, said["observations"].shape[1])
