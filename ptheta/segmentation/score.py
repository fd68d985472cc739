r"""`ptheta score TRUTH PREDICTIONS`: the scores of anyone's predictions, from two folders of label maps.

Every map of the truth has a prediction of the same name (endings may differ, folders in folders count as part of the
name). Maps are PNG or other lossless images of whole numbers, of 1, 8 or 16 bits, grey or palette, or .npy. One
confusion matrix is counted over all of them, `confusion`, eq. (1), from which `metrics`, eqs. (1) to (6), follow; each
picture's own mean IoU, over the classes that it has or is said to have, only ranks the worst.
"""

from __future__ import annotations

import json as json_module
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import tyro

from ptheta.data.label_maps import Pairs, maps_in, partners, read_map, read_names
from ptheta.engine.errors import UsageError
from ptheta.engine.progress import Progress
from ptheta.engine.results import save_whole, target
from ptheta.segmentation.boundary import boundary_f
from ptheta.segmentation.confusion import MOST, confusion
from ptheta.segmentation.metrics import policy_of, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AHEAD = 8  # maps that are read before they are counted
TITLES = {
    "pa": "pixel accuracy", "mpa": "mean accuracy of classes", "miou": "mean IoU", "fwiou": "frequency weighted IoU",
    "dice": "mean Dice", "kappa": "Cohen's kappa", "boundary_f": "mean boundary F",
}  # fmt: skip


