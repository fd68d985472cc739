"""The self-supervision room: speed beside lightly, and the figures of docs/selfsup.md.

    python benchmarks/selfsup.py --speed [--peer PYTHON]     images a second in training, ours and lightly's in turns
    python benchmarks/selfsup.py --figures [NAME] [--seeds 0 1 2] [--threads 1]
                                                             train and judge the runs of FIGURES whose name has NAME
    python benchmarks/selfsup.py --table                     what has been measured, as Markdown

--peer is the interpreter of an environment that has torch, torchvision and lightly (see `selfsup_peer.py`); without it
ours is compared with a plain float32 loop that makes one view after another. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import ptheta  # noqa: E402
from ptheta import api, features  # noqa: E402
from ptheta.data.order import generator, minibatches  # noqa: E402
from ptheta.data.pictures import load  # noqa: E402
from ptheta.engine.hardware import detect  # noqa: E402
from ptheta.engine.run import Run  # noqa: E402
from ptheta.nets.probes import K, T  # noqa: E402
from ptheta.selfsup import judge  # noqa: E402
from ptheta.selfsup.views import draw, view  # noqa: E402

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "selfsup.json"
BATCH = 256
UPDATES = 12

COMMON = "--precision bf16 --eval-every 500 --eval-size 2000"
FASHION = f"--data fashion_mnist {COMMON}"
FIGURES = {
    **{
        f"fashion-{name}": f"ptheta train {name} {FASHION} --cells 2 --steps 1000"
        for name in ("simclr", "moco", "byol", "vicreg", "dino", "rotation")
    },
    "longer-moco": f"ptheta train moco {FASHION} --cells 4 --steps 4000",
    "longest-moco": f"ptheta train moco {FASHION} --cells 4 --steps 8000",
    "endless-moco": f"ptheta train moco {FASHION} --cells 4 --steps 14000",
    "fashion-mae": f"ptheta train mae {FASHION} --steps 1500",
    **{
        f"fashion-{name}": f"ptheta train {name} {FASHION} --cells 2 --steps 1000"
        for name in ("inpaint", "denoise", "jigsaw")
    },
    "mnist-moco": f"ptheta train moco --data mnist {COMMON} --cells 2 --steps 3000",
    "emoji-clip": "ptheta train clip --data emoji --size 32 --vocabulary 1000 --length 32 --steps 600"
    " --precision bf16 --eval-every 200",
}


def ours(name: str, threads: int) -> float:
    """Images a second of `ptheta train NAME`'s updates, in this process."""
    module = importlib.import_module(f"ptheta.selfsup.{name}")
    method = module.Method(
        module.Config(batch_size=BATCH), load("fashion_mnist"), 0, detect("cpu", "bf16", threads), 100
    )
    batches = method.batches(0, 0, 1)
    for _ in range(3):
        method.update(next(batches))
    began = time.perf_counter()
    for _ in range(UPDATES):
        method.update(next(batches))
    return UPDATES * BATCH / (time.perf_counter() - began)


def plain(name: str, threads: int) -> float:
    """The same update in float32, with one view after another."""
    module = importlib.import_module(f"ptheta.selfsup.{name}")
    method = module.Method(
        module.Config(batch_size=BATCH), load("fashion_mnist"), 0, detect("cpu", "fp32", threads), 100
    )
    model = method.model

    def one_by_one(x, step, stream, size=None, views=None):
        g = generator(model.seed, step, stream)
        seen = [view(x[i : i + 1], draw(views or model.views, 1, g), size) for i in range(len(x))]
        return model.normalised(torch.cat(seen))

    model.view = one_by_one
    rows = minibatches(len(method.x), BATCH, 0)
    method.update(method.x[next(rows)])
    began = time.perf_counter()
    for _ in range(2):
        method.update(method.x[next(rows)])
    return 2 * BATCH / (time.perf_counter() - began)


