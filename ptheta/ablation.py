"""`ptheta ablation`: one network with pooling, without dilation, and with rates of three kinds; what each finds.

The network is `context` without its module, with six rated blocks and scores that are bilinear between the places of
its last map; the variants differ in strides and rates, and the first has two projections more:

    pooled     output stride 32: two of the blocks halve the map, as in nets for classification
    plain      output stride 8, every rate 1: fine, and sees little
    repeated   rate 4 six times: sees far, and reads every fourth row and column (gridding)
    rising     1, 2, 3, 4, 5, 9: hybrid rates without holes
    sawtooth   1, 2, 5, 1, 2, 5: hybrid rates in two groups
"""

from __future__ import annotations

import json as json_module
import math
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ptheta import api
from ptheta.data.label_maps import load
from ptheta.engine import checkpoint
from ptheta.engine.errors import UsageError
from ptheta.engine.results import save_whole, target
from ptheta.engine.run import Run
from ptheta.segmentation.score import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

VARIANTS = {  # rates, output stride
    "pooled": ((1, 1, 1, 1, 1, 1), 32),
    "plain": ((1, 1, 1, 1, 1, 1), 8),
    "repeated": ((4, 4, 4, 4, 4, 4), 8),
    "rising": ((1, 2, 3, 4, 5, 9), 8),
    "sawtooth": ((1, 2, 5, 1, 2, 5), 8),
}
FIGURES = ("miou", "small", "medium", "large")


