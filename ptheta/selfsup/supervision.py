r"""Three ways to learn an encoder, side by side: what each is told, and what each learns.

    supervised        told x and y:     \min_{θ, W}  −\log softmax(W f_θ(t(x)))_y                              (1)
    unsupervised      told x:           PCA, the directions of greatest variance, z = P^T (x − \bar x)          (2)
                                        k-means, \min \sum_i ‖x_i − c_{a(i)}‖²,  z_k = −‖x − c_k‖               (3)
    self-supervised   told x:           \min_θ ℓ_θ(t(x)), a target made of x itself                           (4)

(3) by Lloyd's iterations from k-means++ (D. Arthur and S. Vassilvitskii, 2007). All features are then asked the same
questions: neighbours and a linear probe, which are told y, and whether clusters of the features are the classes, which
is told nothing,

    NMI(a, y) = 2 I(a; y) / (H(a) + H(y))                                                                     (5)

The supervised encoder is the ceiling of its own question, y, and of no other; the self-supervised one was never asked.
"""

from __future__ import annotations

import json as json_module
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Estimate
from ptheta.nets.probes import K, T, linear_probe, nearest_neighbours
from ptheta.selfsup import judge


def pca(x: Float[Tensor, "n d"], directions: int) -> Any:
    """Eq. (2): a function from vectors (b, d) to (b, directions)."""
    mean = x.mean(0)
    covariance = (x - mean).t() @ (x - mean) / len(x)
    P = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1)[:, :directions].float()
    return lambda x: (x - mean) @ P


def k_means(x: Float[Tensor, "n d"], k: int, seed: int, iterations: int = 100) -> Float[Tensor, "k d"]:
    """The centres c of eq. (3): k-means++ from the seed, then Lloyd's iterations until no assignment changes."""
    if not 1 <= k <= len(x):
        raise UsageError(f"k = {k} clusters of {len(x):,} vectors are impossible; allowed: 1 to {len(x):,}.")
    g = generator(seed, 0, "k-means")
    c = x[torch.randint(len(x), (1,), generator=g)]
    while len(c) < k:
        far = torch.cdist(x, c).min(1).values.square()
        share = far / far.sum() if far.sum() > 0 else torch.full_like(far, 1 / len(x))
        c = torch.cat([c, x[torch.multinomial(share, 1, generator=g)]])
    before = None
    for _ in range(iterations):
        a = torch.cdist(x, c).argmin(1)
        if before is not None and torch.equal(a, before):
            break
        count = torch.bincount(a, minlength=k)
        total = torch.zeros_like(c).index_add_(0, a, x)
        c = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], c)
        before = a
    return c


def assigned(x: Float[Tensor, "n d"], c: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """a(i) of eq. (3)."""
    return torch.cdist(x, c).argmin(1)


def mutual_information(a: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> float:
    """Eq. (5), in [0, 1]; 0 where either is constant."""
    joint = torch.zeros(int(a.max()) + 1, int(y.max()) + 1, dtype=torch.float64)
    joint.index_put_((a, y), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    p = joint / joint.sum()

    def entropy(p: Tensor) -> float:
        return -(p[p > 0] * p[p > 0].log()).sum().item()

    h_a, h_y = entropy(p.sum(1)), entropy(p.sum(0))
    return 2 * (h_a + h_y - entropy(p)) / (h_a + h_y) if h_a > 0 and h_y > 0 else 0.0


@dataclass(frozen=True)
class Row:
    """One way of learning: what it was told, and what its features are worth on the split that is measured."""

    name: str
    told: str
    features: int
    knn: Estimate
    probe: Estimate
    nmi: float
    seconds: float


def row(name: str, told: str, of: Any, data: Any, split: str, seed: int, began: float) -> Row:
    """The three questions to features `of`(pictures)."""
    spent = time.perf_counter() - began
    x, y = data.split("train"), judge.labels_of(data, "train")
    train, asked, truth = of(x), of(data.split(split)), judge.labels_of(data, split)
    check = "valid" if "valid" in data.splits and split != "valid" else "train"
    valid = (of(data.split(check)), judge.labels_of(data, check))
    knn = (nearest_neighbours(train, y, asked) == truth).double()
    probe = (linear_probe(train, y, valid, asked) == truth).double()
    unit = normalize(train[:10_000])
    nmi = mutual_information(assigned(unit, k_means(unit, int(y.max()) + 1, seed)), y[: len(unit)])
    found = Row(name, told, train.shape[1], Estimate.of(knn), Estimate.of(probe), nmi, spent)
    print(f"ptheta: {name}: probe {found.probe.mean:.4f}", file=sys.stderr)
    return found


def compete(model: Any, data: Any, split: str, steps: int | None, seed: int, hardware: Any) -> list[Row]:
    """Every way on one data set. `model` is the self-supervised encoder; the supervised one has its architecture."""
    x, y = data.split("train"), judge.labels_of(data, "train")
    classes, flat = int(y.max()) + 1, judge.pixels
    start = judge.untrained(model, seed)
    began = time.perf_counter()
    rows = [row("raw pixels", "nothing", flat, data, split, seed, began)]
    rows.append(row("untrained encoder", "nothing", judge.embedding(start), data, split, seed, began))
    began = time.perf_counter()
    vectors = flat(x)
    directions = pca(vectors, min(model.feature_count, vectors.shape[1], len(x)))
    rows.append(row("PCA, unsupervised", "x", lambda x: directions(flat(x)), data, split, seed, began))
    began = time.perf_counter()
    c = k_means(vectors[:10_000], min(model.feature_count, len(vectors[:10_000])), seed, 30)
    rows.append(row("k-means, unsupervised", "x", lambda x: -torch.cdist(flat(x), c), data, split, seed, began))
    rows.append(row(f"{model.name}, self-supervised", "x", judge.embedding(model), data, split, seed, float("nan")))
    for share in (0.01, 1.0):
        began, some = time.perf_counter(), judge.some_labels(y, share, seed)
        rate = judge.rate_for(start, "untrained")
        net = judge.fine_tuned(start, x[some], y[some], classes, seed, rate, hardware, steps)
        told = f"x, y of {len(some):,}"
        rows.append(row("supervised encoder", told, judge.embedding(net.model.eval()), data, split, seed, began))
    return rows


def table(rows: list[Row], split: str) -> str:
    """The rows, for a person."""
    head = f"{'':28}{'told':>18}{'features':>10}{'neighbours':>18}{'linear probe':>18}{'NMI':>8}{'seconds':>10}"
    lines = [head]
    for r in rows:
        knn, probe = (f"{e.mean:.4f} ± {e.standard_error:.4f}" for e in (r.knn, r.probe))
        spent = "" if r.seconds != r.seconds else f"{r.seconds:.1f}"
        lines.append(f"{r.name:28}{r.told:>18}{r.features:>10}{knn:>18}{probe:>18}{r.nmi:>8.3f}{spent:>10}")
    lines.append(
        f"measured on {split}; neighbours k = {K}, T = {T:g}; NMI: k-means of the training features, and classes"
    )
    return "\n".join(lines)


def as_json(rows: list[Row], data: str, split: str) -> str:
    """The rows, for a machine."""
    out = [
        {
            "name": r.name, "told": r.told, "features": r.features, "knn": r.knn.mean, "knn_se": r.knn.standard_error,
            "probe": r.probe.mean, "probe_se": r.probe.standard_error, "nmi": r.nmi,
            "seconds": None if r.seconds != r.seconds else r.seconds,
        }
        for r in rows
    ]  # fmt: skip
    return json_module.dumps({"data": data, "split": split, "ways": out})
