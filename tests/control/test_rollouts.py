"""Rollouts against plain loops over the environments, and the values that follow by eq. (1) against cases by hand."""

import gc
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from environments_by_hand import Dot, Scripted

from ptheta.control.envs import Environment, Envs
from ptheta.control.returns import advantages, discounted
from ptheta.control.rollouts import Rollout, collect, collect_episodes
from ptheta.data.order import generator
from ptheta.engine.errors import InputError

CPU = torch.device("cpu")


def short_cartpole():
    return gymnasium.make("CartPole-v1", max_episode_steps=15)


def policy(seed: int = 0):
    """Draws by what is observed: any step that sees something else goes another way."""
    g = generator(seed, 0, "policy")
    w = torch.tensor([0.0, 0.0, -2.0, -0.3])  # rather the wrong way
    return lambda s: (s @ w + torch.randn(len(s), generator=g) > 0).long()


def test_a_rollout_is_a_plain_loops():
    T, E = 60, 3
    environment = Environment(short_cartpole)
    found = collect(Envs(environment, E, 5), T, policy(), CPU)
    envs, draw = Envs(environment, E, 5), policy()
    for t in range(T):
        s = torch.from_numpy(envs.observations.copy())
        a = draw(s)
        step = envs.step(a.numpy())
        assert torch.equal(found.observations[t], s) and torch.equal(found.actions[t], a)
        for name in ("rewards", "terminated", "truncated"):
            assert np.array_equal(getattr(found, name)[t], getattr(step, name))
        cut = {(t, e): last for e, last in step.ended_with.items() if step.truncated[e]}
        assert {at for at in found.cut if at[0] == t} == cut.keys()
        for at, last in cut.items():
            assert np.array_equal(found.cut_with[found.cut.index(at)], last)
    assert np.array_equal(found.observations[T], envs.observations)
    assert found.finished == [(total, n) for _, total, n in envs.finished]
    assert found.alive.all() and found.taken == T * E
    assert found.terminated.any() and len(found.cut) >= 2 and len(found.cut_with) == len(found.cut)


