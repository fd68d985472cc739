r"""Is `embed` worth anything? Its features beside the raw vectors, by two plain classifiers.

The weighted vote of the k nearest neighbours and a linear probe, eqs. (1) and (3) of `nets/probes.py`, see the
training split and are measured on another. Features that a classifier reads better than the pixels have learned
something about y that the density alone does not show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptheta.density.joint import labels_of
from ptheta.engine.method import Estimate
from ptheta.nets.probes import linear_probe, nearest_neighbours


def judge(model: Any, data: Any, split: str = "test", limit: int = 10_000) -> dict[str, Estimate]:
    """Accuracy of both on `split` from features and from raw vectors; at most `limit` training vectors.

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