def lightly(python: str, name: str, threads: int) -> float:
    """Images a second of lightly's, in its own environment, its loader with as many workers as we have threads."""
    file = io.BytesIO()
    np.save(file, load("fashion_mnist").split("train")[:20_000].numpy())
    argv = [python, str(HERE / "selfsup_peer.py"), name, str(BATCH), str(UPDATES), str(threads), str(threads)]
    done = subprocess.run(argv, input=file.getvalue(), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return json.loads(done.stdout.splitlines()[-1])["images_per_s"]


def speed(peer: str | None, rounds: int, threads: int) -> list[dict]:
    """Ours and the comparison take turns; medians with the least and the greatest."""
    rows = []
    against = "lightly" if peer else "a plain float32 loop"
    for name in ("simclr", "byol"):
        pairs = [
            (ours(name, threads), lightly(peer, name, threads) if peer else plain(name, threads)) for _ in range(rounds)
        ]
        mine, theirs = (sorted(column) for column in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        texts = [f"{statistics.median(v):7.0f} ({v[0]:.0f} to {v[-1]:.0f})" for v in (mine, theirs)]
        print(f"{name:8} images/s {texts[0]}   {against} {texts[1]}   ours/theirs {ratio:.2f}   wanted 2")
        rows.append({"name": name, "ours": mine, "theirs": theirs, "against": against, "ratio": ratio})
    return rows


def questions(model, data, split: str, seed: int, share: float, hardware, start: str) -> dict[str, float]:
    """Neighbours, linear probe, and fine-tuning with a share of the labels that the seed draws, of one encoder."""
    found = judge.probe(judge.embedding(model), data, split, K, T)
    y = data.labels("train")
    rows = judge.some_labels(y, share, seed)
    x = data.split("train")[rows]
    net = judge.fine_tuned(model, x, y[rows], len(data.classes), seed, judge.rate_for(model, start), hardware)
    finetuned = judge.accuracy(net, data.split(split), data.labels(split))
    return {"knn": found["knn"].mean, "probe": found["probe"].mean, "finetune": finetuned.mean}


def figures(name: str, seeds: list[int], threads: int, runs: Path, split: str, share: float) -> list[dict]:
    """Train and judge what has not been trained and judged yet; one row a run, and one of what it is compared with."""
    hardware, rows = detect("cpu", "bf16", threads), []
    stored = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else []
    baselines = {row["seed"]: row for row in stored if row["figure"] == "untrained"} if split == "test" else {}
    for figure, command in FIGURES.items():
        if name not in figure:
            continue
        for seed in seeds:
            out = runs / f"{figure}-seed{seed}"
            if not (out / "pictures").exists():
                argv = [*command.split()[1:], "--seed", str(seed), "--threads", str(threads), "--out", str(out)]
                resumed = ["--resume"] if out.exists() else []
                subprocess.run([sys.executable, "-m", "ptheta", *argv, *resumed], check=True)
            model, run = ptheta.load(str(out)), Run.open(out)
            data = api.data_of(run)
            kept = out / f"judged-{split}-{share:g}.json"
            if not kept.exists():
                last = [m for m in run.metrics() if m["split"] == "valid"][-1]
                found = questions(model, data, split, seed, share, hardware, "trained")
                own = features.own_figures(str(out), ptheta.load(str(out)), data, split, hardware)
                found |= {k: e.mean for k, e in own.items()}
                kept.write_text(json.dumps({"figures": found, "minutes": minutes(out), "steps": last["step"]}))
            kind = f"{data.name} {model.arguments['encoder']} {model.encoder.features} {model.cells}"
            compared = runs / f"untrained-{kind.replace(' ', '-')}-{split}-{share:g}.json"
            if kind not in baselines and not compared.exists():
                raw = judge.probe(judge.pixels, data, split, K, T)
                each = [
                    questions(judge.untrained(model, s), data, split, s, share, hardware, "untrained") for s in range(3)
                ]
                untrained = {k: [e[k] for e in each] for k in each[0]}
                compared.write_text(json.dumps({"raw": {k: e.mean for k, e in raw.items()}, "untrained": untrained}))
            if kind not in baselines:
                baselines[kind] = {"figure": "untrained", "seed": kind, **json.loads(compared.read_text())}
            rows.append(
                {"figure": figure, "seed": seed, "command": command, "compare": kind, **json.loads(kept.read_text())}
            )
            print(figure, seed, {k: round(v, 4) for k, v in rows[-1]["figures"].items()}, flush=True)
    return rows + list(baselines.values())


def table(rows: list[dict]) -> None:
    """Means over seeds with their standard errors, per cent, one line a figure, and the median of the minutes, as a
    resumed run counts its breaks; what figures are compared with has lines of its own."""
    columns = ("knn", "probe", "finetune", "recovered", "r5", "r5_chance", "zero_shot", "zero_shot_macro", "rank_me")
    print("| figure | seeds | minutes | " + " | ".join(columns) + " |")
    lines: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["figure"] == "untrained":
            lines[f"raw: {row['seed']}"] = {k: [v] for k, v in row["raw"].items()}
            lines[f"untrained: {row['seed']}"] = row["untrained"]
        else:
            of = lines.setdefault(row["figure"], {})
            for k, v in (row["figures"] | {"minutes": row["minutes"]}).items():
                of.setdefault(k, []).append(v)
    for name, of in lines.items():
        cells = [f"{len(next(iter(of.values())))}", f"{statistics.median(of.get('minutes', [0])):.1f}"]
        for column in columns:
            v, scale = of.get(column, []), 1 if column == "rank_me" else 100
            error = f" ± {scale * statistics.stdev(v) / len(v) ** 0.5:.2f}" if len(v) > 1 else ""
            cells.append(f"{scale * statistics.mean(v):.2f}{error}" if v else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def minutes(out: Path) -> float:
    """From the first measurement of a run to its last; resumed runs count their breaks."""
    times = [json.loads(line)["time"] for line in (out / "times.jsonl").read_text().splitlines()]
    return (times[-1] - times[0]) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what has been measured")
    parser.add_argument("--peer", help="interpreter of an environment with lightly")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", nargs="?", const="", help="part of the names to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--share", type=float, default=0.01, help="of the labels, for fine-tuning")
    asked = parser.parse_args()
    if asked.figures is not None and not any(asked.figures in figure for figure in FIGURES):
        parser.error(f"no figure has {asked.figures!r} in its name; allowed: parts of {', '.join(FIGURES)}.")
    found: dict = {}
    if asked.speed:
        found["speed"] = speed(asked.peer, asked.rounds, asked.threads)
    if asked.figures is not None:
        found["figures"] = figures(asked.figures, asked.seeds, asked.threads, asked.runs, asked.split, asked.share)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # now: another one may have written meanwhile
    if "figures" in found:
        rows = {(r["figure"], r["seed"]): r for r in stored.get("figures", []) + found["figures"]}
        found["figures"] = list(rows.values())
    if found:
        RESULTS.write_text(json.dumps(stored | found, indent=2) + "\n")
    if asked.table:
        table((stored | found).get("figures", []))


if __name__ == "__main__":
    main()
