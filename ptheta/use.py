"""What a person does with a trained model on the command line: evaluate, sample, complete, embed."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from ptheta import api
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import flat
from ptheta.engine.pretrained import read_config
from ptheta.engine.results import save_whole, target

Source = Annotated[str, tyro.conf.Positional]


def open_source(run: str, data: str | None) -> tuple[Any, Any]:
    """The model of a run, model folder or Hub id, and the observations it is asked about."""
    from ptheta.engine.run import Run

    model = api.load(run)
    if (Path(run) / "checkpoints").exists():
        found = Run.open(run)
        if data is None and found.about["data"]["spec"].endswith(" in memory"):
            raise UsageError(f"{run} was trained on an array that is no file; name the data with --data.")
        return model, api.data_of(found, data)
    if data is None:
        folder = Path(run)
        about = read_config(folder).get("data") if folder.is_dir() else None
        if not about:
            raise UsageError(f"{run} does not say what it was trained on; name the data with --data.")
        data = about
    return model, api.open_data(model, data)


def evaluate(
    run: Source, data: str | None = None, split: str | None = None, samples: bool = False, features: bool = False,
    orderings: int | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Measure −log p of every split: nats ± standard error, and bits per dimension; of p(x, y), also how p(y | x) does.

    Args:
        run: Run directory, model folder or Hub id.
        data: Other data than the run was trained on.
        split: One split (default: all there are).
        samples: Also compare samples of the model with the vectors: MMD, sliced Wasserstein, a classifier's accuracy.
        features: Also judge `embed` by kNN and a linear probe against the raw vectors, where there are labels.
        orderings: Mix so many orderings in the density of a model that knows them all.
        json: Print one JSON object a split.
    """
    from ptheta.density.joint import labels_of
    from ptheta.density.likelihood import evaluate as measure

    model, observations = open_source(run, data)
    fits(model, observations)
    if orderings is not None:
        mix(model, orderings)
    names, measured = [split] if split else observations.splits, 0
    for name in names:
        try:
            x = observations.split(name)
        except InputError as error:
            if name == names[-1] and not measured:
                raise
            print(f"ptheta: the {name} split is left out: {error}", file=sys.stderr)
            continue
        measured += 1
        found = measure(model, x, None if model.label == "none" else labels_of(observations, name))
        more: dict[str, Any] = {}
        if samples:
            from ptheta.density.divergences import compare_samples

            drawn = model.split(model.sample(min(len(x), 2000)))[0]
            more = dict(compare_samples(x.float(), drawn))
        judged = {}
        if features:
            from ptheta.density.representation import judge

            judged = judge(model, observations, name)
        figures = flat(found | more | judged) | {f"{k}_p": v.p_value for k, v in more.items()}
        if json:
            about = {"method": model.name, "data": observations.name, "split": name, "metrics": figures}
            print(json_module.dumps(about))
        else:
            report(name, figures, len(x))


def mix(model: Any, orderings: int) -> None:
    """Let the density of a model of all orderings be the mixture over so many of them."""
    if not getattr(model, "any_order", False):
        raise UsageError(f"{model.name} has its own orderings; --orderings is for models of all of them (orderless).")
    if orderings < 1:
        raise UsageError(f"orderings = {orderings} is impossible; allowed: at least 1 (option --orderings).")
    model.components = orderings


def report(name: str, figures: dict[str, float], count: int) -> None:
    """The figures of one split, for a person."""

    def pair(key: str) -> str:
        error = figures.get(f"{key}_se")
        return f"{figures[key]:.4f}" + ("" if error is None else f" ± {error:.4f}")

    error = figures.get("nats_se", float("nan"))
    nats, bits = f"{figures['nats']:10.4f} ± {error:.4f} nats", f"{figures['bits_per_dim']:.5f} bits/dim"
    print(f"{name:6} {nats}   {bits}   {count:,} vectors")
    if "accuracy" in figures:
        of_x = f"−log p(x) {figures['nats_x']:.4f} nats"
        print(f"{'':6} p(y | x): accuracy {pair('accuracy')}   ECE {pair('ece')}   {of_x}")
    if "mmd2" in figures:
        tests = (("MMD²", "mmd2"), ("sliced W₁", "sliced_w1"), ("a classifier's accuracy", "classifier_accuracy"))
        said = "   ".join(f"{title} {pair(key)} (p = {figures[f'{key}_p']:.3f})" for title, key in tests)
        print(f"{'':6} samples against data: {said}")
    if "knn" in figures:
        said = "   ".join(
            f"{title} {pair(k)} (raw {pair(f'{k}_raw')})" for title, k in (("kNN", "knn"), ("probe", "probe"))
        )
        print(f"{'':6} features: {said}")


