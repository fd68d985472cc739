"""What a person does with a trained encoder on the command line: evaluate, embed, complete, neighbours."""

from __future__ import annotations

import csv
import io
import json as json_module
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from ptheta import api
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import flat
from ptheta.engine.method import Estimate
from ptheta.engine.results import save_whole, target
from ptheta.nets.probes import K, T
from ptheta.use import Source, hidden_part, open_source


def opened(run: str, data: str | None) -> tuple[Any, Any]:
    """The encoder of a run, model folder or Hub id, and pictures of its size."""
    model, observations = open_source(run, data)
    if tuple(observations.shape) != model.shape:
        raise InputError(
            f"{observations.name} has pictures of {shape_text(observations.shape)} and the encoder learned from "
            f"{shape_text(model.shape)}; name fitting --data."
        )
    return model, observations


def shape_text(shape: Any) -> str:
    """(3, 32, 32) as "32x32 in colour"."""
    return f"{shape[1]}x{shape[2]} in {'grey' if shape[0] == 1 else 'colour'}"


def evaluate(
    run: Source, data: str | None = None, split: str = "test", k: int = K, temperature: float = T,
    shares: tuple[float, ...] = (0.01, 0.1, 1.0), seeds: int = 3, limit: int | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Judge an encoder beside raw pixels and beside itself untrained: neighbours, linear probe, fine-tuning.

    The figures that its method measures while it trains come first: its loss, RankMe and spread, which fall where
    features collapse, and what it has of its own (recovered, r5, zero_shot, accuracy).

    Args:
        run: Run directory, model folder or Hub id.
        data: Other data with labels than the run was trained on.
        split: The split that is measured.
        k: Neighbours that vote.
        temperature: Of their votes.
        shares: Shares of the labels to fine-tune with, in (0, 1]; name none to leave fine-tuning out.
        seeds: Draws of the untrained encoder and of the labels; the figures are means over them.
        limit: Use only so many training pictures for neighbours and the probe.
        json: Print one JSON object.
    """
    from ptheta.engine.hardware import detect
    from ptheta.selfsup import judge

    if seeds < 1 or (limit is not None and limit < 1):
        raise UsageError(f"seeds = {seeds}, limit = {limit}; allowed: at least 1 of each.")
    model, observations = opened(run, data)
    y, classes = judge.labels_of(observations, "train"), int(judge.labels_of(observations, "train").max()) + 1
    rows = [judge.some_labels(y, share, 0) for share in shares]  # what is impossible is refused before the work
    judge.enough(k, len(y[:limit]))
    hardware = detect("auto", "auto", None)
    own = own_figures(run, model, observations, split, hardware)
    say = lambda text: print(f"ptheta: {text}", file=sys.stderr)  # noqa: E731
    say(f"neighbours (k = {k}, T = {temperature:g}) and probe: raw pixels")
    found = {
        f"{name}_raw": e for name, e in judge.probe(judge.pixels, observations, split, k, temperature, limit).items()
    }
    say(f"neighbours and probe: {model.name}")
    found |= judge.probe(judge.embedding(model), observations, split, k, temperature, limit)
    say("neighbours and probe: untrained")
    drawn = [
        judge.probe(judge.embedding(judge.untrained(model, seed)), observations, split, k, temperature, limit)
        for seed in range(seeds)
    ]
    for name in ("knn", "probe"):
        found[f"{name}_untrained"] = judge.over_seeds([d[name].mean for d in drawn])
    x, held, truth = observations.split("train"), observations.split(split), judge.labels_of(observations, split)
    for share, one in zip(shares, rows):
        for kind in ("trained", "untrained"):
            values = []
            for seed in range(seeds):
                some = judge.some_labels(y, share, seed)
                start = model if kind == "trained" else judge.untrained(model, seed)
                net = judge.fine_tuned(start, x[some], y[some], classes, seed, judge.rate_for(start, kind), hardware)
                values.append(judge.accuracy(net, held, truth).mean)
                say(f"fine-tuned with {len(one):,} labels, {kind}, seed {seed}: {values[-1]:.4f}")
            found[f"finetune_{share:g}{'' if kind == 'trained' else '_untrained'}"] = judge.over_seeds(values)
    if json:
        about = {"method": model.name, "data": observations.name, "split": split, "k": k, "temperature": temperature}
        print(json_module.dumps(about | {"metrics": flat(own | found)}))
        return
    print("   ".join(f"{name} {shown(e)}" for name, e in own.items()))
    table(model.name, found, shares, [len(r) for r in rows], f"neighbours (k = {k}, T = {temperature:g})")


def own_figures(run: str, model: Any, data: Any, split: str, hardware: Any) -> dict[str, Estimate]:
    """What the method of a run measures while it trains (its loss, RankMe, recall, …), on a split; none of a folder."""
    from ptheta.engine.run import Run

    if not (Path(run) / "checkpoints").exists():
        return {}
    about, module = Run.open(run).about, api.method(model.name)
    config = module.Config.from_dict(about["config"])
    learner = module.Method(config, data, about["seed"], hardware, 1)
    learner.model = model.to(hardware.device)
    return {name: e for name, e in learner.evaluate(data, split).items() if name != "knn"}


def table(name: str, found: dict[str, Estimate], shares: tuple[float, ...], counts: list[int], neighbours: str) -> None:
    """The figures of `evaluate`, for a person."""
    lines = [(neighbours, "knn"), ("linear probe", "probe")]
    lines += [(f"fine-tuned, {share:.3g} of labels ({n:,})", f"finetune_{share:g}") for share, n in zip(shares, counts)]
    print(f"{'':36}{name:>18}{'untrained':>18}{'raw pixels':>18}")
    for title, key in lines:
        print(f"{title:36}" + "".join(f"{shown(found.get(key + kind)):>18}" for kind in ("", "_untrained", "_raw")))


def shown(estimate: Estimate | None) -> str:
    """ "0.8912 ± 0.0031", or nothing."""
    if estimate is None:
        return ""
    error = "" if math.isnan(estimate.standard_error) else f" ± {estimate.standard_error:.4f}"
    return f"{estimate.mean:.4f}{error}"


def embed(run: Source, data: str | None = None, split: str | None = None, out: Path | None = None) -> None:
    """Write the features of pictures as .npy, (N, features), and a .csv that names the picture of each row.

    Args:
        run: Run directory, model folder or Hub id.
        data: Other pictures than the run was trained on, a folder for example.
        split: Which of them (default: train of the run's own data, all of others).
        out: File name without ending (default: embedding-SPLIT in the run or here).
    """
    model, observations = opened(run, data)
    splits = [split] if split else (["train"] if data is None else list(observations.splits))
    path = target(run, out, f"embedding-{split or ('train' if data is None else 'all')}")
    features = torch.cat([model.embed(observations.split(name)).cpu() for name in splits])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "file", "split", "class"])
    row = 0
    for name in splits:
        names, y = observations.names(name), observations.labels(name)
        for i in range(len(observations.split(name))):
            label = "" if y is None else observations.classes[int(y[i])]
            writer.writerow([row, names[i] if names else "", name, label])
            row += 1
    save_whole(path, {".npy": lambda p: np.save(p, features.numpy()), ".csv": lambda p: p.write_text(text.getvalue())})


def complete(
    run: Source, data: str | None = None, split: str | None = None, count: int = 8,
    hide: Literal["bottom", "top", "left", "right", "random", "centre"] = "centre", share: float = 0.5, seed: int = 0,
    out: Path | None = None,
) -> None:  # fmt: skip
    """Hide a region of pictures and fill it in; writes a PNG (what is seen, what is filled in, the picture) and .npy.

    Args:
        run: Run directory, model folder or Hub id of a method that fills in (mae, inpaint, denoise).
        data: Other pictures than the run was trained on.
        split: Where they come from (default: test, or the last there is).
        count: How many of them.
        hide: Which region; random: pixels here and there.
        share: How much of the height, the width or the pixels, in (0, 1).
        seed: Of what is hidden at random.
        out: File name without ending (default: completions-HIDE-seedS in the run or here).
    """
    if not 0 < share < 1 or count < 1:
        raise UsageError(f"share = {share}, count = {count}; allowed: a share above 0 and below 1, and at least 1.")
    model, observations = opened(run, data)
    if not hasattr(model, "complete"):
        raise UsageError(
            f"{model.name} learns no pictures and fills nothing in; allowed: a run of mae, inpaint or denoise."
        )
    path = target(run, out, f"completions-{hide}-seed{seed}")
    x = observations.split(split or observations.splits[-1])[:count]
    _, h, w = model.shape
    if hide == "centre":
        observed = torch.ones(h, w, dtype=torch.bool)
        rows, columns = max(1, round(share * h)), max(1, round(share * w))
        observed[(h - rows) // 2 : (h + rows) // 2, (w - columns) // 2 : (w + columns) // 2] = False
    else:
        observed = ~hidden_part(hide, share, h * w, (h, w), seed).view(h, w)
    done = model.complete(x, observed).cpu()
    from ptheta.selfsup.pictures import grid

    seen = torch.where(observed, x.float() / 255, 0.5)
    figure = grid([list(row) for row in zip(seen, done, x)], ["seen", "filled in", "picture"], 1.2)
    savers = {
        ".npy": lambda p: np.save(p, (done * 255).round().byte().numpy()),
        ".png": lambda p: figure.savefig(p, format="png", dpi=120),
    }
    save_whole(path, savers)


def neighbours(
    run: Source, image: Annotated[Path, tyro.conf.Positional], data: str | None = None, k: int = 8,
    out: Path | None = None,
) -> None:  # fmt: skip
    """The pictures whose features are nearest to those of IMAGE, with their cosine similarity; also drawn as a PNG.

    Args:
        run: Run directory, model folder or Hub id.
        image: A picture file, or a folder of them.
        data: Where to look (default: the pictures that the run was trained on).
        k: How many neighbours.
        out: File name of the drawing without ending (default: neighbours-IMAGE in the run or here).
    """
    from ptheta.data.folders import decoded
    from ptheta.data.images import image_files
    from ptheta.selfsup import judge
    from ptheta.selfsup.pictures import grid, nearest

    if not image.exists():
        raise InputError(f"{image} does not exist; give the path of a picture or of a folder of them.")
    model, observations = opened(run, data)
    files = image_files(image) if image.is_dir() else [image]
    if not files:
        raise InputError(f"{image} holds no pictures; give the path of a picture or of a folder of them.")
    channels, size, _ = model.shape
    x = torch.from_numpy(decoded(files, size, False)[0])
    x = x.float().mean(1, keepdim=True).round().byte() if channels < x.shape[1] else x.expand(-1, channels, -1, -1)
    bank = torch.cat([observations.split(name) for name in observations.splits])
    judge.enough(k, len(bank))
    names = [
        n
        for s in observations.splits
        for n in (observations.names(s) or [f"{s} {i}" for i in range(len(observations.split(s)))])
    ]
    y = [observations.labels(s) for s in observations.splits]
    classes = (
        torch.cat([labels for labels in y if labels is not None]) if all(labels is not None for labels in y) else None
    )
    z, z_bank = model.embed(x).cpu(), model.embed(bank).cpu()
    found = nearest(z, z_bank, k)
    near = torch.nn.functional.cosine_similarity(z[:, None], z_bank[found], dim=2)
    for i, file in enumerate(files):
        print(file)
        for j, c in zip(found[i].tolist(), near[i].tolist()):
            said = "" if classes is None else f"   {observations.classes[int(classes[j])]}"
            print(f"  {c:6.3f}   {names[j]}{said}")
    figure = grid([[x[i], *bank[found[i]]] for i in range(min(len(files), 12))], ["asked", *map(str, range(1, k + 1))])
    path = target(run, out, f"neighbours-{image.stem}")
    save_whole(path, {".png": lambda p: figure.savefig(p, format="png", dpi=120)})


def supervision(
    run: Source, data: str | None = None, split: str = "test", steps: int | None = None, seed: int = 0,
    json: bool = False,
) -> None:  # fmt: skip
    """Supervised, unsupervised and self-supervised learning of one encoder side by side: what each is told and learns.

    Args:
        run: A self-supervised run, model folder or Hub id; the supervised encoder has its architecture.
        data: Other data with labels than the run was trained on.
        split: The split that is measured.
        steps: Updates of the supervised encoder (default: forty passes, 500 at least and 2,500 at most).
        seed: Of every draw.
        json: Print one JSON object.
    """
    from ptheta.engine.hardware import detect
    from ptheta.selfsup import supervision as ways

    if steps is not None and steps < 1:
        raise UsageError(f"steps = {steps} is impossible; allowed: at least 1 (option --steps).")
    model, observations = opened(run, data)
    rows = ways.compete(model, observations, split, steps, seed, detect("auto", "auto", None))
    print(ways.as_json(rows, observations.name, split) if json else ways.table(rows, split))
