r"""A grid world with exact answers: values, distributions of states and policy gradients without a single sample.

S. Zhao, "Mathematical Foundations of Reinforcement Learning", Springer 2025, chapters 2 to 4, 8, 9 and 10.
R. Sutton, D. McAllester, S. Singh and Y. Mansour, "Policy Gradient Methods for Reinforcement Learning with Function
Approximation", NeurIPS 1999.

In a cell of an n × m grid one goes up, right, down or left, or stays. A step over the boundary leaves one where one is
and costs; so does to enter, or to stay in, a forbidden cell, which one may; the target pays, each time, and is a cell
like others: nothing ends there. With P(s' | s, a), r(s, a) and a policy π(a | s),

    P_π = \sum_a π(a | s) P(s' | s, a),     r_π = \sum_a π(a | s) r(s, a)                                        (1)

    v_π = (I − γ P_π)^{-1} r_π,             q_π = r + γ P v_π                                                    (2)

    d_π^T = d_π^T P_π,   1^T d_π = 1                                                                             (3)

    \bar v = d_π^T v_π,    \bar v^0 = d_0^T v_π,    \bar r = d_π^T r_π,        \bar r = (1 − γ) \bar v            (4)

for a distribution d_0 of first states that is none of π's. The policy gradient theorem, discounted,

    ∇ \bar v^0 = \sum_s ρ_π(s) \sum_a ∇π(a | s) q_π(s, a),       ρ_π^T = d_0^T (I − γ P_π)^{-1}                  (5)

and undiscounted, where q is that of v_π = r_π − \bar r 1 + P_π v_π,

    ∇ \bar r = \sum_s d_π(s) \sum_a ∇π(a | s) q_π(s, a)                                                          (6)

With discount the right side of (6) is near ∇ \bar r = (1 − γ) ∇ \bar v for γ near 1, and not equal to it. The best
policy is greedy for the one solution of

    v(s) = \max_a [ r(s, a) + γ \sum_{s'} P(s' | s, a) v(s') ]                                                   (7)

| symbol | shape | here |
|---|---|---|
| P, r | (S, A, S), (S, A) | S = n m cells in rows, A = 5 |
| π, q | (S, A) | rows of π add up to 1 |
| v, d, ρ | (S,) | |

The world of the book is `book()`. Everything is in float64, and differentiable in π.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.engine.errors import UsageError

ACTIONS = ("up", "right", "down", "left", "stay")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))


@dataclass(frozen=True)
class GridWorld:
    """The world of eqs. (1) to (7). Raises UsageError for sides below 1, a target or forbidden cells outside, a target
    that is forbidden, and a γ outside of [0, 1)."""

    rows: int
    columns: int
    target: tuple[int, int]
    """Row and column, counted from 0."""
    forbidden: tuple[tuple[int, int], ...] = ()
    gamma: float = 0.9
    """γ."""
    at_target: float = 1.0
    """Reward of a step that ends in the target."""
    at_forbidden: float = -1.0
    at_boundary: float = -1.0
    elsewhere: float = 0.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise UsageError(f"a grid of {self.rows} x {self.columns} is impossible; allowed: sides from 1 on.")
        if not 0 <= self.gamma < 1:
            raise UsageError(f"gamma = {self.gamma} is impossible; allowed: from 0 to below 1.")
        for cell in (self.target, *self.forbidden):
            if not (0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns):
                raise UsageError(
                    f"cell {cell} is outside of {self.rows} x {self.columns}; allowed: (0, 0) to "
                    f"({self.rows - 1}, {self.columns - 1})."
                )
        if self.target in self.forbidden:
            raise UsageError(f"the target {self.target} is forbidden too; allowed: one of the two.")

    @property
    def states(self) -> int:
        """S."""
        return self.rows * self.columns

    def step(self, state: int, action: int) -> tuple[int, float]:
        """The next state and the reward."""
        row, column = divmod(state, self.columns)
        down, right = MOVES[action]
        cell = (row + down, column + right)
        if not (0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns):
            return state, self.at_boundary
        reward = self.at_target if cell == self.target else self.elsewhere
        return cell[0] * self.columns + cell[1], self.at_forbidden if cell in self.forbidden else reward

    def matrices(self) -> tuple[Float[Tensor, "S A S"], Float[Tensor, "S A"]]:
        """P(s' | s, a) and r(s, a)."""
        P = torch.zeros(self.states, len(ACTIONS), self.states, dtype=torch.float64)
        r = torch.zeros(self.states, len(ACTIONS), dtype=torch.float64)
        for s in range(self.states):
            for a in range(len(ACTIONS)):
                after, r[s, a] = self.step(s, a)
                P[s, a, after] = 1
        return P, r


def book(gamma: float = 0.9) -> GridWorld:
    """The 5 × 5 world of the book: six forbidden cells, most of them before the target."""
    return GridWorld(5, 5, (3, 2), ((1, 1), (1, 2), (2, 2), (3, 1), (3, 3), (4, 1)), gamma)


@dataclass(frozen=True)
class Exact:
    """Eqs. (1) to (4) of one policy."""

    P: Float[Tensor, "S S"]
    """P_π."""
    r: Float[Tensor, " S"]
    """r_π."""
    v: Float[Tensor, " S"]
    q: Float[Tensor, "S A"]
    d: Float[Tensor, " S"]
    rho: Float[Tensor, " S"]
    """ρ_π."""
    mean_value: Tensor
    r"""\bar v."""
    first_value: Tensor
    r"""\bar v^0."""
    mean_reward: Tensor
    r"""\bar r."""


def exact(world: GridWorld, policy: Float[Tensor, "S A"], first: Float[Tensor, " S"] | None = None) -> Exact:
    """Everything about a policy, by linear solves.

    first: d_0 (default: every cell alike).
    Raises UsageError for a policy whose chain has no single stationary distribution: where one starts, it ends.
    """
    P, r = world.matrices()
    P_pi, r_pi = torch.einsum("sa,sat->st", policy, P), (policy * r).sum(1)
    S = world.states
    eye, ones = torch.eye(S, dtype=P.dtype), torch.ones(S, dtype=P.dtype)
    d_0 = ones / S if first is None else first
    through = eye - world.gamma * P_pi
    v = torch.linalg.solve(through, r_pi)
    d = stationary(P_pi)
    rho = torch.linalg.solve(through.T, d_0)
    return Exact(P_pi, r_pi, v, r + world.gamma * P @ v, d, rho, d @ v, d_0 @ v, d @ r_pi)


def stationary(P: Float[Tensor, "S S"]) -> Float[Tensor, " S"]:
    """Eq. (3): (I − P^T + 1 1^T) d = 1 has one solution where d_π is one. UsageError where it is not."""
    ones = torch.ones(len(P), dtype=P.dtype)
    A = torch.eye(len(P), dtype=P.dtype) - P.T + ones[:, None]
    if torch.linalg.matrix_rank(A.detach()) < len(P):
        raise UsageError(
            "the policy has several stationary distributions: where it ends depends on where it starts; give every "
            "action some probability."
        )
    return torch.linalg.solve(A, ones)


def differential(
    world: GridWorld, policy: Float[Tensor, "S A"]
) -> tuple[Float[Tensor, " S"], Float[Tensor, "S A"], Tensor]:
    r"""v, q and \bar r without discount: v = r_π − \bar r 1 + P_π v with d_π^T v = 0, q = r − \bar r + P v."""
    P, r = world.matrices()
    P_pi, r_pi = torch.einsum("sa,sat->st", policy, P), (policy * r).sum(1)
    d = stationary(P_pi)
    mean = d @ r_pi
    v = torch.linalg.solve(torch.eye(world.states, dtype=P.dtype) - P_pi + d[None], r_pi - mean)
    return v, r - mean + P @ v, mean


def softmax(theta: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
    """The tabular policy π(a | s) ∝ exp θ_{sa}."""
    return theta.softmax(1)


def by_theorem(
    theta: Tensor, policy: Callable[[Tensor], Float[Tensor, "S A"]], weight: Float[Tensor, " S"],
    q: Float[Tensor, "S A"],
) -> Tensor:  # fmt: skip
    """The right side of eqs. (5) and (6): Σ_s weight(s) Σ_a ∇π(a | s) q(s, a), with weight and q held fixed."""
    theta = theta.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((weight.detach()[:, None] * policy(theta) * q.detach()).sum(), theta)
    return gradient


def by_solve(theta: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """The left side: the gradient of a number that is computed from θ, through the linear solves."""
    theta = theta.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(theta), theta)
    return gradient


# ---------------------------------------------------------------- the best policy


def greedy(q: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
    """The policy that takes the best action, the first of those that are equally good to 10^{-9}."""
    best = (q >= q.max(1, keepdim=True).values - 1e-9).double().argmax(1)
    return torch.nn.functional.one_hot(best, q.shape[1]).to(q.dtype)


def value_iteration(world: GridWorld, tolerance: float = 1e-12) -> tuple[Float[Tensor, " S"], Float[Tensor, "S A"]]:
    """v and q of the best policy, by eq. (7) again and again until no value changes by more than the tolerance."""
    P, r = world.matrices()
    v = torch.zeros(world.states, dtype=P.dtype)
    while True:
        q = r + world.gamma * P @ v
        before, v = v, q.max(1).values
        if (v - before).abs().max() <= tolerance:
            return v, q


def policy_iteration(
    world: GridWorld, policy: Float[Tensor, "S A"] | None = None
) -> tuple[Float[Tensor, "S A"], list[Float[Tensor, " S"]]]:
    """The best policy, and v of every policy on the way: the value by eq. (2), then the greedy policy for it.

    policy: The first (default: stay).
    """
    P, r = world.matrices()
    if policy is None:
        policy = torch.zeros(world.states, len(ACTIONS), dtype=P.dtype)
        policy[:, ACTIONS.index("stay")] = 1
    eye, values = torch.eye(world.states, dtype=P.dtype), []
    while True:
        P_pi = torch.einsum("sa,sat->st", policy, P)
        values.append(torch.linalg.solve(eye - world.gamma * P_pi, (policy * r).sum(1)))
        after = greedy(r + world.gamma * P @ values[-1])
        if torch.equal(after, policy) or (len(values) > 1 and (values[-1] - values[-2]).abs().max() < 1e-12):
            return policy, values
        policy = after


def command(argv: list[str]) -> int:
    """`ptheta gridworld`: see `arrows`."""
    from ptheta.control import arrows

    return arrows.command(argv)