def sample(run: Source, count: int = 64, seed: int = 0, y: int | None = None, out: Path | None = None) -> None:
    """Draw from p(x); writes a PNG grid (for pictures) and the vectors as .npy.

    Args:
        run: Run directory, model folder or Hub id.
        count: How many.
        seed: Of the draws.
        y: Of a joint model: draw from p(x | y) of this class.
        out: File name without ending (default: samples-seedS in the run or here).
    """
    model = api.load(run)
    if not hasattr(model, "sample"):
        raise UsageError(f"{model.name} draws nothing; `ptheta train {model.name}` ends with what its runs are for.")
    path = target(run, out, f"samples-{'' if y is None else f'y{y}-'}seed{seed}")
    write(model.split(model.sample(count, seed, y=y))[0], model.shape, path)


def complete(
    run: Source, data: str | None = None, split: str | None = None, count: int = 8,
    hide: Literal["bottom", "top", "left", "right", "random"] = "bottom", share: float = 0.5,
    particles: int = 256, seed: int = 0, out: Path | None = None,
) -> None:  # fmt: skip
    """Hide a part of observed vectors and draw it back; writes a PNG grid and .npy.

    Args:
        run: Run directory, model folder or Hub id.
        data: Other data than the run was trained on.
        split: Where the observed vectors come from (default: test, or the last there is).
        count: How many of them.
        hide: Which part is hidden. Vectors that are no pictures know bottom (the last variables), top and random.
        share: How much of it, in (0, 1].
        particles: Draws to choose from where the completion is not exact.
        seed: Of the draws.
        out: File name without ending (default: completions-HIDE-seedS in the run or here).
    """
    if not 0 < share <= 1:
        raise UsageError(f"share = {share} is impossible; allowed: above 0 and at most 1 (option --share).")
    if particles < 1 or count < 1:
        raise UsageError(f"particles = {particles}, count = {count}; allowed: at least 1 of each.")
    model, observations = open_source(run, data)
    fits(model, observations)
    path = target(run, out, f"completions-{hide}-seed{seed}")
    x = (observations.split(split) if split else last_split(observations))[:count]
    observed = ~hidden_part(hide, share, model.n_x, model.shape, seed)
    seen = model.join(observed[None].float())[0].bool()  # the label of a joint model is hidden too
    done = model.complete(model.join(x), seen, seed=seed, particles=particles)
    drawn = model.split(done.x)[0].cpu()
    if done.exact:
        print("exact: the observed variables come first in the ordering")
    else:
        worst, median = done.effective.min().item(), done.effective.median().item()
        print(f"approximate: effective sample size {median:.1f} of {done.particles} (median), {worst:.1f} (worst)")
        if median < 2:
            print(
                "ptheta: hardly more than one draw counts, so these completions are unreliable; raise --particles, or "
                "hide what comes last in the ordering.",
                file=sys.stderr,
            )
    shown = torch.where(observed, x.float(), 0.3)
    picture = torch.stack([shown, drawn.float(), x.float()], 1).flatten(0, 1)
    write(drawn, model.shape, path, picture, columns=3)


def last_split(observations: Any) -> torch.Tensor:
    """The vectors of test, else of valid, else of train: the last of them that can be had."""
    for name in reversed(observations.splits):
        try:
            return observations.split(name)
        except InputError as error:
            if name == observations.splits[0]:
                raise
            print(f"ptheta: the {name} split is left out: {error}", file=sys.stderr)
    raise AssertionError("no split at all")


def hidden_part(hide: str, share: float, n: int, shape: tuple[int, int] | None, seed: int) -> torch.Tensor:
    """Bool (n,): what is hidden."""
    from ptheta.data.order import generator

    if hide == "random":
        return torch.rand(n, generator=generator(seed, 0, "hide")) < share
    if shape is None and hide in ("left", "right"):
        raise UsageError(
            f"hide = {hide} wants pictures, and these vectors have no shape; allowed: bottom, top, random."
        )
    h, w = shape or (n, 1)
    hidden = torch.zeros(h, w, dtype=torch.bool)
    rows, columns = max(1, round(share * h)), max(1, round(share * w))
    if hide == "bottom":
        hidden[h - rows :] = True
    elif hide == "top":
        hidden[:rows] = True
    elif hide == "left":
        hidden[:, :columns] = True
    else:
        hidden[:, w - columns :] = True
    return hidden.flatten()


def embed(run: Source, data: str | None = None, split: str = "train", out: Path | None = None) -> None:
    """Write the model's features of a split as .npy, (N, features).

    Args:
        run: Run directory, model folder or Hub id.
        data: Other data than the run was trained on.
        split: Which vectors.
        out: File name without ending (default: embedding-SPLIT in the run or here).
    """
    model, observations = open_source(run, data)
    fits(model, observations)
    x, path = observations.split(split), target(run, out, f"embedding-{split}")
    features = torch.cat([model.embed(model.join(rows)) for rows in x.split(1000)])
    write(features, None, path)


