r"""Probes: what plain classifiers read from features.

    kNN            the class with the greatest \sum_{i ∈ k nearest, y_i = c} \exp(\cos(z, z_i) / T)          (1)
    logistic       \log p(y | z) = w_y · z + b_y + const, minimising −\log p(y | z) + λ‖w‖²/2                (2)
    linear probe   (2) on standardised features, λ chosen on validation                                     (3)

(1) is the weighted vote of Z. Wu, Y. Xiong, S. Yu and D. Lin, "Unsupervised Feature Learning via Non-Parametric
Instance Discrimination", CVPR 2018 (k = 20, T = 0.07).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ptheta.engine.errors import UsageError

K, T = 20, 0.07
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def nearest_neighbours(
    train: Float[Tensor, "N f"], y: Int[Tensor, " N"], asked: Float[Tensor, "b f"], k: int = K, temperature: float = T
) -> Int[Tensor, " b"]:
    """The classes of eq. (1), with cosine similarity; k is at most N. Raises UsageError for k < 1 or T ≤ 0."""
    if k < 1:
        raise UsageError(f"k = {k} is impossible; allowed: at least 1 neighbour.")
    if not temperature > 0:
        raise UsageError(f"temperature = {temperature} is impossible; allowed: above 0.")
    bank, classes = normalize(train), int(y.max()) + 1
    out = []
    for rows in normalize(asked).split(1000):
        similarity, index = (rows @ bank.t()).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(rows), classes, dtype=rows.dtype, device=rows.device)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()  # of the nearest 1: no overflow
        out.append(votes.scatter_add_(1, y[index], weight).argmax(1))
    return torch.cat(out)


def logistic_regression(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], classes: int, ridge: float, iterations: int = 200
) -> Any:
    """Eq. (2) with λ = ridge by L-BFGS on all of x at once: a function from x (b, n) to logits (b, C)."""
    W = x.new_zeros(classes, x.shape[1]).requires_grad_()
    b = x.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS([W, b], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(x @ W.t() + b, y) + 0.5 * ridge * W.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    W, b = W.detach(), b.detach()
    return lambda x: x @ W.t() + b


def best_logistic_regression(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], valid: tuple[Tensor, Tensor], classes: int
) -> Any:
    """Eq. (2) with the λ of `RIDGES` that loses least on `valid` = (x, y)."""
    fits = [logistic_regression(x, y, classes, ridge) for ridge in RIDGES]
    return min(fits, key=lambda f: cross_entropy(f(valid[0]), valid[1]).item())


def linear_probe(
    train: Float[Tensor, "N f"], y: Int[Tensor, " N"], valid: tuple[Tensor, Tensor], asked: Float[Tensor, "b f"]
) -> Int[Tensor, " b"]:
    """The classes of eq. (3). Features are shifted and scaled to mean 0 and deviation 1 over the training split."""
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    scaled = [(part - mean) / deviation for part in (train, valid[0], asked)]
    fit = best_logistic_regression(scaled[0], y, (scaled[1], valid[1]), int(y.max()) + 1)
    return fit(scaled[2]).argmax(1)