def ablation(
    data: str = "scenes", size: int | None = None, steps: int = 1500, seeds: tuple[int, ...] = (0, 1, 2),
    width: int = 24, batch_size: int = 16, split: str | None = None, runs: Path = Path("runs/ablation"),
    threads: int | None = None, out: Path | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Pooling, no dilation, one repeated rate, hybrid rates: mean IoU, and the IoU of things by their size.

    Args:
        data: Pictures with label maps: scenes, camvid, a folder.
        size: Shorter side to which they are scaled.
        steps: Updates of each network.
        seeds: One network each.
        width: Channels of the first convolution.
        batch_size: Pictures in a minibatch.
        split: Where they are measured (default: test, or the last there is).
        runs: Folder of the runs. Those that are there are not trained again, and unfinished ones go on.
        threads: CPU threads.
        out: Picture without ending (default: ablation in the folder of the runs, numbered when it exists).
        json: Print one JSON object.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds = {seeds}; allowed: one seed and more, all different.")
    if out is not None:
        target(".", out, "")  # a name that is taken is told before the trainings
    asked = {"data": data, "size": size, "steps": steps, "width": width, "batch_size": batch_size}
    paths = {(name, seed): runs / f"{name}-seed{seed}" for name in VARIANTS for seed in seeds}
    for path in paths.values():
        same(path, asked)
    pictures = load(data, size=size)
    split = split or pictures.splits[-1]
    pictures.split(split)  # one that there is not is told before the trainings, too
    rows = []
    for name, (rates, stride) in VARIANTS.items():
        of_seeds = []
        for seed in seeds:
            path = paths[name, seed]
            print(f"ptheta: {name}, seed {seed}: {path}", file=sys.stderr)
            if max((step for step, _ in checkpoint.steps(path / "checkpoints")), default=0) < steps:
                api.train(
                    "context", **asked, seed=seed, rates=rates, output_stride=stride, context="none", threads=threads,
                    out=str(path), resume=(path / "config.json").exists(),
                )  # fmt: skip
            of_seeds.append(figures(Run.open(path), pictures, split))
        rows.append({"name": name, "rates": list(rates), "output_stride": stride, **seen(rates, stride)})
        rows[-1] |= {k: [one[k] for one in of_seeds] for k in FIGURES} | {"things": of_seeds[0]["things"]}
    told = {"data": data, "split": split, "steps": steps, "seeds": list(seeds), "variants": rows}
    path = target(str(runs), out, "ablation")
    figure = picture(told)
    save_whole(path, {".png": lambda p: figure.savefig(p, format="png", dpi=120)}, say=False)
    if json:
        for row in rows:
            row |= {k: [number(v) for v in row[k]] for k in FIGURES}
        print(json_module.dumps({**told, "picture": f"{path}.png"}))
    else:
        table(told)
        print(f"{path}.png")
    return told


def seen(rates: tuple[int, ...], stride: int) -> dict[str, Any]:
    """What one place of the last map reads of the map that the rated blocks begin with, where none of them halves it:
    the field, and the share of it that is read through all convolutions."""
    from ptheta.segmentation.dilation import Layer, support

    if stride > 8:
        return {"field": None, "share": None}
    read = support([Layer(3, r) for r in rates for _ in range(2)])
    return {"field": read.field, "share": read.share}


def same(path: Path, asked: dict[str, Any]) -> None:
    """UsageError if there is a run of other settings: `api.train` would go on with those of its own."""
    if (path / "config.json").exists():
        about = Run.open(path).about
        own = about["options"] | about["config"]
        if other := [k for k, v in asked.items() if own.get(k) != v]:
            said = ", ".join(f"{k} = {own.get(k)}, not {asked[k]}" for k in other)
            raise UsageError(f"{path} has {said}; ask for the same, or name another folder with --runs.")


def figures(run: Run, data: PictureData, split: str) -> dict[str, Any]:
    """Mean IoU over the classes, and of things by size."""
    from ptheta.segmentation.learning import judged, maps_of, matrices
    from ptheta.segmentation.objects import by_size, things

    model = api.load(run)
    x, y = data.split(split), maps_of(data, split)
    found = {"miou": judged(matrices(model, x, y))["miou"].mean}
    said = torch.cat([model.predict(rows) for rows in x.split(50)])
    ground = 0 if data.classes[0] in ("ground", "background") else None
    sizes = by_size([one for t, s in zip(y, said) for one in things(t, s, ground=ground)])
    return found | {k: v for k, (v, _) in sizes.items()} | {"things": {k: n for k, (_, n) in sizes.items()}}


def pair(values: list[float]) -> str:
    """Mean and standard error in per cent; of no things there is none."""
    if any(math.isnan(v) for v in values):
        return "-"
    error = f" ± {100 * statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{error}"


def table(told: dict[str, Any]) -> None:
    """For a person."""
    counts = told["variants"][0]["things"]
    seeds = ", ".join(map(str, told["seeds"]))
    print(f"{told['data']}, {told['split']}, {told['steps']:,} updates, seeds {seeds}; per cent")
    print(f"{'':10} {'rates':>18} {'field':>6} {'read':>6} {'MIoU':>12} " + " ".join(f"{k:>12}" for k in FIGURES[1:]))
    for row in told["variants"]:
        rates = ",".join(map(str, row["rates"]))
        field, share = ("-", "-") if row["field"] is None else (str(row["field"]), f"{100 * row['share']:.0f}")
        print(f"{row['name']:10} {rates:>18} {field:>6} {share:>6} " + " ".join(f"{pair(row[k]):>12}" for k in FIGURES))
    print(
        ", ".join(f"{n:,} {k}" for k, n in counts.items())
        + " things; field and read: of the rated blocks, in places of the map"
    )


def picture(told: dict[str, Any]) -> Figure:
    """MIoU and the IoU of things by size, one bar a variant, a dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes, rows = figure.add_subplot(), told["variants"]
    for i, row in enumerate(rows):
        at = [k + 0.8 * (i + 0.5) / len(rows) - 0.4 for k in range(len(FIGURES))]
        axes.bar(at, [100 * statistics.mean(row[k]) for k in FIGURES], 0.72 / len(rows), label=row["name"])
        for x, k in zip(at, FIGURES):
            axes.plot([x] * len(row[k]), [100 * v for v in row[k]], ".", color="black", markersize=3)
    titles = ["MIoU of classes", *(f"{k} things" for k in FIGURES[1:])]
    axes.set_xticks(range(len(FIGURES)), titles)
    axes.set_ylabel("IoU, %")
    axes.legend(ncols=len(rows), fontsize=8, frameon=False, loc="upper left")
    axes.set_ylim(0, 1.15 * max(100 * v for row in rows for k in FIGURES for v in row[k] if v == v))
    return figure