def test_rollouts_go_on_where_the_last_ended():
    environment = Environment(short_cartpole)
    envs, draw = Envs(environment, 3, 5), policy()
    parts = [collect(envs, T, draw, CPU) for T in (1, 7, 16)]
    whole = collect(Envs(environment, 3, 5), 24, policy(), CPU)
    assert torch.equal(torch.cat([part.observations[:-1] for part in parts]), whole.observations[:-1])
    assert torch.equal(parts[-1].observations[-1], whole.observations[-1])
    for name in ("actions", "rewards", "terminated", "truncated", "cut_with"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert [x for part in parts for x in part.finished] == whole.finished


def test_vectors_and_pictures_keep_their_shapes():
    pendulum = collect(Envs(Environment("Pendulum-v1"), 2, 0), 5, lambda s: s[:, :1] * 3, CPU)
    assert torch.equal(pendulum.actions, 3 * pendulum.observations[:-1, :, :1])  # as drawn: not clipped
    dots = collect(Envs(Environment(Dot), 2, 0), 9, lambda s: torch.zeros(len(s)).long(), CPU)
    assert dots.observations.shape == (10, 2, 3, 16, 16) and dots.observations.dtype == torch.uint8
    assert dots.cut_with.shape == (0, 3, 16, 16) and dots.cut_with.dtype == torch.uint8
    assert dots.terminated[7].all() and dots.terminated.sum() == 2


# ---------------------------------------------------------------- what follows a step

ON, OVER, CUT = (0.0, False, False), (0.0, True, False), (0.0, False, True)


def rollout(script: list, T: int, E: int = 1) -> Rollout:
    return collect(Envs(Environment(lambda: Scripted(script)), E, 0), T, lambda s: torch.zeros(len(s)).long(), CPU)


def V(s: torch.Tensor) -> torch.Tensor:
    """10 times the episode and the steps in it: another number for every observation."""
    return s[..., 0] * 10 + s[..., 1] + 0.5


def test_what_follows_is_the_value_of_what_followed():
    """Steps 0, 1, 2 end in a time limit; 3, 4, 5 in another; 6, 7 go on."""
    batch = rollout([ON, ON, CUT], 8)
    steps = batch.steps(V(batch.observations), V(batch.cut_with), batch.rewards)
    assert batch.cut == [(2, 0), (5, 0)] and batch.cut_with.tolist() == [[0, 3], [1, 3]]
    assert steps.next_values[:, 0].tolist() == [1.5, 2.5, 3.5, 11.5, 12.5, 13.5, 21.5, 22.5]
    # and not 10.5 and 20.5 at the cuts, which are of the episodes after
    A = advantages(steps, V(batch.observations)[:-1], gamma=1, lam=0)
    assert A.flatten().tolist() == [1] * 8


def test_nothing_follows_a_terminal_step():
    batch = rollout([ON, OVER], 5)
    steps = batch.steps(V(batch.observations), V(batch.cut_with), batch.rewards)
    assert batch.cut == [] and batch.cut_with.shape == (0, 2)
    assert steps.bootstrap[:, 0].tolist() == [1.5, 0, 11.5, 0, 21.5]
    assert discounted(steps, 0.5)[:, 0].tolist() == [0, 0, 0, 0, 0.5 * 21.5]


def test_each_environment_has_its_own_ends():
    """Environments of different scripts, and rewards that are not those that were collected."""
    scripts = iter([[ON], [ON, CUT], [ON, ON, OVER], [OVER], [ON, ON, ON, CUT]])
    envs = Envs(Environment(lambda: Scripted(next(scripts))), 4, 0)
    batch = collect(envs, 4, lambda s: torch.zeros(4).long(), CPU)
    other = torch.arange(16.0).view(4, 4)
    steps = batch.steps(V(batch.observations), V(batch.cut_with), other)
    assert torch.equal(steps.rewards, other)
    assert steps.bootstrap.T.tolist() == [
        [1.5, 2.5, 11.5, 12.5],
        [1.5, 2.5, 0, 11.5],
        [0, 0, 0, 0],
        [1.5, 2.5, 3.5, 4.5],
    ]
    assert set(batch.cut) == {(1, 0), (3, 0), (3, 3)}


# ---------------------------------------------------------------- whole episodes


def test_episodes_are_plain_loops_and_one_of_each():
    E = 5
    environment = Environment(short_cartpole)
    envs = Envs(environment, E, 3)
    for _ in range(3):
        state = envs.state_dict()
        found = collect_episodes(envs, policy(), CPU)
        twin, draw, going = Envs(environment, E, 0), policy(), set(range(E))
        twin.load_state_dict(state)
        totals, t = [0.0] * E, 0
        while going:
            s = torch.from_numpy(twin.observations.copy())
            a = draw(s)
            assert torch.equal(found.observations[t], s) and torch.equal(found.actions[t], a)
            assert set(np.flatnonzero(found.alive[t]).tolist()) == going
            step = twin.step(a.numpy(), np.array([e in going for e in range(E)]))
            for e in range(E):
                totals[e] += float(found.rewards[t, e])
                assert found.rewards[t, e] == (1.0 if e in going else 0.0)
                assert found.terminated[t, e] == step.terminated[e] and found.truncated[t, e] == step.truncated[e]
                if e in step.ended_with:
                    going.remove(e)
                    if step.truncated[e]:
                        assert np.array_equal(found.cut_with[found.cut.index((t, e))], step.ended_with[e])
            t += 1
        assert len(found.rewards) == t and len(found.observations) == t + 1
        ends = found.terminated | found.truncated
        assert (ends.sum(0) == 1).all() and len(found.finished) == E
        lengths = found.alive.sum(0)
        assert all(ends[lengths[e] - 1, e] and found.alive[: lengths[e], e].all() for e in range(E))
        assert sorted(found.finished) == sorted((totals[e], int(lengths[e])) for e in range(E))
        assert found.taken == lengths.sum() and len(set(lengths.tolist())) > 1
        assert not envs.lengths.any() and envs.finished == []


def test_an_episode_is_whole_though_one_was_under_way():
    envs = Envs(Environment(short_cartpole), 4, 0)
    collect(envs, 6, policy(), CPU)
    assert envs.lengths.any()
    found = collect_episodes(envs, lambda s: torch.ones(len(s)).long(), CPU)
    assert (found.alive.sum(0) >= 8).all()  # whoever only pushes to the right falls after 8 steps or more
    assert [n for _, n in found.finished] == sorted(found.alive.sum(0).tolist())


def test_episodes_of_unequal_length_count_what_was_lived():
    scripts = iter([[ON], [ON, (3.0, False, True)], [(5.0, True, False)], [ON, ON, ON, (1.0, True, False)]])
    envs = Envs(Environment(lambda: Scripted(next(scripts))), 3, 0)
    found = collect_episodes(envs, lambda s: torch.zeros(3).long(), CPU)
    assert found.alive.T.int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert found.rewards.T.tolist() == [[0, 3, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]]
    assert found.cut == [(1, 0)] and found.cut_with.tolist() == [[0, 2]] and found.taken == 7
    assert sorted(found.finished) == [(1, 4), (3, 2), (5, 1)]


def test_an_episode_without_an_end_is_refused(monkeypatch):
    from ptheta.control import envs as module

    monkeypatch.setattr(module, "LONGEST", 30)
    envs = Envs(Environment(lambda: Scripted([ON] * 99)), 2, 0)
    with pytest.raises(InputError, match="has not ended after 30 steps"):
        collect_episodes(envs, lambda s: torch.zeros(2).long(), CPU)


def test_nothing_is_kept_of_a_rollout_that_is_forgotten():
    envs = Envs(Environment(short_cartpole), 2, 0)
    for gather in (lambda: collect(envs, 40, policy(), CPU), lambda: collect_episodes(envs, policy(), CPU)):
        batch = gather()
        gone = [weakref.ref(batch), *(weakref.ref(t) for t in (batch.observations, batch.actions, batch.cut_with))]
        assert not batch.observations.is_inference() and not batch.actions.requires_grad
        del batch
        gc.collect()
        assert [ref() for ref in gone] == [None] * 4 and envs.finished == []
