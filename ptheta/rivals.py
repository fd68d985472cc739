"""`ptheta rivals`: joint models beside classifiers of the same data."""

from __future__ import annotations

import json as json_module

from ptheta import api
from ptheta.density.rivals import Row, compete
from ptheta.engine.errors import UsageError


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
