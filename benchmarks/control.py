"""The control room: environment steps a second beside others', and returns over seeds.

python benchmarks/control.py --speed --peer PYTHON   PYTHON has stable-baselines3 and sb3-contrib; all in turns, into
                                                     benchmarks/results/control.json
python benchmarks/control.py --limit                 what the environments alone take, and matrix products of ddpg
python benchmarks/control.py --returns DIR           the table of docs/control.md, of the runs that are in DIR
python benchmarks/control.py --commands              the commands that train them
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptheta.api import method
from ptheta.control.envs import Environment, Envs
from ptheta.control.stacked import Stacked
from ptheta.engine.hardware import detect, flushed_denormals
from ptheta.engine.statistics import interval, iqm

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "control.json"
# name, environment, our environments, theirs, steps that are timed, Config fields of ours, wanted ratio
CASES = [
    ("trpo", "HalfCheetah-v5", 16, 1, 20_000, {}, 6.0),
    ("trpo", "HalfCheetah-v5", 16, 16, 40_000, {}, 2.0),
    ("a2c", "HalfCheetah-v5", 16, 16, 30_000, {"rollout": 5}, 1.5),
    ("ddpg", "HalfCheetah-v5", 1, 1, 1_000, {"warmup": 100}, 1.5),
    ("ddpg x 8", "HalfCheetah-v5", 1, 1, 2_400, {"warmup": 100}, 1.8),
    ("ddpg x 8 bf16", "HalfCheetah-v5", 1, 1, 2_400, {"warmup": 100}, 2.8),
]
MUJOCO = "ptheta train {m} --env {e}-v5 --steps 1000000 --eval-every 25000 --eval-size 5 --seeds 0-2"
RUNS = {
    **{f"trpo {e}": (MUJOCO.format(m="trpo", e=e), wanted) for e, wanted in
       (("HalfCheetah", 3500), ("Hopper", 2000), ("Walker2d", 3000), ("InvertedPendulum", 1000), ("Swimmer", 90))},
    **{f"a2c {e}": (MUJOCO.format(m="a2c", e=e), wanted) for e, wanted in
       (("HalfCheetah", 1600), ("InvertedPendulum", 1000))},
    **{f"ddpg {e}": (
        f"ptheta train ddpg --env {e}-v5 --steps {steps} --warmup 10000 --batch-size 128 --eval-every {every} "
        "--eval-size 5 --seeds 0-2", wanted) for e, steps, every, wanted in
       (("HalfCheetah", 500_000, 25_000, 9000), ("InvertedPendulum", 100_000, 2_500, 1000))},
    **{f"{m} CartPole": (f"ptheta train {m} --env CartPole-v1 --seeds 0-9", 475) for m in
       ("a2c", "trpo", "dqn", "reinforce")},
    "ddpg Pendulum": ("ptheta train ddpg --env Pendulum-v1 --hidden 64 64 --batch-size 128 --seeds 0-4", -160),
    "wolpertinger Pendulum": (
        "ptheta train wolpertinger --env Pendulum-v1 --hidden 64 64 --batch-size 128 --seeds 0-4", -160),
    "trpo Pendulum": (
        "ptheta train trpo --env Pendulum-v1 --steps 150000 --gamma 0.95 --gamma-last 0.95 --seeds 0-4", -190),
}  # fmt: skip


def ours(name: str, env: str, envs: int, steps: int, fields: dict, threads: int) -> float:
    """Environment steps a second of the loop of `ptheta train`, without judging and logging."""
    module = method(name)
    hardware = detect("cpu", "fp32", threads)
    with flushed_denormals():
        learner = module.Method(module.Config(envs=envs, **fields), Environment(env), 0, hardware, 1_000_000)
        batches = learner.batches(0, 0, 1)
        for _ in range(3):
            learner.update(next(batches))
        before, began = learner.taken, time.perf_counter()
        while learner.taken - before < steps:
            learner.update(next(batches))
        return (learner.taken - before) / (time.perf_counter() - began)


def together(env: str, seeds: int, steps: int, fields: dict, threads: int, precision: Any = "fp32") -> float:
    """Environment steps a second, all seeds together, of ddpg as one batch of networks."""
    module, hardware = method("ddpg"), detect("cpu", precision, threads)
    with flushed_denormals():
        made = [
            module.Method(module.Config(envs=1, **fields), Environment(env), seed, hardware, 100_000)
            for seed in range(seeds)
        ]
        loops = [m.batches(0, 0, 1) for m in made]
        batches = [next(loop) for loop in loops]
        group = Stacked(made)
        for _ in range(3):
            group.update(batches)
            batches = [next(loop) for loop in loops]
        began = time.perf_counter()
        for _ in range(steps // seeds):
            group.update(batches)
            batches = [next(loop) for loop in loops]
        return steps // seeds * seeds / (time.perf_counter() - began)


def theirs(python: str, name: str, env: str, envs: int, steps: int, threads: int) -> float:
    argv = [python, str(HERE / "control_peer.py"), name, env, str(envs), str(steps), str(threads)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["steps_per_s"]


def speed(python: str, rounds: int, threads: int, only: list[str]) -> list[dict]:
    """Ours and theirs in turns; medians with the least and the greatest."""
    rows = []
    for name, env, mine, other, steps, fields, wanted in CASES:
        if only and name not in only:
            continue
        pairs = [
            (
                together(env, 8, steps, fields, threads, "bf16" if "bf16" in name else "fp32")
                if "x 8" in name
                else ours(name, env, mine, steps, fields, threads),
                theirs(python, name.split()[0], env, other, max(500, steps // 4), threads),
            )
            for _ in range(rounds)
        ]
        a, b = (sorted(column) for column in zip(*pairs))
        ratio = statistics.median(x / y for x, y in pairs)
        said = [f"{statistics.median(v):7.0f} ({v[0]:.0f} to {v[-1]:.0f})" for v in (a, b)]
        print(
            f"{name:5} {env} {mine:3} envs {said[0]}   theirs, {other:2} {said[1]}   ratio {ratio:.2f}, wanted {wanted}"
        )
        rows.append(
            {"name": name, "env": env, "envs": mine, "their_envs": other, "ours": a, "theirs": b, "ratio": ratio,
             "wanted": wanted, "threads": threads}
        )  # fmt: skip
    return rows


def limit(threads: int) -> dict:
    """Steps a second of the environments alone, under random actions; float32 products of 256 × 256 by 256, GFLOP/s."""
    torch.set_num_threads(threads)
    found: dict = {"threads": threads}
    for env in ("HalfCheetah-v5", "Hopper-v5", "Pendulum-v1", "CartPole-v1"):
        envs = Envs(Environment(env), 16, 0)
        r = np.random.RandomState(0)
        spaces = envs.spaces
        shape = (200, 16) if spaces.actions else (200, 16, spaces.components)
        a = r.randint(spaces.actions, size=shape) if spaces.actions else r.uniform(-1, 1, shape).astype(np.float32)
        gym, began = [env.step for env in envs.envs], time.perf_counter()
        done = [envs.to_action(x) for x in a]
        for row in done:
            for e, step in enumerate(gym):
                if step(row[e])[2]:
                    envs.envs[e].reset()
        alone = 200 * 16 / (time.perf_counter() - began)
        began = time.perf_counter()
        for row in a:
            envs.step(row)
        found[env] = {"alone": alone, "stepped_together": 200 * 16 / (time.perf_counter() - began)}
        print(f"{env:16} {alone:9.0f} steps/s alone   {found[env]['stepped_together']:9.0f} stepped together")
    x, y = torch.randn(2, 256, 256).unbind()
    best = math.inf
    for _ in range(200):
        began = time.perf_counter()
        x @ y
        best = min(best, time.perf_counter() - began)
    found["gflops"] = 2 * 256**3 / best / 1e9
    print(f"products of 256 x 256: {found['gflops']:.0f} GFLOP/s on {threads} threads")
    return found


def returns(folder: Path) -> dict:
    """Of each entry of RUNS that has finished runs in FOLDER/NAME-seedK or FOLDER/NAME/seedK: best and last ten
    evaluations, and how long the runs were."""
    found = {}
    for name, (command, wanted) in RUNS.items():
        stem = name.replace(" ", "-")
        runs = sorted(folder.glob(f"{stem}/seed*/metrics.jsonl")) + sorted(folder.glob(f"{stem}-seed*/metrics.jsonl"))
        rows = []
        for run in runs:
            lines = [json.loads(line) for line in run.read_text().splitlines()]
            values = [line["return_mean"] for line in lines if "return_mean" in line]
            about = json.loads((run.parent / "config.json").read_text())
            steps = about["options"]["steps"] or method(about["method"]).Method.steps
            if lines[-1]["step"] < steps:
                print(f"{run.parent.name}: left out, at {lines[-1]['step']:,} of {steps:,} steps")
                continue
            best = max(values)
            rows.append({"best": best, "last_ten": statistics.fmean(values[-10:]), "last": values[-1], "steps": steps})
        if rows:
            last, best = [r["last_ten"] for r in rows], [r["best"] for r in rows]
            error = statistics.stdev(last) / len(last) ** 0.5 if len(last) > 1 else math.nan
            middle, (low, high) = iqm(np.array(last)), interval(np.array(last))
            print(
                f"{name:24} {len(rows):2} seeds   last ten {statistics.fmean(last):8.1f} ± {error:6.1f}   "
                f"IQM {middle:8.1f} ({low:.1f} to {high:.1f})   best {statistics.fmean(best):8.1f}   wanted {wanted}   "
                f"[{', '.join(f'{v:.0f}' for v in last)}]"
            )
            found[name] = {"command": command, "wanted": wanted, "seeds": rows}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--returns", type=Path, metavar="DIR")
    parser.add_argument("--peer", help="a Python that has stable-baselines3 and sb3-contrib")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of the cases of --speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if chosen.commands:
        print("\n".join(command for command, _ in RUNS.values()))
    if chosen.limit:
        results["limit"] = limit(chosen.threads)
    if chosen.speed:
        if not chosen.peer:
            sys.exit("--speed wants --peer PYTHON, of an environment that has stable-baselines3 and sb3-contrib.")
        rows = speed(chosen.peer, chosen.rounds, chosen.threads, chosen.only)
        kept = {(row["name"], row["their_envs"]): row for row in results.get("speed", [])}
        results["speed"] = list((kept | {(row["name"], row["their_envs"]): row for row in rows}).values())
    if chosen.returns:
        results["returns"] = {**results.get("returns", {}), **returns(chosen.returns)}
    if results:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