def score(
    truth: Annotated[Path, tyro.conf.Positional], predictions: Annotated[Path, tyro.conf.Positional],
    classes: Annotated[str, tyro.conf.arg(metavar="FILE|NUMBER")], ignore: int | None = 255, policy: str = "mmseg",
    boundary: bool = False, worst: int = 5, out: Path | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Pixel accuracy, mean accuracy, IoU, Dice and κ of a folder of predicted label maps; the confusion matrix drawn.

    Args:
        truth: Folder of label maps.
        predictions: Folder of maps of the same names.
        classes: File with a class name a line, in the order of the labels 0, 1, …; or how many classes there are.
        ignore: Label of the truth that is not scored (None: all are).
        policy: What classes count that are absent from the truth: mmseg, detectron2, torchvision, segnet, torchmetrics.
        boundary: Also the boundary F-score, with a tolerance of 0.75 % of the diagonal; slower.
        worst: How many of the worst pictures to name.
        out: Picture of the confusion matrix (default: confusion.png, numbered when it exists).
        json: Print one JSON object.
    """
    names = class_names(classes)
    policy_of(policy)  # an unknown one is told before hours of counting
    pairs = partners(maps_in(truth), maps_in(predictions), truth, predictions, "maps")
    path = target(".", out, "confusion")
    p, each, F, ignored = counted(pairs, len(names), ignore, boundary)
    found = scores(p, policy)
    lowest = sorted((value, name) for name, value in each.items() if not math.isnan(value))[: max(0, worst)]
    columns = {"accuracy": found.accuracy, "iou": found.iou, "dice": found.dice_of}
    means = found.named()
    if boundary:
        columns["boundary_f"], means["boundary_f"] = F, F.nanmean().item()
    told = {
        "pictures": len(pairs), "pixels": int(p.sum()), "ignored": ignored, "policy": policy, "ignore": ignore,
        "metrics": {k: number(v) for k, v in means.items()},
        "classes": [
            {"name": n, "pixels": int(found.truth[c]), **{k: number(v[c]) for k, v in columns.items()}}
            for c, n in enumerate(names)
        ],
        "worst": [{"name": name, "miou": value} for value, name in lowest],
        "confusion": p.tolist(), "picture": str(path.with_name(path.name + ".png")),
    }  # fmt: skip
    if json:
        print(json_module.dumps(told))
    else:
        table(told)
    sys.stdout.flush()  # what was counted is told before anything can go wrong with a picture
    figure = picture(p, names)
    save_whole(path, {".png": lambda f: figure.savefig(f, format="png", dpi=130)}, say=False)
    return told


def number(value: Any) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(float(value)) else float(value)


def class_names(classes: str) -> list[str]:
    """The lines of a file, or "class 0", "class 1", … for a number."""
    if classes.isdecimal():
        if not 1 <= int(classes) <= MOST:
            raise UsageError(f"--classes {classes} is impossible; allowed: 1 to {MOST:,}, or a file of names.")
        return [f"class {i}" for i in range(int(classes))]
    return read_names(Path(classes))


def counted(
    pairs: Pairs, classes: int, ignore: int | None, boundary: bool
) -> tuple[torch.Tensor, dict[str, float], torch.Tensor, int]:
    """The matrix of all pairs, the mean IoU of each, the boundary F-score of each class, NaN if it is not asked for,
    and how many pixels were ignored. A few maps are read ahead of what is counted."""
    ignored, total, each = 0, torch.zeros(classes, classes, dtype=torch.long), {}
    F, pictures_of = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.long)
    with Progress(0, len(pairs), "pictures", visible=True) as progress, ThreadPoolExecutor(2) as pool:
        waiting: list[tuple[str, Any]] = []
        todo = iter(pairs.items())

        def more() -> None:
            for name, (t, p) in todo:
                waiting.append((name, pool.submit(lambda t=t, p=p: (read_map(t), read_map(p)))))
                if len(waiting) >= AHEAD:
                    return

        more()
        for step in range(1, len(pairs) + 1):
            name, reading = waiting.pop(0)
            if len(waiting) < AHEAD // 2:
                more()
            t, s = reading.result()
            p = confusion(t, s, classes, ignore, name)
            total += p
            ignored += t.size - int(p.sum())
            each[name] = scores(p).miou
            if boundary:
                of_picture = boundary_f(t, s, classes, ignore, where=name)
                F += of_picture.nan_to_num(0.0)
                pictures_of += ~of_picture.isnan()
            progress.advance(step)
    return total, each, F / pictures_of, ignored


def table(told: dict[str, Any]) -> None:
    """For a person."""
    columns = {"accuracy": "accuracy", "iou": "IoU", "dice": "Dice", "boundary_f": "outline"}
    columns = {k: title for k, title in columns.items() if k in told["classes"][0]}
    width = max(len(n) for n in [*TITLES.values(), *(c["name"] for c in told["classes"])])
    print(f"{'class':{width}} {'pixels':>14} {'share':>7} " + " ".join(f"{title:>9}" for title in columns.values()))
    for one in told["classes"]:
        share = f"{one['pixels'] / told['pixels']:.2%}" if told["pixels"] else "-"
        shown = " ".join(f"{'-' if one[k] is None else format(one[k], '.4f'):>9}" for k in columns)
        print(f"{one['name']:{width}} {one['pixels']:14,} {share:>7} {shown}")
    print(f"\n{told['pictures']:,} pictures, {told['pixels']:,} pixels scored; absent classes as in {told['policy']}")
    if told["ignored"]:
        share = told["ignored"] / (told["ignored"] + told["pixels"])
        print(f"{told['ignored']:,} more, {share:.1%}, have the ignored label {told['ignore']} and are not scored")
        if sum(one["pixels"] > 0 for one in told["classes"]) == 1:
            print(
                f"the truth has one class and that label alone: if {told['ignore']} is a class, name another --ignore"
            )
    for key, value in told["metrics"].items():
        print(f"{TITLES[key]:{width}} {'NaN' if value is None else format(value, '.4f')}")
    if not told["pixels"]:
        print("no pixel was scored: all of the truth is ignored")
    if told["worst"]:
        print("\nthe worst, by mean IoU")
        for one in told["worst"]:
            print(f"  {one['miou']:.4f}  {one['name']}")
    print(f"\n{told['picture']}")


def picture(p: torch.Tensor, names: list[str]) -> Figure:
    """The confusion matrix, each row as shares of its class: the diagonal is the classes' accuracy."""
    from matplotlib.figure import Figure

    share = (p.double() / p.sum(1, keepdim=True)).numpy()
    n = len(names)
    side = min(14.0, 2.4 + 0.42 * n)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the class's pixels")
    if n <= 60:
        axes.set_xticks(range(n), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(n), names, fontsize=8, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if n <= 25:
        for i in range(n):
            for j in range(n):
                if share[i, j] >= 0.005:
                    dark = "white" if share[i, j] > 0.5 else "black"
                    axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=dark)
    return figure


def command(argv: list[str]) -> int:
    """`ptheta score TRUTH PREDICTIONS --classes FILE [options]`."""
    tyro.cli(score, args=argv, prog="ptheta score", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
