"""`ptheta annotate`: the data engine, from pictures to masks to a model that makes better ones.

    ptheta annotate FOLDER --model M --out OUT              a person in a window; again with the same OUT it goes on
    ptheta annotate nested --model M --out OUT --simulate   somebody simulated, who has the set's own masks in mind

In OUT: `sets/1-assisted/`, `sets/2-semi/`, …, each a set of masks to train on, `models/1-assisted/`, …, the run after
each, `report.json` and `report.png`. What each stage is, `ptheta.sam.data_engine` says.
"""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptheta import api
from ptheta.data import instances
from ptheta.data.images import image_files
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.progress import Progress
from ptheta.sam import data_engine
from ptheta.sam.predictor import Predictor
from ptheta.sam.twice import Twice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("assisted", "semi", "automatic")
ROUNDS = "assisted:40,assisted:40,semi:40,semi:40,automatic:80"


def annotate(
    pictures: Annotated[str, tyro.conf.Positional], model: str, out: Path, simulate: bool = False,
    rounds: str = ROUNDS, steps: int = 600, batch_size: int = 4, learning_rate: float = 2e-3, points: int = 24,
    enough: float = 0.9, likely: float = 0.6, sure: float = 0.72, seed: int = 0,
    threads: int | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Make masks with the help of a model that learns from them.

    Args:
        pictures: A folder of pictures; with --simulate a set that has masks, as `ptheta train sam --data` takes it.
        model: The weights to begin with: a run, a model folder, SAM's .pth.
        out: Folder of the sets, the models and the report; what is in it from before is gone on with.
        simulate: Clicks are made by somebody simulated, who has the set's masks in mind.
        rounds: Stages and how many pictures each, one after the other; pictures are not looked at twice.
        steps: Updates after each round, from all masks so far.
        batch_size: Pictures in a minibatch of these.
        learning_rate: Step size of these at its highest.
        points: Points a side of the grid that asks for masks without a person.
        enough: IoU with which somebody simulated is content.
        likely: Least confidence (`twice`, eq. (2)) of masks that are there before a person begins (semi).
        sure: Least confidence of masks that nobody looks at (automatic).
        seed: Of the trainings.
        threads: CPU threads.
        json: Print one JSON object.
    """
    plan = parsed(rounds)
    first = api.load(model)
    if getattr(first, "name", "") != "sam":
        raise InputError(f"{model} is of {first.name}, which makes no masks for points; give weights of sam.")
    asked = {"pictures": pictures, "model": model, "simulate": simulate, "rounds": rounds, "steps": steps,
             "batch_size": batch_size, "learning_rate": learning_rate, "points": points, "enough": enough,
             "likely": likely, "sure": sure, "seed": seed}  # fmt: skip
    examples, valid = looked_at(pictures, simulate, first.size, sum(one.pictures for one in plan))
    automatic = Twice(points=points, sure=sure)
    if not 0 <= likely <= 1:
        raise UsageError(f"likely = {likely} is impossible; allowed: at least 0 and at most 1 (option --likely).")
    annotator = data_engine.Simulated(enough) if simulate else person()
    opened(out, asked)
    reports, begin, weights = [], 0, Path(model)
    for number, one in enumerate(plan, 1):
        name = f"{number}-{one.stage}"
        folder = out / "sets" / name
        part = examples[begin : begin + one.pictures]
        begin += one.pictures
        if not part:
            print(f"ptheta: no picture is left for round {name}.", file=sys.stderr)
            break
        if not (folder / "provenance.json").exists():
            predictor = Predictor(api.load(str(weights)))
            with Progress(0, len(part), "pictures", visible=True) as progress:
                progress.note(name)
                try:
                    data_engine.round_of(
                        part, one.stage, folder, predictor, annotator, replace(automatic, sure=likely), automatic,
                        number, progress.advance,
                    )  # fmt: skip
                except data_engine.Left:
                    print(f"ptheta: left; all is kept in {out}. Go on with the same command.", file=sys.stderr)
                    return {"rounds": reports}
        reports.append(json_module.loads((folder / "provenance.json").read_text()))
        if any(one["masks"] for one in reports):
            weights = learn(out, names(plan)[:number], weights, first, valid, asked, threads)
        else:
            print(f"ptheta: there is no mask to learn from after round {name}.", file=sys.stderr)
    return reported(out, reports, json)


def parsed(rounds: str) -> list[data_engine.Round]:
    """Of "assisted:40,semi:20"."""
    plan = []
    for part in rounds.split(","):
        stage, _, count = part.strip().partition(":")
        if stage not in STAGES or not count.isdigit() or not int(count):
            raise UsageError(f"round {part!r} is impossible; allowed: {', '.join(STAGES)}, each with :PICTURES.")
        plan.append(data_engine.Round(stage, int(count)))  # pyright: ignore
    return plan


def names(plan: list[data_engine.Round]) -> list[str]:
    """What the folders of rounds are called."""
    return [f"{number}-{one.stage}" for number, one in enumerate(plan, 1)]


def opened(out: Path, asked: dict[str, Any]) -> None:
    """Begin in a folder, or go on. Raises UsageError where something else is there, or other settings were given."""
    file = out / "config.json"
    if file.exists():
        before = json_module.loads(file.read_text())
        if other := [f"{k} = {before.get(k)}, not {v}" for k, v in asked.items() if before.get(k) != v]:
            raise UsageError(f"{out} was begun with {', '.join(other)}; ask for the same, or name another --out.")
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds something else; name another --out.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(file, json_module.dumps(asked, indent=2) + "\n")


def looked_at(
    pictures: str, simulate: bool, size: int, count: int
) -> tuple[Sequence[instances.Example], Sequence[instances.Example]]:
    """The pictures, and others with true masks to measure models by."""
    if simulate:
        data = instances.load(pictures, size)
        return data.split("train")[:count], data.split("valid")[:40] if "valid" in data.splits else []
    folder = Path(pictures)
    files = image_files(folder) if folder.is_dir() else []
    if not files:
        raise InputError(f"{pictures} is no folder of pictures; to simulate, add --simulate.")
    return [instances.unmasked(file) for file in files[:count]], []


def person() -> Any:
    """Somebody at a screen."""
    from ptheta.sam.window import Person

    return Person()


def learn(
    out: Path, sets: list[str], weights: Path, first: Any, valid: Sequence[instances.Example], asked: dict[str, Any],
    threads: int | None,
) -> Path:  # fmt: skip
    """Train on all masks so far, from the weights that helped to make the last, unless that has been done; the run."""
    path = out / "models" / sets[-1]
    if max((step for step, _ in checkpoint.steps(path / "checkpoints")), default=0) >= asked["steps"]:
        return path
    data = instances.together([out / "sets" / name for name in sets], first.size, valid)
    api.train(
        "sam", data, variant=first.variant, size=first.size, init=str(weights), steps=asked["steps"],
        eval_every=asked["steps"], batch_size=asked["batch_size"], learning_rate=asked["learning_rate"],
        warmup=min(100, asked["steps"] // 10), seed=asked["seed"], threads=threads, out=str(path),
        resume=(path / "config.json").exists(),
    )  # fmt: skip
    return path


def reported(out: Path, reports: list[dict[str, Any]], json: bool) -> dict[str, Any]:
    """Write, draw and print what each round came to."""
    told = {"rounds": reports}
    checkpoint.write_text(out / "report.json", json_module.dumps(told, indent=2) + "\n")
    drawn(reports).savefig(out / "report.png", dpi=120)
    if json:
        print(json_module.dumps(told))
        return told
    print(f"{'round':14} pictures  masks  a picture  by the model  painted  clicks a mask  above .9  recall")
    for one in reports:
        quality = "       -       -" if one["quality"] is None else f"{one['quality']:8.0%}{one['recall']:8.0%}"
        counts = f"{one['pictures']:8,} {one['masks']:6,} {one['masks_per_picture']:10.1f}"
        made = f"{one['from_model']:13,} {one['painted']:8,} {one['clicks_per_mask']:14.2f}"
        print(f"{one['version']}-{one['stage']:12} {counts} {made}  {quality}")
    print(f"{out}/report.png")
    return told


def drawn(reports: list[dict[str, Any]]) -> Figure:
    """Clicks for a mask, masks in a picture, and quality, round by round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    at = range(len(reports))
    labels = [f"{one['version']}\n{one['stage']}" for one in reports]
    shown = {
        "clicks a mask": ["clicks_per_mask"], "masks a picture": ["masks_per_picture"],
        "against the truth": ["quality", "recall", "mean_iou"],
    }  # fmt: skip
    for axis, (title, keys) in zip(axes, shown.items()):
        for key in keys:
            values = [one[key] for one in reports]
            if len(keys) == 1:
                axis.bar(at, values, color="tab:blue")
                for x, value in zip(at, values):
                    axis.text(x, value, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
            elif None not in values:
                axis.plot(at, values, "o-", label=key.replace("_", " "))
        axis.set_title(title, fontsize=10)
        axis.set_xticks(list(at), labels, fontsize=8)
        if axis.get_legend_handles_labels()[0]:
            axis.set_ylim(0, 1)
            axis.legend(fontsize=8)
    return figure