# ---------------------------------------------------------------- files


def fits(model: Any, observations: Any) -> None:
    """InputError if the observations have another number of variables than the model."""
    if observations.n != model.n_x:
        raise InputError(
            f"{observations.name} has {observations.n} variables and the model {model.n_x}; name fitting --data."
        )


def write(
    x: torch.Tensor, shape: tuple[int, int] | None, path: Path, picture: torch.Tensor | None = None, columns: int = 8
) -> None:
    """x as PATH.npy and, where vectors are pictures, PATH.png; the names go to stdout."""
    from ptheta.density.pictures import save_grid

    array = x.cpu().numpy()
    array = array.astype(np.uint8) if shape or ((array == 0) | (array == 1)).all() else array
    savers: dict[str, Any] = {".npy": lambda p: np.save(p, array)}
    if shape:
        savers[".png"] = lambda p: save_grid(p, x if picture is None else picture, shape, columns)
    save_whole(path, savers)


def anomalies(
    run: Annotated[str, tyro.conf.Positional], file: Annotated[str, tyro.conf.Positional],
    normal: str | None = None, count: int = 10, samples: int = 2000, seed: int = 0, out: Path | None = None,
    json: bool = False,
) -> None:  # fmt: skip
    """Rank the rows of a file by how unlikely a model finds them.

    Args:
        run: Run directory, model folder or Hub id of a density model.
        file: Data as in `ptheta train`: the rows to rank (of a set with splits, its test split, else all of it).
        normal: Data that are known to be normal: then `file` are anomalies, and how well the two are told apart is
            measured by AUROC. An .npz FILE with labels y of 0 (normal) and 1 (anomaly) needs none.
        count: How many rows to show.
        samples: Draws of the model for the p-value.
        seed: Of the draws.
        out: Write all scores as CSV to this file, which must not exist.
        json: Print one JSON object.
    """
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; name another --out.")
    if samples < 2 or count < 0:
        raise UsageError(f"samples = {samples}, count = {count}; allowed: at least 2 samples and no negative count.")
    from ptheta.density.anomalies import auroc, scores

    model = api.load(run)
    x, y = rows_of(api.open_data(model, file), model)
    anomaly = (y != 0) if y is not None and set(y.tolist()) == {0, 1} else None
    if normal is not None:
        good, _ = rows_of(api.open_data(model, normal), model)
        anomaly = torch.cat([torch.ones(len(x), dtype=torch.bool), torch.zeros(len(good), dtype=torch.bool)])
        x = torch.cat([x, good])
    log_p, p_value = scores(model, x, samples, seed)
    figures = {}
    if anomaly is not None:
        for name, score in (("surprise", -log_p), ("typicality", -p_value)):
            area = auroc(score, anomaly)
            figures |= {f"auroc_{name}": area.mean, f"auroc_{name}_se": area.standard_error}
    ranked = log_p.argsort()
    if out is not None:
        from ptheta.engine.checkpoint import write_text

        lines = [f"{i},{log_p[i]:.6f},{p_value[i]:.6f}" for i in ranked.tolist()]
        write_text(out, "row,log_p,p_value\n" + "\n".join(lines) + "\n")
    top = [{"row": i, "log_p": log_p[i].item(), "p_value": p_value[i].item()} for i in ranked[:count].tolist()]
    if json:
        print(json_module.dumps({"run": run, "data": file, "rows": len(x), "most_unlikely": top, "metrics": figures}))
        return
    print(f"{'row':>8} {'log p, nats':>12} {'p-value':>9}   (row counted from 0; p-value of typicality)")
    for r in top:
        print(f"{r['row']:8,} {r['log_p']:12.3f} {r['p_value']:9.4f}")
    for name in ("surprise", "typicality"):
        if figures:
            print(f"AUROC by {name}: {figures[f'auroc_{name}']:.4f} ± {figures[f'auroc_{name}_se']:.4f}")
    if out is not None:
        print(out)


def rows_of(data: Any, model: Any) -> tuple[Tensor, Tensor | None]:
    """The rows to score: the test split of a set that has its own, else all rows as they stand in the file."""
    from ptheta.data.binary import SPLIT_RULE, file_order

    if data.n != model.n_x:
        raise InputError(f"{data.name} has {data.n} variables and the model {model.n_x}; name fitting data.")
    if SPLIT_RULE in data.origin or "test" not in data.splits:
        return file_order(data)
    return data.split("test"), data.labels("test")
