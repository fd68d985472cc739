r"""Anomalies: the rows of a file that a model finds unlikely, or unlike what it would draw itself.

Two scores, for x_1 … x_m and samples s_1 … s_M of the model:

    surprise:    −\log p(x)                                                                     (1)
    typicality:  t(x) = |\log p(x) − \frac{1}{M} \sum_i \log p(s_i)|,
                 p-value = (1 + #\{i: t(s_i) ≥ t(x)\}) / (M + 1)                               (2)

(1) ranks by density alone. But in many dimensions the most likely vectors are not typical: a blank picture can be more
likely than every digit (Nalisnick et al. 2019). (2) asks whether \log p(x) is where the model's own samples have theirs
(the typical set); its p-value is uniform for rows drawn from the model. Neither is proof: a set of other pictures whose
density happens to look the same is missed by both (docs/density.md shows one).

Where it is known which rows are anomalies, the ranking is judged by the area under its ROC curve: the probability that
an anomaly is ranked above a normal row, ties counting half (Hanley & McNeil 1982):

    AUROC = \frac{1}{|A||B|} \sum_{a ∈ A, b ∈ B} 1[s_a > s_b] + \frac{1}{2} 1[s_a = s_b]        (3)
"""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Estimate


def typicality(log_p: Float[Tensor, " m"], of_samples: Float[Tensor, " M"]) -> Float[Tensor, " m"]:
    """p-values of eq. (2), from the log-densities of the rows and of the model's own samples."""
    centre = of_samples.double().mean()
    own = (of_samples.double() - centre).abs().sort().values
    at_least = len(own) - torch.searchsorted(own, (log_p.double() - centre).abs())
    return (1 + at_least) / (len(own) + 1)


def auroc(score: Float[Tensor, " N"], anomaly: Bool[Tensor, " N"]) -> Estimate:
    """Eq. (3) of scores that are high for anomalies; its standard error by Hanley & McNeil's formula.

    Raises InputError if all rows are of one kind.
    """
    a, b = int(anomaly.sum()), int((~anomaly).sum())
    if not a or not b:
        raise InputError(f"{a} anomalies and {b} normal rows; the area under a ROC curve needs some of both.")
    values, place = score.double().unique(return_inverse=True)
    of_a = torch.bincount(place[anomaly], minlength=len(values)).double()
    of_b = torch.bincount(place[~anomaly], minlength=len(values)).double()
    below = of_b.cumsum(0) - of_b
    area = ((of_a * (below + of_b / 2)).sum() / (a * b)).item()
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (a - 1) * (q1 - area**2) + (b - 1) * (q2 - area**2)) / (a * b)
    return Estimate(area, math.sqrt(max(0.0, variance)), a + b)


def scores(model: Any, x: Tensor, samples: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p(x) in nats and the p-value of eq. (2) of every row, both (m,)."""

    def log_p(x: Tensor) -> Tensor:
        return model.log_prob(x) if model.label == "none" else model.joint_log_prob(x).logsumexp(1)

    own = log_p(model.split(model.sample(samples, seed))[0])
    mine = log_p(x)
    return mine.cpu(), typicality(mine, own).cpu()


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
    from ptheta import api
    from ptheta.data.binary import load

    if out is not None and out.exists():
        raise UsageError(f"{out} exists; name another --out.")
    if samples < 2 or count < 0:
        raise UsageError(f"samples = {samples}, count = {count}; allowed: at least 2 samples and no negative count.")
    model = api.load(run)
    x, y = rows_of(load(file), model)
    anomaly = (y != 0) if y is not None and set(y.tolist()) == {0, 1} else None
    if normal is not None:
        good, _ = rows_of(load(normal), model)
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


def command(argv: list[str]) -> int:
    """`ptheta anomalies RUN FILE`."""
    tyro.cli(anomalies, args=argv, prog="ptheta anomalies", description=(__doc__ or "").split("\n\n")[0])
    return 0
