"""What every model of figures.py costs on this machine: parameters, seconds an update, a density and a sample, memory.

    python benchmarks/costs.py [NAME]     models whose name contains NAME → benchmarks/results/costs.json, and a table
    python benchmarks/costs.py kernel     kernel density beside MADE as the number of training vectors grows

Each model is measured in a process of its own, with freed memory kept, as in training. The time of a whole training is
that of an update times their number; evaluations come on top.
"""

from __future__ import annotations

import ast
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "costs.json"
OPTIONS = {"data", "steps", "precision", "seed"}


def parsed(command: str) -> tuple[str, dict]:
    """The method of a `ptheta train` command, and its options as Python values."""
    _, _, method, *words = command.split()
    given: dict[str, list] = {}
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            given[name] = []
        else:
            given[name].append(ast.literal_eval(word) if word[0].isdigit() else word)
    return method, {k: tuple(v) if k == "hidden" and method != "nade" else v[0] for k, v in given.items()}


def measure(command: str) -> dict:
    """The costs of one model, after a few updates in this process."""
    import torch

    import ptheta.api
    from ptheta.engine.hardware import detect, keep_freed_memory

    keep_freed_memory()
    name, given = parsed(command)
    module = ptheta.api.method(name)
    data = module.Method.open_data(given["data"], 28, 0.5)
    fields = module.Config.__dataclass_fields__
    config = module.Config(**{k: v for k, v in given.items() if k in fields})
    method = module.Method(config, data, 0, detect("cpu", given.get("precision", "auto"), None), given["steps"])
    batches, seconds = method.batches(0, 0, 1), []
    for _ in range(8):
        batch = next(batches)
        began = time.perf_counter()
        method.update(batch)
        seconds.append(time.perf_counter() - began)
    update = statistics.median(seconds[2:])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    model, held = method.averaged, data.split("valid")[:500]
    x = model.join(held) if config.label == "none" else model.join(held, data.labels("valid")[:500])
    timed = {}
    for what, call in (("density", lambda: model.log_prob(x)), ("sample", lambda: model.sample(100))):
        with torch.no_grad():
            began = time.perf_counter()
            call()
        timed[what] = time.perf_counter() - began
    return {
        "method": name, "data": given["data"], "parameters": sum(p.numel() for p in model.parameters()),
        "update_s": update, "training_s": update * given["steps"], "steps": given["steps"],
        "density_500_s": timed["density"], "sample_100_s": timed["sample"], "memory_gib": memory,
    }  # fmt: skip


def kernel() -> list[dict]:
    """Seconds for the density of 1,000 vectors by kernel density from N others of n variables, and by MADE."""
    import torch

    from ptheta.density.baselines import Kernel
    from ptheta.density.made import MADE

    rows = []
    for n in (64, 784):
        made, x = MADE(n, (500,)).eval(), (torch.rand(1000, n) < 0.2).byte()
        for N in (1_000, 10_000, 50_000):
            kde = Kernel((torch.rand(N, n) < 0.2).byte(), 0.95)
            row = {"n": n, "N": N, "numbers_kept": {"kernel": N * n, "made": sum(p.numel() for p in made.parameters())}}
            for name, model in (("kernel", kde), ("made", made)):
                model.log_prob(x)
                seconds = []
                for _ in range(3):
                    began = time.perf_counter()
                    model.log_prob(x)
                    seconds.append(time.perf_counter() - began)
                row[f"{name}_s"] = statistics.median(seconds)
            print(f"n {n:4}  N {N:7,}   kernel {row['kernel_s']:8.3f} s   made {row['made_s']:8.3f} s", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    if pattern == "--one":
        print(json.dumps(measure(sys.argv[2])))
        return
    from figures import FIGURES

    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if pattern == "kernel":
        known["kernel"] = kernel()
    else:
        for name, *_, command in FIGURES:
            if pattern not in name:
                continue
            ask = [sys.executable, __file__, "--one", command]
            out = subprocess.run(ask, capture_output=True, text=True)
            if out.returncode:
                print(f"{name}: {out.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            c = known.setdefault("models", {})[name] = json.loads(out.stdout.splitlines()[-1])
            print(
                f"| {name} | {c['parameters']:,} | {c['update_s'] * 1e3:.0f} ms | {c['training_s'] / 60:.0f} min | "
                f"{c['density_500_s'] * 2:.2f} s | {c['sample_100_s']:.2f} s | {c['memory_gib']:.1f} GiB |",
                flush=True,
            )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
