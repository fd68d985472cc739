r"""Sarsa and Q-learning with a table: what policy methods are defined against, on the grid world.

G. Rummery and M. Niranjan, "On-Line Q-Learning Using Connectionist Systems", Cambridge University 1994 (Sarsa).
C. Watkins and P. Dayan, "Q-Learning", Machine Learning 8, 1992.
S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, chapter 7.

After a step from s by a to s' with reward r, and the action a' that is taken there,

    q(s, a) ← q(s, a) + α ( r + γ q(s', a') − q(s, a) )                                                          (1)

is Sarsa: its fixed point is q_π of the policy that acts. Where that is ε-greedy for q itself,

    π(a | s) = 1 − ε + ε / A for the best a, ε / A for the others                                                (2)

it is the best of the policies that draw so. Q-learning looks at the best action in place of the one that is taken,

    q(s, a) ← q(s, a) + α ( r + γ \max_b q(s', b) − q(s, a) )                                                     (3)

and finds q of the best policy whoever acts, as long as everything is tried again and again and α falls: here

    α = (1 + N(s, a))^{−ω},   1/2 < ω ≤ 1                                                                        (4)

after N updates of that entry. W walkers go side by side; updates of one entry in one step are made one after another.

| symbol | shape | here |
|---|---|---|
| q, N | (S, A) | float64 |
| s, a, r | (W,) | walkers start in cells drawn alike; nothing ends |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptheta.control.gridworld import GridWorld
from ptheta.engine.errors import UsageError

Act = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # (q, s, g) → a


def epsilon_greedy(epsilon: float) -> Act:
    """Eq. (2). Raises UsageError for an ε that is no share."""
    if not 0 <= epsilon <= 1:
        raise UsageError(f"epsilon = {epsilon} is impossible; allowed: from 0 to 1.")

    def act(q: Float[Tensor, "S A"], s: Int[Tensor, " W"], g: torch.Generator) -> Int[Tensor, " W"]:
        drawn = torch.randint(q.shape[1], s.shape, generator=g)
        return torch.where(torch.rand(s.shape, generator=g) < epsilon, drawn, q[s].argmax(1))

    return act


def of_policy(policy: Float[Tensor, "S A"]) -> Act:
    """Actions of a policy that stays as it is."""

    def act(q: Float[Tensor, "S A"], s: Int[Tensor, " W"], g: torch.Generator) -> Int[Tensor, " W"]:
        return torch.multinomial(policy[s], 1, generator=g)[:, 0]

    return act


def learn(
    world: GridWorld, act: Act, steps: int, g: torch.Generator, off_policy: bool, walkers: int = 64, omega: float = 0.7
) -> Float[Tensor, "S A"]:
    """q by eq. (1), or by eq. (3) if `off_policy`, after so many steps of every walker."""
    if not 0.5 < omega <= 1:
        raise UsageError(f"omega = {omega} is impossible; allowed: above 0.5, up to 1.")
    P, r = world.matrices()
    after = P.argmax(2)  # steps do not draw
    q, N = torch.zeros_like(r), torch.zeros_like(r)
    s = torch.randint(world.states, (walkers,), generator=g)
    a = act(q, s, g)
    for _ in range(steps):
        t, reward = after[s, a], r[s, a]
        b = act(q, t, g)
        seen = q[t].max(1).values if off_policy else q[t, b]
        update(q, N, s * q.shape[1] + a, reward + world.gamma * seen, omega)
        s, a = t, b
    return q


def update(
    q: Float[Tensor, "S A"], N: Float[Tensor, "S A"], entry: Int[Tensor, " W"], goal: Tensor, omega: float
) -> None:
    """Every entry towards its goals, one after another where it has several, by eq. (4), in place."""
    order = entry.argsort(stable=True)
    entry, goal = entry[order], goal[order]
    values, counts = q.view(-1), N.view(-1)
    while len(entry):
        first = torch.ones_like(entry, dtype=torch.bool)
        first[1:] = entry[1:] != entry[:-1]
        at = entry[first]
        alpha = (1 + counts[at]) ** -omega
        values[at] += alpha * (goal[first] - values[at])
        counts[at] += 1
        entry, goal = entry[~first], goal[~first]
