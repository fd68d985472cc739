r"""Is `embed` worth anything? Its features beside the raw vectors, by two plain classifiers.

    kNN            the class with the greatest \sum_{i ∈ k nearest, y_i = c} \exp(\cos(f, f_i) / T)       (1)
    linear probe   multinomial logistic regression on standardised features, ridge chosen on validation  (2)

(1) is the weighted vote of Wu et al. 2018 (k = 20, T = 0.07); (2) is that of `rivals.py`. Both see the training split
and are measured on another. Features that a classifier reads better than the pixels have learned something about y
that the density alone does not show.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ptheta.density.joint import labels_of
from ptheta.density.rivals import best_logistic_regression
from ptheta.engine.method import Estimate

K, T = 20, 0.07


def nearest_neighbours(
    train: Float[Tensor, "N f"], y: Int[Tensor, " N"], asked: Float[Tensor, "b f"], k: int = K, temperature: float = T
) -> Int[Tensor, " b"]:
    """The classes of eq. (1), with cosine similarity; k is at most N."""
    bank, classes = normalize(train), int(y.max()) + 1
    out = []
    for rows in normalize(asked).split(1000):
        similarity, index = (rows @ bank.t()).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(rows), classes, dtype=rows.dtype, device=rows.device)
        out.append(votes.scatter_add_(1, y[index], (similarity / temperature).exp()).argmax(1))
    return torch.cat(out)


def linear_probe(
    train: Float[Tensor, "N f"], y: Int[Tensor, " N"], valid: tuple[Tensor, Tensor], asked: Float[Tensor, "b f"]
) -> Int[Tensor, " b"]:
    """The classes of eq. (2). Features are shifted and scaled to mean 0 and deviation 1 over the training split."""
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    scaled = [(part - mean) / deviation for part in (train, valid[0], asked)]
    fit = best_logistic_regression(scaled[0], y, (scaled[1], valid[1]), int(y.max()) + 1)
    return fit(scaled[2]).argmax(1)


def judge(model: Any, data: Any, split: str = "test", limit: int = 10_000) -> dict[str, Estimate]:
    """Accuracy of eqs. (1) and (2) on `split` from features and from raw vectors; at most `limit` training vectors.

    Keys: knn, knn_raw, probe, probe_raw. Raises InputError where the data have no labels.
    """

    def part(name: str) -> tuple[Tensor, Tensor, Tensor]:
        x, y = data.split(name)[:limit].to(model.device), labels_of(data, name)[:limit].to(model.device)
        features = torch.cat([model.embed(model.join(rows)).float() for rows in x.split(1000)])
        return features, x.float(), y

    train, held = part("train"), part(split)
    valid = part("valid") if "valid" in data.splits else train
    found = {}
    for i, suffix in enumerate(("", "_raw")):
        guesses = {
            "knn": nearest_neighbours(train[i], train[2], held[i]),
            "probe": linear_probe(train[i], train[2], (valid[i], valid[2]), held[i]),
        }
        for name, guess in guesses.items():
            found[name + suffix] = Estimate.of((guess == held[2]).double())
    return found
