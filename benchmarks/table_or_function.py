"""A policy as a table against a policy as a function: the book's world on grids from 5 × 5 to 50 × 50.

    python benchmarks/table_or_function.py [--seeds N]   prints the table, draws docs/pictures/table-or-function.png,
                                                         writes results/control.json

Each cell of the book's world becomes k × k cells, and γ its k-th root, so that the way to the target is the same at
each size. trpo learns from 16 walkers who start anywhere:

    table      scores of its own for each cell: a linear layer of one-hot states
    linear     a linear layer of products of cosines of row and column, up to the fourth frequency
    neural     two layers of 64 tanh units of the same

A tenth of the cells is closed while it learns: who steps there stays where he is. The policy is judged by exact values
in the world where they are open, (J − J_uniform) / (J_best − J_uniform), J the mean of v over all cells; and in the
closed cells, which it has never seen, by how often its likeliest action is one of the best.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ptheta.api import method
from ptheta.control.envs import Environment
from ptheta.control.gridworld import ACTIONS, GridWorld, book, value_iteration
from ptheta.control.gridworld_environment import GridWorldEnvironment
from ptheta.engine.hardware import detect, flushed_denormals

RESULTS = Path(__file__).parent / "results" / "control.json"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "table-or-function.png"
SIZES = (5, 10, 20, 50)
RATES = {"table": 2e-2, "linear": 2e-2, "neural": 2e-2}
CRITIC = {"table": 2e-2, "linear": 1e-2, "neural": 3e-3}  # Adam's step sizes of the critics
HIDDEN = {"table": (), "linear": (), "neural": (64, 64)}
CHECKS = [2_000 * 2**k for k in range(9)]
GOAL, FREQUENCIES = 0.9, 5


def scaled(k: int) -> GridWorld:
    """The book's world, of k × k cells for each of its own."""
    small = book()
    forbidden = tuple(
        (row * k + i, column * k + j) for row, column in small.forbidden for i in range(k) for j in range(k)
    )
    target = tuple(x * k + k // 2 for x in small.target)
    return GridWorld(5 * k, 5 * k, (target[0], target[1]), forbidden, small.gamma ** (1 / k))


def closed_cells(world: GridWorld, seed: int) -> np.ndarray:
    """A tenth of the cells, at least one, of those that cost nothing; the target is not among them."""
    taken = {world.target, *world.forbidden}
    free = [s for s in range(world.states) if divmod(s, world.columns) not in taken]
    return np.random.RandomState(seed).choice(free, max(1, world.states // 10), replace=False)


def features(world: GridWorld, kind: str) -> np.ndarray:
    """(S, n): what is observed of each state."""
    row, column = np.divmod(np.arange(world.states), world.columns)
    x, y = (row + 0.5) / world.rows, (column + 0.5) / world.columns
    if kind == "table":
        return np.eye(world.states, dtype=np.float32)
    waves = [np.cos(math.pi * i * x) * np.cos(math.pi * j * y) for i in range(FREQUENCIES) for j in range(FREQUENCIES)]
    return np.stack(waves[1:], 1).astype(np.float32)


class Walk(GridWorldEnvironment):
    """Where some cells are closed, and states are seen by their features."""

    def __init__(self, world: GridWorld, closed: np.ndarray, seen: np.ndarray):
        super().__init__(world)
        self.closed, self.seen = frozenset(closed.tolist()), seen
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (seen.shape[1],), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        state, info = super().reset(seed=seed, options=options)
        while state in self.closed:
            state = self.state = int(self.np_random.integers(self.world.states))
        return self.seen[state], info

    def step(self, action: int) -> Any:
        before = self.state
        state, reward, over, cut, info = super().step(action)
        if state in self.closed:
            state, reward = before, self.world.elsewhere
            self.state = state
        return self.seen[state], reward, over, cut, info


class Judge:
    """Exact values of a policy."""

    def __init__(self, world: GridWorld):
        self.world, (self.P, self.r) = world, world.matrices()
        v, q = value_iteration(world, 1e-9)
        self.best = q >= q.max(1, keepdim=True).values - 1e-6
        self.top, self.uniform = v.mean(), self.J(torch.full_like(q, 1 / len(ACTIONS)))

    def J(self, policy: Tensor) -> Tensor:
        P = torch.einsum("sa,sat->st", policy, self.P)
        v = torch.linalg.solve(torch.eye(len(P), dtype=P.dtype) - self.world.gamma * P, (policy * self.r).sum(1))
        return v.mean()

    def share(self, policy: Tensor) -> float:
        return float((self.J(policy) - self.uniform) / (self.top - self.uniform))


def learned(judge: Judge, kind: str, seed: int, rate: float | None = None) -> dict[str, Any]:
    """Shares and best actions at the checks, of one run."""
    world = judge.world
    closed, seen = closed_cells(world, seed), features(world, kind)

    def walk() -> gymnasium.Env:
        return gymnasium.wrappers.TimeLimit(Walk(world, closed, seen), 20 * world.rows)

    module = method("trpo")
    config = module.Config(
        envs=16, rollout=16, hidden=HIDDEN[kind], gamma=world.gamma, gamma_last=0.0, lam=0.95,
        delta=rate or RATES[kind],
        critic_rate=CRITIC[kind], normalise_observations=False, normalise_rewards=False,
    )  # fmt: skip
    with flushed_denormals():
        learner = module.Method(config, Environment(walk), seed, detect("cpu", "fp32", 1), CHECKS[-1])
        batches, shares, unseen, kept = learner.batches(0, 0, 1), [], [], []
        for check in CHECKS:
            while learner.taken < check:
                learner.update(next(batches))
            with torch.no_grad():
                policy = learner.model.policy.given(torch.from_numpy(seen))[0].softmax(1).double()
            likeliest = torch.nn.functional.one_hot(policy.argmax(1), len(ACTIONS)).bool()
            good = (likeliest & judge.best).any(1)
            open_ = torch.ones(world.states, dtype=torch.bool)
            open_[closed] = False
            shares.append(judge.share(policy))
            unseen.append(good[closed].double().mean().item())
            kept.append(good[open_].double().mean().item())
    parameters = sum(p.numel() for p in learner.model.policy.parameters())
    return {"shares": shares, "unseen": unseen, "seen": kept, "parameters": parameters}


def draw(rows: dict[str, dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(SIZES), sharey=True), SIZES):
        for kind in RATES:
            runs = np.array([run["shares"] for run in rows[f"{size} {kind}"]["runs"]])
            (line,) = axes.plot(CHECKS, runs.mean(0), label=kind)
            axes.fill_between(CHECKS, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        axes.axhline(1, color="grey", linewidth=0.5)
        axes.set(xscale="log", title=f"{size} × {size}", xlabel="steps", ylim=(-0.3, 1.05))
    figure.axes[0].set_ylabel("share of the way from\nuniform to best")
    figure.axes[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES, help="only these")
    parser.add_argument("--rates", action="store_true", help="only the step sizes, at 10 × 10")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.rates:
        judge = Judge(scaled(2))
        for kind in RATES:
            for rate in (2e-2, 1e-1):
                print(kind, rate, [round(x, 2) for x in learned(judge, kind, 9, rate)["shares"]], flush=True)
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows: dict[str, dict[str, Any]] = results.get("table_or_function", {})
    for size in chosen.sizes:
        judge = Judge(scaled(size // 5))
        for kind in RATES:
            runs = [learned(judge, kind, seed) for seed in range(chosen.seeds)]
            first = [next((n for n, x in zip(CHECKS, run["shares"]) if x >= GOAL), math.inf) for run in runs]
            last, unseen, seen = (
                statistics.fmean(run[name][-1] for run in runs) for name in ("shares", "unseen", "seen")
            )
            rows[f"{size} {kind}"] = {"runs": runs, "reached": [n if n < math.inf else None for n in first]}
            print(
                f"{size:2} x {size:2}  {kind:7} {runs[0]['parameters']:6,} parameters   {GOAL:.0%} after "
                f"{', '.join(f'{n:,.0f}' for n in first)}   at the end {last:.2f}   best actions: cells that were seen "
                f"{seen:.2f}, never seen {unseen:.2f}",
                flush=True,
            )
        RESULTS.write_text(json.dumps({**results, "table_or_function": rows}, indent=2) + "\n")
    if all(f"{size} {kind}" in rows for size in SIZES for kind in RATES):
        draw(rows)


if __name__ == "__main__":
    main()
