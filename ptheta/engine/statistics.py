r"""What few runs tell: the interquartile mean over seeds, bootstrap intervals, the probability of improvement.

R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville and M. Bellemare, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", NeurIPS 2021 (sections 4.1 and 4.3).
B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979 (the interval's method).
H. Mann and D. Whitney, "On a Test of Whether one of Two Random Variables is Stochastically Larger than the Other",
Annals of Mathematical Statistics 18(1), 1947.

Each of n runs gives one figure x_i. The interquartile mean is the mean of the middle half: of the sorted figures
x_{(1)} ≤ … ≤ x_{(n)}, each of which stands for a share 1/n of the runs,

    IQM(x) = 2 \sum_i w_i x_{(i)},      w_i = | [ (i−1)/n, i/n ] ∩ [ 1/4, 3/4 ] |                                (1)

The interval of level 1 − α is that between the quantiles α/2 and 1 − α/2 of

    IQM(x^*_1), …, IQM(x^*_B),      x^*_b: n of the n runs, drawn with replacement                              (2)

and runs of X are better than those of Y with probability

    P(X > Y) = \frac{1}{n m} \sum_{i,j} S(x_i, y_j),      S = 1 if x_i > y_j, 1/2 if equal, 0 otherwise         (3)

whose interval follows as in (2), with X and Y drawn anew by themselves. It is the U of Mann and Whitney over n m.

| symbol | shape | here |
|---|---|---|
| x | (n, …) | the runs are the first axis; the others are whatever was measured at the same time, such as steps |
| B | | `resamples`; drawn from a generator of `seed`, so that one set of runs has one interval |

Not as in the paper: its code drops ⌊n/4⌋ runs at either end, which is (1) where 4 divides n and, for other n, keeps
more than half of them; with one task there are no strata. The interval is that of the paper, of percentiles, and few
runs make it too narrow: of 3, 5, 10 and 20 runs, of a normal or a lognormal distribution, it holds the true value not
95 times in 100 but 75, 90, 93 and 95 times. With fewer than five, look at every run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ptheta.engine.errors import UsageError

RESAMPLES = 10_000
AT_ONCE = 4_000_000  # drawn figures that are held in memory


def iqm(x: Float[np.ndarray, "n *rest"]) -> Float[np.ndarray, "*rest"]:
    """Eq. (1), along the first axis. Raises UsageError for no runs."""
    n = some(x)
    edges = np.arange(n + 1) / n
    w = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return np.tensordot(2 * w, np.sort(x, axis=0), 1)


def mean(x: Float[np.ndarray, "n *rest"]) -> Float[np.ndarray, "*rest"]:
    """Along the first axis. Raises UsageError for no runs."""
    some(x)
    return np.asarray(x.mean(0))


def interval(
    x: Float[np.ndarray, "n *rest"], of: Callable[[np.ndarray], np.ndarray] = iqm, level: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:  # fmt: skip
    """Eq. (2) for each of what was measured, with the same draws for all: the lower and the upper end. `of` is a
    statistic along the first axis.

    Raises UsageError for no runs, or a level that is no share.
    """
    n = some(x)
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    flat = x.reshape(n, -1)
    width = max(1, AT_ONCE // drawn.size)
    parts = [of(flat[drawn.T, c : c + width]) for c in range(0, flat.shape[1], width)]
    low, high = between(np.concatenate(parts, axis=-1), level)
    return low.reshape(x.shape[1:]), high.reshape(x.shape[1:])


def improvement(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "m"]) -> float:
    """Eq. (3). Raises UsageError for no runs."""
    for one in (x, y):
        some(one)
    return float(wins(x[:, None], y[None]).mean())


def improvement_interval(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "m"], level: float = 0.95, resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Eq. (2) for eq. (3). Raises UsageError for no runs, or a level that is no share."""
    for one in (x, y):
        some(one)
    g, S = np.random.default_rng(seed), wins(x[:, None], y[None])
    of_x, of_y = (g.integers(0, len(one), (resamples, len(one))) for one in (x, y))
    width = max(1, AT_ONCE // S.size)
    parts = [
        S[of_x[b : b + width, :, None], of_y[b : b + width, None]].mean((1, 2)) for b in range(0, resamples, width)
    ]
    low, high = between(np.concatenate(parts), level)
    return float(low), float(high)


def wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """S of eq. (3)."""
    return (x > y) + 0.5 * (x == y)


def between(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The quantiles of eq. (2) along the first axis."""
    if not 0 < level < 1:
        raise UsageError(f"level = {level} is impossible; allowed: above 0 and below 1.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def some(x: np.ndarray) -> int:
    """How many runs there are; UsageError for none."""
    if not len(x):
        raise UsageError("there are no runs to take a mean of; give at least one.")
    return len(x)
