"""The segmentation room: how many pixels are counted a second, how many pictures are learned from and labelled.

    python benchmarks/segmentation.py --counting        one run, all in turns, into benchmarks/results/segmentation.json
    python benchmarks/segmentation.py --speed           training and labelling CamVid at 360 x 480, beside plain float32
    python benchmarks/segmentation.py --context camvid  the context module, and no module, three seeds; or scenes
    python benchmarks/segmentation.py --held-out DIR    CamVid's layout, with the drive 0006R0 for test and not in train
    python benchmarks/segmentation.py --all-ground      docs/pictures/all-ground.png: high accuracy, and nothing found

Maps are 512 x 1024 of 21 classes, 4 % ignored; "streets" are patches of 64 pixels with a tenth of the pixels wrong,
"noise" is drawn for every pixel alone. The limit is what it takes to read both maps from memory once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ptheta.segmentation.confusion import confusion

RESULTS = Path(__file__).parent / "results" / "segmentation.json"
CLASSES, HEIGHT, WIDTH, PICTURES = 21, 512, 1024, 16
ROUNDS = 7
CONTEXT = {
    "camvid": "train context --data camvid --size 180 --width 16 --batch-size 8 --steps 800 --eval-every 200",
    "scenes": "train context --data scenes --width 16 --learning-rate 0.01 --least-scale 1 --greatest-scale 1"
    " --colour 0 --steps 3000 --eval-every 500",
}
NETWORKS: list[tuple[str, dict]] = [
    ("context", {}), ("hdc", {}), ("deeplab", {}), ("deeplab", {"width": 24, "output_stride": 16}),
    ("deeplab", {"width": 16, "output_stride": 16}),
]  # fmt: skip


def maps(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, (PICTURES, HEIGHT, WIDTH) uint8."""
    r = np.random.RandomState(seed)
    shape = (PICTURES, HEIGHT, WIDTH)
    if kind == "noise":
        t, s = r.randint(CLASSES, size=(2, *shape)).astype(np.uint8)
    else:
        coarse = r.randint(CLASSES, size=(PICTURES, HEIGHT // 64, WIDTH // 64)).astype(np.uint8)
        t = coarse.repeat(64, 1).repeat(64, 2)
        s = np.where(r.rand(*shape) < 0.1, r.randint(CLASSES, size=shape), t).astype(np.uint8)
    return np.where(r.rand(*shape) < 0.04, 255, t).astype(np.uint8), s


def speed(rounds: int = 3, batch: int = 8, updates: int = 2) -> list[dict]:
    """Pictures a second of CamVid's size in training and in labelling: ours, in bf16 where the CPU has it, and the same
    network in a plain loop, in float32, rows of pixels one after another, forms made picture by picture, and labels by
    argmax. All in turns."""
    from ptheta.api import method
    from ptheta.data.label_maps import load
    from ptheta.data.order import generator
    from ptheta.engine.hardware import Precision, bf16_on_cpu, detect
    from ptheta.segmentation.augmentation import augmented, draw

    data, rows = load("camvid"), []
    quick: Precision = "bf16" if bf16_on_cpu() else "fp32"
    ways: list[tuple[str, Precision]] = [("ours", quick), ("plain", "fp32")]
    for name, own in NETWORKS:
        module = method(name)
        learners = {
            way: module.Method(module.Config(batch_size=batch, **own), data, 0, detect("cpu", precision, None), 1000)
            for way, precision in ways
        }
        plain = learners["plain"]
        plain.model.backbone.memory_format = torch.contiguous_format
        x, y = plain.x[:batch], plain.y[:batch]

        def one_by_one(x=x, y=y) -> tuple[torch.Tensor, torch.Tensor]:
            g = generator(0, 0, "forms")
            forms = [
                augmented(x[i : i + 1], y[i : i + 1], draw(1, g, (0.6, 1.7), 0.5, 0.3), (360, 480))
                for i in range(len(x))
            ]
            return torch.cat([a for a, _ in forms]), torch.cat([b for _, b in forms])

        batches = learners["ours"].batches(0, 0, 1)

        def train(way: str, batches=batches, learners=learners, one_by_one=one_by_one) -> float:
            began = time.perf_counter()
            for _ in range(updates):
                learners[way].update(next(batches) if way == "ours" else one_by_one())
            return updates * batch / (time.perf_counter() - began)

        def label(way: str, learners=learners, x=x) -> float:
            began = time.perf_counter()
            model = learners[way].model
            with learners[way].hardware.autocast(), torch.no_grad():
                for _ in range(updates):
                    if way == "ours":
                        model.predict(x)
                    else:
                        model.eval().scores(model.normalised(x)).argmax(1)
            return updates * batch / (time.perf_counter() - began)

        for way in learners:
            train(way), label(way)
        found = {f"{what} {way}": [] for what in ("training", "labelling") for way in learners}
        for _ in range(rounds):
            for what, f in (("training", train), ("labelling", label)):
                for way in learners:
                    found[f"{what} {way}"].append(f(way))
        for what in ("training", "labelling"):
            mine, theirs = (sorted(found[f"{what} {way}"]) for way in learners)
            ratio = statistics.median(a / b for a, b in zip(found[f"{what} ours"], found[f"{what} plain"]))
            texts = [f"{statistics.median(v):6.1f} ({v[0]:.1f} to {v[-1]:.1f})" for v in (mine, theirs)]
            called = " ".join([name, *(f"{k} {v}" for k, v in own.items())])
            print(f"{called:32} {what:9} pictures/s {texts[0]}   plain {texts[1]}   ratio {ratio:.2f}", flush=True)
            rows.append(
                {"name": called, "what": what, "precision": quick, "ours": mine, "plain": theirs, "ratio": ratio}
            )
    return rows


def with_and_without_context(data: str, runs: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, list[dict]]:
    """Scores with the module and of its front end alone on test, or on CamVid's validation split, as it has no other.
    Runs that are there are not trained again."""
    import ptheta
    from ptheta import api
    from ptheta.engine.run import Run
    from ptheta.segmentation.learning import judged, maps_of, matrices

    found: dict[str, list[dict]] = {}
    for kind in ("none", "basic"):
        for seed in seeds:
            out = runs / f"context-{kind}-{data}-seed{seed}"
            if not (out / "pictures").exists():
                words = f"{CONTEXT[data]} --context {kind} --seed {seed} --threads 1 --out {out}".split()
                subprocess.run([sys.executable, "-m", "ptheta", *words], check=True)
            pictures = api.data_of(Run.open(out))
            split = pictures.splits[-1]
            each = matrices(ptheta.load(str(out)), pictures.split(split), maps_of(pictures, split))
            row = {"seed": seed, "split": split} | {k: e.mean for k, e in judged(each).items()}
            found.setdefault(kind, []).append(row)
            print(data, kind, seed, split, {k: round(100 * row[k], 2) for k in ("miou", "pa")}, flush=True)
    gains = [100 * (b["miou"] - a["miou"]) for a, b in zip(found["none"], found["basic"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    print(f"{data}: {statistics.mean(gains):+.1f} ± {error:.1f} mIoU by the module; wanted +1.5")
    return found


def held_out(folder: Path, drive: str = "0006R0") -> None:
    """CamVid as a folder of links, a drive of its training set being the test set: its validation frames come from a
    drive that is trained on, and flatter."""
    from ptheta.data.known_pictures import folder_of
    from ptheta.data.label_maps import CAMVID

    source = folder_of("camvid")
    for split in ("train", "val"):
        for kind in ("", "annot"):
            for file in sorted((source / f"{split}{kind}").iterdir()):
                into = "test" if split == "train" and file.name.startswith(drive) else split
                (folder / f"{into}{kind}").mkdir(parents=True, exist_ok=True)
                (folder / f"{into}{kind}" / file.name).symlink_to(file.resolve())
    (folder / "classes.txt").write_text("\n".join((*CAMVID, "void")) + "\n")
    print(f"ptheta train deeplab --data {folder} --width 24 --output-stride 16 --batch-size 8 --steps 2500")


def all_ground(path: Path) -> None:
    """What "everything is ground" scores on the scenes that are nearly all ground, drawn beside three of them."""
    from matplotlib.figure import Figure

    from ptheta.data.label_maps import load
    from ptheta.segmentation.metrics import scores
    from ptheta.segmentation.pictures import palette

    data = load("scenes")
    x, y = data.split("test"), data.maps("test")
    assert y is not None
    rows = ((y > 0).float().mean((1, 2)) < 0.15).nonzero().flatten()
    found = scores(confusion(y[rows], torch.zeros_like(y[rows]), len(data.classes))).named()
    print(f"{len(rows)} of {len(x)} scenes", {k: round(100 * v, 2) for k, v in found.items()})
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    for k, row in enumerate(rows[:3]):
        for i, image in enumerate((x[row].permute(1, 2, 0).numpy(), palette()[y[row].numpy()])):
            axes = figure.add_subplot(grid[i, k])
            axes.imshow(image, interpolation="nearest")
            axes.axis("off")
            if k == 1:
                axes.set_title(("scenes", "their labels")[i], fontsize=9)
    axes = figure.add_subplot(grid[:, 3:])
    names = {"pa": "PA", "fwiou": "FWIoU", "mpa": "MPA", "miou": "MIoU", "kappa": "κ"}
    bars = axes.bar(list(names.values()), [100 * found[k] for k in names], color=["C0", "C0", "C1", "C1", "C1"])
    axes.bar_label(bars, fmt="%.1f")
    axes.set_ylim(0, 105)
    axes.set_title('"everything is ground" scores, %', fontsize=9)
    figure.savefig(path, dpi=110)


def seconds(f: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def ways(kind: str) -> dict[str, tuple[Callable[[], object], int]]:
    """Each way to count, and how many pictures it counts in a call; the slow ones count two."""
    from sklearn.metrics import confusion_matrix
    from torchmetrics.functional.classification import multiclass_jaccard_index
    from torchmetrics.segmentation import MeanIoU

    t8, s8 = (torch.from_numpy(x) for x in maps(kind))
    t64, s64 = t8.long(), s8.long()
    inside = torch.where(t8 == 255, 0, t8)[:2]  # for those that ignore nothing

    def numpy_counts() -> None:
        t, s = t8.numpy().ravel(), s8.numpy().ravel()
        kept = t != 255
        np.bincount(t[kept].astype(np.int64) * CLASSES + s[kept], minlength=CLASSES**2)

    def mean_iou() -> None:
        metric = MeanIoU(num_classes=CLASSES, input_format="index")
        metric.update(s64[:2], inside.long())
        metric.compute()

    def scikit_learn() -> None:
        confusion_matrix(inside.numpy().ravel(), s8[:2].numpy().ravel(), labels=range(CLASSES))

    return {
        "ptheta, uint8": (lambda: [confusion(t, s, CLASSES) for t, s in zip(t8, s8)], PICTURES),
        "ptheta, int64": (lambda: [confusion(t, s, CLASSES) for t, s in zip(t64, s64)], PICTURES),
        "numpy bincount, uint8": (numpy_counts, PICTURES),
        "torchmetrics MeanIoU, int64": (mean_iou, 2),
        "torchmetrics Jaccard, int64": (
            lambda: multiclass_jaccard_index(s64[:2], t64[:2], CLASSES, ignore_index=255), 2,
        ),
        "scikit-learn, uint8": (scikit_learn, 2),
        "reading both maps, uint8": (lambda: [(t.max(), s.max()) for t, s in zip(t8, s8)], PICTURES),
    }  # fmt: skip


def counting() -> list[dict]:
    """Millions of pixels a second, medians over rounds with the least and the greatest; every way takes its turn."""
    rows = []
    for kind in ("streets", "noise"):
        by_name = ways(kind)
        rates: dict[str, list[float]] = {name: [] for name in by_name}
        for f, _ in by_name.values():
            f()
        for _ in range(ROUNDS):
            for name, (f, pictures) in by_name.items():
                rates[name].append(pictures * HEIGHT * WIDTH / seconds(f) / 1e6)
        ours = statistics.median(rates["ptheta, uint8"])
        for name, found in rates.items():
            middle, spread = statistics.median(found), f"({min(found):,.0f} to {max(found):,.0f})"
            print(f"{kind:8} {name:28} {middle:8,.1f} Mpixel/s {spread:18} ours, uint8: {ours / middle:.3g} times")
            rows.append({"maps": kind, "way": name, "mpixel_per_s": sorted(found)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counting", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--context", choices=list(CONTEXT))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--held-out", type=Path, metavar="DIR")
    parser.add_argument("--all-ground", action="store_true")
    asked = parser.parse_args()
    if asked.all_ground:
        all_ground(Path(__file__).parent.parent / "docs" / "pictures" / "all-ground.png")
    elif asked.held_out:
        held_out(asked.held_out)
    elif asked.counting or asked.speed or asked.context:
        found = ({"counting": counting()} if asked.counting else {}) | ({"speed": speed()} if asked.speed else {})
        if asked.context:
            found[f"context on {asked.context}"] = with_and_without_context(asked.context, asked.runs)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(stored | found, indent=2) + "\n")
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
