"""What a person asks of trained models and other things side by side on the command line: rivals, anomalies."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from ptheta import api
from ptheta.density.anomalies import auroc, scores
from ptheta.density.rivals import Row, compete
from ptheta.engine.errors import InputError, UsageError


def rivals(
    data: str = "digits", labelled: tuple[int, ...] = (), runs: tuple[str, ...] = (), split: str = "test",
    seed: int = 0, json: bool = False,
) -> list[Row]:  # fmt: skip
    """Naive Bayes, logistic regression and an MLP for y, beside joint models: accuracy, calibration, few-label curves.

    Args:
        data: A labelled data set, as in `ptheta train`.
        labelled: Numbers of labels to learn from, besides all of them.
        runs: Runs of joint models to put beside them.
        split: Where they are measured.
        seed: Of what is drawn.
        json: Print one JSON object.
    """
    from ptheta.data.binary import load
    from ptheta.engine.run import Run

    models = []
    for path in runs:
        if api.room(path) != "density":
            raise UsageError(f"{path} is no density; name runs of p(x, y), of --label first or --label last.")
        model = api.load(path)
        if model.label == "none":
            raise UsageError(f"{path} is a model of p(x) alone; train one with --label first or --label last.")
        models.append((model, Run.open(path).about["config"].get("labelled")))
    rows = compete(load(data), [*labelled, None], models, split, seed)
    if json:
        table = [
            {"name": r.name, "labels": r.labels, "accuracy": r.accuracy.mean, "accuracy_se": r.accuracy.standard_error,
             "ece": r.ece.mean, "ece_se": r.ece.standard_error}
            for r in rows
        ]  # fmt: skip
        print(json_module.dumps({"data": data, "split": split, "rivals": table}))
        return rows
    print(f"{data}, {split} split, seed {seed}")
    print(f"{'':22} {'labels':>8} {'accuracy':>17} {'ECE':>17} {'seconds':>8}")
    for r in rows:
        accuracy, ece = (f"{e.mean:.4f} ± {e.standard_error:.4f}" for e in (r.accuracy, r.ece))
        print(f"{r.name:22} {r.labels:8,} {accuracy:>17} {ece:>17} {r.seconds:8.1f}".replace("     nan", "       –"))
    return rows


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
