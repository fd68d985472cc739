"""Sarsa finds the values of the policy that acts, Q-learning the best ones whoever acts; updates one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.gridworld import GridWorld, exact, value_iteration
from ptheta.control.tabular import epsilon_greedy, learn, of_policy, update
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError

SMALL = GridWorld(2, 3, (1, 2), ((0, 1),), 0.8)


def uniform(world: GridWorld) -> torch.Tensor:
    return torch.full((world.states, 5), 0.2, dtype=torch.float64)


def test_sarsa_finds_the_values_of_the_policy_that_acts():
    pi = uniform(SMALL)
    q = learn(SMALL, of_policy(pi), 4000, generator(0, 0, "walk"), off_policy=False)
    assert (q - exact(SMALL, pi).q).abs().max() < 0.1


def test_q_learning_finds_the_best_values_while_it_acts_at_random():
    v, best = value_iteration(SMALL)
    q = learn(SMALL, of_policy(uniform(SMALL)), 2000, generator(0, 0, "walk"), off_policy=True)
    assert (q - best).abs().max() < 0.05
    assert torch.equal(best.gather(1, q.argmax(1, keepdim=True))[:, 0].round(decimals=9), v.round(decimals=9))


def test_sarsa_that_is_greedy_for_its_own_values_nears_the_best_policy_that_draws_so():
    epsilon = 0.4
    q = learn(SMALL, epsilon_greedy(epsilon), 5000, generator(0, 0, "walk"), off_policy=False, walkers=8)
    pi = torch.full_like(q, epsilon / 5)
    pi.scatter_add_(1, q.argmax(1, keepdim=True), torch.full_like(q[:, :1], 1 - epsilon))
    own = exact(SMALL, pi)
    often = own.d > 0.05  # what is seldom tried keeps the values of worse policies before
    assert (own.q - q)[often].abs().max() < 0.3, "the values of the policy that it has come to"
    assert (own.v > exact(SMALL, uniform(SMALL)).v + 0.5).all()


def test_the_same_seed_walks_the_same_way():
    one, two, three = (
        learn(SMALL, epsilon_greedy(0.3), 50, generator(seed, 0, "walk"), off_policy=True) for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, three)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 1000), st.sampled_from([0.6, 0.7, 1.0]))
def test_updates_are_made_one_after_another(entries, seed, omega):
    g = generator(seed, 0, "goals")
    q, N = torch.randn(2, 3, generator=g, dtype=torch.float64), torch.randint(4, (2, 3), generator=g).double()
    goal = torch.randn(len(entries), generator=g, dtype=torch.float64)
    want, counts = q.clone().view(-1), N.clone().view(-1)
    for entry, y in zip(entries, goal):
        want[entry] += (1 + counts[entry]) ** -omega * (y - want[entry])
        counts[entry] += 1
    update(q, N, torch.tensor(entries), goal, omega)
    torch.testing.assert_close(q.view(-1), want)
    assert torch.equal(N.view(-1), counts)


def test_with_omega_1_an_entry_is_the_mean_of_its_goals():
    q, N, goals = torch.full((1, 1), 9.0).double(), torch.zeros(1, 1).double(), torch.tensor([1.0, 2.0, 6.0]).double()
    update(q, N, torch.zeros(3, dtype=torch.long), goals, 1.0)
    assert q.item() == pytest.approx(3)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="epsilon = 1.5 is impossible; allowed: from 0 to 1"):
        epsilon_greedy(1.5)
    with pytest.raises(UsageError, match="omega = 0.5 is impossible; allowed: above 0.5, up to 1"):
        learn(SMALL, epsilon_greedy(0.1), 1, generator(0, 0, "walk"), off_policy=True, omega=0.5)
