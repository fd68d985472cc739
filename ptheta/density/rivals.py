r"""The classic rivals of a joint model for y: what p(y | x) costs and gives without p(x).

    naive Bayes            p(x, y) = p(y) \prod_d p(x_d | y)                                        (1)
    logistic regression    \log p(y | x) = w_y · x + b_y + const                                    (2)
    MLP                    (2) on h = ReLU(W x + c), with dropout                                   (3)

(1) is generative and counts: with one count of each value added (Laplace), p(x_d = 1 | y) = (n_{dy} + 1)/(n_y + 2).
(2) and (3) are discriminative: they minimise −\log p(y | x) + λ‖w‖²/2 and never ask what x looks like. A generative
model learns quicker from few labels, a discriminative one ends better (Ng & Jordan 2002): the few-label curve shows it.

(2) is that of `nets/probes.py`. λ of (2) and (3) is chosen on the validation split, and so is the update at which (3)
stops.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from ptheta.data.order import generator, minibatches
from ptheta.density.joint import expected_calibration_error, keep_labels, labels_of
from ptheta.engine.method import Estimate
from ptheta.nets.probes import best_logistic_regression


def naive_bayes(x: Tensor, y: Int[Tensor, " N"], classes: int) -> Any:
    """Eq. (1) fitted to x (N, n) of 0/1 by counting: a function from x (b, n) to log p(x, y), (b, C)."""
    one_hot = torch.nn.functional.one_hot(y, classes).double()
    count = one_hot.sum(0)
    p = (one_hot.t() @ x.double() + 1) / (count[:, None] + 2)
    prior = ((count + 1) / (count.sum() + classes)).log()
    W, b = (p / (1 - p)).log(), (1 - p).log().sum(1) + prior
    return lambda x: x.double() @ W.t() + b


def mlp(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], valid: tuple[Tensor, Tensor], classes: int, seed: int,
    hidden: int = 500, steps: int = 3000, dropout: float = 0.5,
) -> Any:  # fmt: skip
    """Eq. (3) by Adam with weight decay; the parameters that lose least on `valid` are kept."""
    g = generator(seed, 0, "mlp")
    n = x.shape[1]
    W1, W2 = (torch.randn(o, i, generator=g) * math.sqrt(2 / i) for o, i in ((hidden, n), (classes, hidden)))
    parameters = [p.requires_grad_() for p in (W1, torch.zeros(hidden), W2 * 0.1, torch.zeros(classes))]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)

    def logits(p: list[Tensor], x: Tensor, step: int | None = None) -> Tensor:
        h = relu(x @ p[0].t() + p[1])
        if step is not None:
            keep = torch.rand(h.shape, generator=generator(seed, step, "dropout")) >= dropout
            h = h * keep / (1 - dropout)
        return h @ p[2].t() + p[3]

    best, kept = math.inf, [p.detach().clone() for p in parameters]
    for step, rows in enumerate(minibatches(len(x), 100, seed), 1):
        optimizer.zero_grad()
        cross_entropy(logits(parameters, x[rows], step), y[rows]).backward()
        optimizer.step()
        if step % 100 == 0:
            with torch.no_grad():
                value = cross_entropy(logits(parameters, valid[0]), valid[1]).item()
            if value < best:
                best, kept = value, [p.detach().clone() for p in parameters]
        if step >= steps:
            return lambda x: logits(kept, x)
    raise AssertionError("minibatches end never")


@dataclass(frozen=True)
class Row:
    """One rival with so many labels: accuracy and ECE on the test split, and the seconds to fit it."""

    name: str
    labels: int
    accuracy: Estimate
    ece: Estimate
    seconds: float


def score(name: str, labels: int, log_p: Tensor, y: Tensor, seconds: float) -> Row:
    """The row of unnormalised log p(y | x), (N, C)."""
    posterior = log_p.double().softmax(1)
    right = (posterior.argmax(1) == y).double()
    return Row(name, labels, Estimate.of(right), expected_calibration_error(posterior, y), seconds)


def compete(data: Any, labels: list[int | None], runs: list[Any], split: str, seed: int) -> list[Row]:
    """Every rival on so many labels each (None: all), and the joint models of `runs` as they were trained."""
    x, y, held, truth = data.split("train"), labels_of(data, "train"), data.split(split), labels_of(data, split)
    valid = "valid" if "valid" in data.splits else "train"
    check = (data.split(valid).float(), labels_of(data, valid))
    classes, rows = int(y.max()) + 1, []
    for count in labels:
        kept = y if count is None else keep_labels(y, count, seed)
        few, few_y = x[kept >= 0].float(), kept[kept >= 0]
        fits = {
            "naive Bayes": partial(naive_bayes, few, few_y, classes),
            "logistic regression": partial(best_logistic_regression, few, few_y, check, classes),
            "MLP": partial(mlp, few, few_y, check, classes, seed),
        }
        for name, fit in fits.items():
            began = time.perf_counter()
            model = fit()
            rows.append(score(name, len(few), model(held.float()), truth, time.perf_counter() - began))
            print(f"{name}, {len(few):,} labels: accuracy {rows[-1].accuracy.mean:.4f}", file=sys.stderr)
    for model, count in runs:
        rows.append(score(f"{model.name}, p(x, y)", count or len(x), model.joint_log_prob(held), truth, math.nan))
    return rows
