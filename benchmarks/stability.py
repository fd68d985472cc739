"""Return against step size: reinforce, a2c, the natural gradient and trpo on CartPole, ten sizes by five seeds each.

    python benchmarks/stability.py DIR      trains what is not there yet into DIR, 20,000 steps a run, then draws
                                            docs/pictures/stability.png and writes results/control.json

The sizes of each method are its default times 10^{−2}, …, 10^{1.6}: of trpo it is δ, whose root is the length of a
step, so that the exponents are doubled. A figure is the mean of a run's last five evaluations, of ten episodes each.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

import ptheta
from ptheta.api import method
from ptheta.engine.errors import InputError
from ptheta.engine.run import Run

RESULTS = Path(__file__).parent / "results" / "control.json"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "stability.png"
METHODS = {"reinforce": "learning_rate", "a2c": "learning_rate", "npg": "learning_rate", "trpo": "delta"}
FACTORS = [round(10 ** (-2 + 0.4 * k), 4) for k in range(10)]
SEEDS, STEPS, GOAL = 5, 20_000, 475


def measured(folder: Path, name: str, factor: float, seed: int) -> dict[str, Any]:
    """What became of one run, which is trained if it is not there; of one that broke, nothing but that."""
    module, field = method(name), METHODS[name]
    size = getattr(module.Config(), field) * (factor**2 if name == "trpo" else factor)
    out = folder / f"{name}-{factor:g}-seed{seed}"
    broken = out.with_name(f"{out.name}.broken")
    if not (out / "pictures").exists() and not broken.exists():
        try:
            ptheta.train(
                name, "CartPole-v1", out=str(out), steps=STEPS, eval_every=STEPS // 20, seed=seed, threads=1,
                resume=out.exists(), **{field: size},
            )  # fmt: skip
        except InputError as error:  # a loss or a curvature that is not finite
            broken.write_text(str(error))
    if broken.exists():
        return {"size": size, "broken": broken.read_text()}
    found = [m for m in Run.open(out).metrics() if "return_mean" in m]
    reached = next((m["step"] for m in found if m["return_mean"] >= GOAL and m["step"] > 0), None)
    return {"size": size, "last": statistics.fmean(m["return_mean"] for m in found[-5:]), "reached": reached}


def draw(rows: dict[str, list[list[dict[str, Any]]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, sizes in rows.items():
        last = np.array([[run.get("last", 0.0) for run in runs] for runs in sizes])
        (line,) = axes.plot(FACTORS, np.median(last, 1), "o-", label=name, markersize=4)
        axes.fill_between(FACTORS, last.min(1), last.max(1), color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("step size, in units of the default (of trpo: the root of δ)")
    axes.set_ylabel(f"return after {STEPS:,} steps")
    axes.set_title("CartPole-v1: median of five seeds, and from the least to the greatest", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        name: [[measured(folder, name, factor, seed) for seed in range(SEEDS)] for factor in FACTORS]
        for name in METHODS
    }
    for name, sizes in rows.items():
        for runs in sizes:
            last = [run["last"] for run in runs if "last" in run]
            reached = sorted(run["reached"] for run in runs if run.get("reached"))
            median = f"{statistics.median(last):6.1f} ({min(last):.0f} to {max(last):.0f})" if last else "broken"
            first = (
                f"{reached[len(reached) // 2]:,} steps to {GOAL} ({len(reached)} of {SEEDS})" if reached else "never"
            )
            print(f"{name:10} {METHODS[name]} {runs[0]['size']:.3g}   {median}   {first}")
    draw(rows)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, "stability": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
