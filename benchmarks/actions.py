"""What more actions cost, and what they bring: Pendulum's torque cut into n values, n from 10 to 100,000.

    python benchmarks/actions.py                milliseconds of an update and of a decision, into results/control.json
    python benchmarks/actions.py --returns DIR  and returns after 10,000 steps, of runs in DIR, where a run takes less
                                                than ten minutes

dqn has an output for each of the n actions; wolpertinger looks at the k = 10 that are nearest to where its actor
points; ddpg has no n. All with two hidden layers of 64 units and minibatches of 64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

import ptheta
from ptheta.api import method
from ptheta.control.envs import Environment
from ptheta.engine.hardware import detect, flushed_denormals

RESULTS = Path(__file__).parent / "results" / "control.json"
COUNTS = (10, 100, 1_000, 10_000, 100_000)
SIZES = {"hidden": (64, 64), "batch_size": 64, "warmup": 500, "envs": 1, "gamma": 0.98}
EXTRA = {
    "dqn": {"updates": 1, "learning_rate": 1e-3},
    "ddpg": {},
    "wolpertinger": {},
}
STEPS, LONGEST = 10_000, 600.0


class Cut(gymnasium.ActionWrapper):
    """Torques from −2 to 2, n of them."""

    def __init__(self, n: int):
        super().__init__(gymnasium.make("Pendulum-v1", disable_env_checker=True))
        self.values = np.linspace(-2, 2, n, dtype=np.float32)[:, None]
        self.action_space = gymnasium.spaces.Discrete(n)

    def action(self, action: int) -> np.ndarray:
        return self.values[action]


def world(name: str, n: int) -> Environment:
    """What a method is given."""
    if name != "dqn":
        return Environment("Pendulum-v1")

    def cut() -> gymnasium.Env:
        return Cut(n)

    cut.__name__ = f"Pendulum-{n}"
    return Environment(cut)


def fields(name: str, n: int) -> dict:
    return {**SIZES, **EXTRA[name], **({"actions": n} if name == "wolpertinger" else {})}


def cost(name: str, n: int, updates: int = 30) -> dict[str, float]:
    """Milliseconds of one `learn` and of one decision, medians."""
    module = method(name)
    with flushed_denormals():
        learner = module.Method(module.Config(**fields(name, n)), world(name, n), 0, detect("cpu", "fp32", 1), 1_000)
        next(learner.batches(0, 0, 1))
        g, s, learn, act = torch.Generator().manual_seed(0), torch.zeros(1, 3), [], []
        for k in range(updates):
            began = time.perf_counter()
            learner.learn(learner.replay.draw(64, g))
            middle = time.perf_counter()
            with torch.inference_mode():
                learner.model.decide(s)
            if k > 4:
                learn.append(1e3 * (middle - began))
                act.append(1e3 * (time.perf_counter() - middle))
    parameters = sum(p.numel() for p in learner.model.parameters())
    return {"update_ms": statistics.median(learn), "decision_ms": statistics.median(act), "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--returns", type=Path, metavar="DIR")
    chosen = parser.parse_args()
    rows = []
    for name, counts in (("ddpg", (0,)), ("wolpertinger", COUNTS), ("dqn", COUNTS)):
        for n in counts:
            row = {"method": name, "actions": n, **cost(name, n)}
            if chosen.returns and row["update_ms"] * STEPS / 1e3 < LONGEST:
                run = ptheta.train(
                    name, world(name, n), out=str(chosen.returns / f"{name}-{n}"), steps=STEPS, eval_every=STEPS // 10,
                    threads=1, **fields(name, n),
                )  # fmt: skip
                found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
                row |= {"best": max(found), "last": found[-1]}
            rows.append(row)
            said = f"   return {row['best']:8.1f} at best, {row['last']:8.1f} at last" if "best" in row else ""
            print(
                f"{name:12} {n:7,} actions {row['parameters']:10,} parameters   update {row['update_ms']:8.2f} ms   "
                f"decision {row['decision_ms']:6.3f} ms{said}",
                flush=True,
            )
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, "actions": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
