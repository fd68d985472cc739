r"""The joint p(x, y) of vectors and their classes, and what follows from it.

The label is written as C more binary variables, of which one is on, before or after the n variables of x:

    z = (onehot(y), x)   or   z = (x, onehot(y)),        \log p(x, y) = \log p_θ(z)          (1)

so that every model of binary vectors is a model of the joint. What it then answers, by sums over the C classes:

    p(x) = \sum_y p(x, y)                                                                     (2)
    p(y | x) = p(x, y) / p(x)                       (Bayes)                                   (3)

Learning where the class of some vectors is unknown uses (2) for them: they count with −\log p(x), the others with
−\log p(x, y) (Kingma et al. 2014, section 3, without their bound: here the sum over y is taken).

A model of binary variables can give a little mass to codes that are no one-hot; (1)–(3) leave it out, so that p(x, y)
sums to slightly less than one and never to more.

How far p(y | x) can be trusted is measured by the expected calibration error over B bins of the confidence
\max_y p(y | x) (Naeini et al. 2015):

    ECE = \sum_b (n_b / N) |accuracy_b − confidence_b|                                        (4)
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Estimate

UNKNOWN = -1  # the class of a vector that has none


def join(x: Tensor, y: Tensor | None, classes: int, where: str) -> Tensor:
    """z of eq. (1), (b, n + C), from x (b, n) and y (b,) in 0..C−1; no class is on where y is −1, or None.

    Raises InputError for a label outside its range or another number of labels than vectors.
    """
    code = x.new_zeros(len(x), classes)
    if y is not None:
        y = torch.as_tensor(y, device=x.device).long()
        if y.shape != (len(x),):
            raise InputError(f"y has shape {tuple(y.shape)} for {len(x)} vectors; allowed: one label a vector.")
        if len(y) and not -1 <= int(y.min()) <= int(y.max()) < classes:
            bad = y[(y < -1) | (y >= classes)][0].item()
            raise InputError(f"y holds the label {bad}; allowed: 0 to {classes - 1}, or −1 where it is unknown.")
        known = (y >= 0).nonzero()[:, 0]
        code[known, y[known]] = 1
    return torch.cat([code, x] if where == "first" else [x, code], 1)


def label_columns(n: int, classes: int, where: str) -> slice:
    """The label's columns among the n of z."""
    return slice(0, classes) if where == "first" else slice(n - classes, n)


def draw_class(p: Float[Tensor, "*b C"], u: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """A class for each uniform number u by the inverse of the distribution function: the least y with u < P(Y ≤ y)."""
    return (p.cumsum(-1) <= u[:, None]).sum(1).clamp(max=p.shape[-1] - 1)


def every_class(z: Tensor, classes: int, where: str) -> Tensor:
    """Each vector with each class, (b, n) -> (b·C, n): the C of the first vector, then those of the second, …"""
    b, n = z.shape
    out = z.repeat_interleave(classes, 0)
    out[:, label_columns(n, classes, where)] = torch.eye(classes, dtype=z.dtype, device=z.device).repeat(b, 1)
    return out


def partly_labelled(nats: Float[Tensor, " bC"], code: Float[Tensor, "b C"]) -> Float[Tensor, " b"]:
    """−log p(x, y) where the class is known, −log p(x), eq. (2), where `code` has none; from those of every class."""
    nats = nats.view(code.shape)
    return torch.where(code.sum(1) > 0, (nats * code).sum(1), -(-nats).logsumexp(1))


def keep_labels(y: Int[Tensor, " N"], count: int, seed: int) -> Int[Tensor, " N"]:
    """y with `count` labels kept, equally many of each class as far as there are, and −1 in place of the others.

    Raises UsageError if there are fewer labels than that, or fewer are wanted than there are classes.
    """
    classes = int(y.max()) + 1
    if not classes <= count <= len(y):
        raise UsageError(
            f"labelled = {count} is impossible for {len(y):,} vectors of {classes} classes; allowed: {classes} to "
            f"{len(y):,} (option --labelled)."
        )
    shuffled = torch.randperm(len(y), generator=generator(seed, 0, "labelled"))
    turn = torch.empty_like(shuffled)  # how many of its class came before each vector
    for c in range(classes):
        mine = shuffled[y[shuffled] == c]
        turn[mine] = torch.arange(len(mine))
    kept = torch.full_like(y, UNKNOWN)
    first = shuffled[turn[shuffled].argsort(stable=True)][:count]
    kept[first] = y[first]
    return kept


def figures(log_joint: Float[Tensor, "N C"], y: Int[Tensor, " N"], bins: int = 15) -> dict[str, Estimate]:
    """The field's figures from log p(x, y) of every class.

    nats: mean −log p(x, y); nats_x: mean −log p(x), eq. (2), nats; accuracy of argmax_y p(y | x); ece, eq. (4).
    """
    log_joint = log_joint.double().cpu()
    log_x = log_joint.logsumexp(1)
    posterior = (log_joint - log_x[:, None]).exp()
    right = (posterior.argmax(1) == y).double()
    return {
        "nats": Estimate.of(-log_joint.gather(1, y[:, None])[:, 0]),
        "nats_x": Estimate.of(-log_x),
        "accuracy": Estimate.of(right),
        "ece": expected_calibration_error(posterior, y, bins),
    }


def expected_calibration_error(
    posterior: Float[Tensor, "N C"], y: Int[Tensor, " N"], bins: int = 15, draws: int = 200
) -> Estimate:
    """Eq. (4) with bins of equal width; its standard error by the bootstrap over vectors (Efron 1979)."""
    confidence, guess = posterior.max(1)
    gap = (guess == y).double() - confidence.double()
    bin = (confidence.double() * bins).long().clamp(max=bins - 1)

    def ece(rows: Tensor) -> float:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, bin[rows], gap[rows]).abs().sum().item() / len(rows)

    g, N = generator(0, 0, "bootstrap"), len(y)
    again = torch.tensor([ece(torch.randint(N, (N,), generator=g)) for _ in range(draws)])
    return Estimate(ece(torch.arange(N)), again.std().item(), N)


def labels_of(data: Any, split: str) -> Int[Tensor, " N"]:
    """The labels of a split, or InputError where the data set has none."""
    y = data.labels(split)
    if y is None:
        raise InputError(
            f"{data.name} has no labels; p(x, y) wants them: name a labelled set with --data (digits, mnist, "
            "fashion_mnist, sampled_mnist, or an .npz with x and y), or leave --label out."
        )
    return y
