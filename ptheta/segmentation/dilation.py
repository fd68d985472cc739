r"""Dilated convolution: the operator, what a stack of it sees, and what it leaves out.

F. Yu and V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016 (the operator).
P. Wang et al., "Understanding Convolution for Semantic Segmentation", WACV 2018 (gridding, the HDC condition).
A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.

The convolution of x with a kernel of k weights at rate r reads pixels that are r apart,

    y(p) = \sum_{t=0}^{k−1} w(t) x(s p + r t − pad),        in two dimensions at p, t ∈ Z²                      (1)

as deep learning defines it (a correlation: the kernel is not mirrored; Yu and Koltun mirror it), x = 0 outside. It
covers K pixels and gives o of n,

    K = k + (k − 1)(r − 1),        o = ⌊(n + 2 pad − K) / s⌋ + 1                                               (2)

Of a stack of layers i = 1 … n with strides s_i, neighbours in layer i's input are J_i pixels apart, and one output sees
R_n pixels of the input,

    J_i = s_1 ⋯ s_{i−1},        R_n = 1 + \sum_i (K_i − 1) J_i                                                  (3)

R_n is only where the outermost pixels are. Which are read at all, the support, is a sum of sets, and by how many paths
is the product of polynomials,

    S = \{ \sum_i t_i r_i J_i : 0 ≤ t_i < k_i \},        \sum_p c_p z^p = \prod_i \sum_{t<k_i} z^{t r_i J_i}    (4)

p ∈ {0 … R_n − 1} with c_p = 0 are holes: gridding. In two dimensions S × S is read, of R_n² pixels a share of
(|S| / R_n)². As |S| ≤ \prod k_i, no stack of stride 1 without holes sees more than \prod k_i pixels; rates 1, k, k², …
see just as many, by one path each. Hybrid dilated convolution asks instead that the largest gap between weights,

    M_n = r_n,        M_i = \max(M_{i+1} − 2 r_i,  2 r_i − M_{i+1},  r_i),        M_2 ≤ k                       (5)

| symbol | shape | here |
|---|---|---|
| x | (b, c, n) or (b, c, h, w) | input |
| w | (d, c, k) or (d, c, k, l) | weights |
| c | (R,) | paths from each input pixel |

Differs from the paper: (5) is not trusted, as it is not enough: rates [2, 2] of kernels of 3 pass with M_2 = 2 and
never read every second pixel. `support` decides, by (4). The least of S but 0 is the least r_i J_i, so that without
holes a stack of stride 1 has a layer of rate 1.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptheta.engine.errors import UsageError

MOST = 1_000_000  # stacks that `search` looks at


# ---------------------------------------------------------------- the operator


def dilated_1d(
    x: Float[Tensor, "b c n"], w: Float[Tensor, "d c k"], rate: int = 1, stride: int = 1, pad: int = 0
) -> Float[Tensor, "b d o"]:
    """Eq. (1) term by term, as a reference; `torch.nn.functional.conv1d` is the fast one."""
    b, c, n = x.shape
    d, _, k = w.shape
    y = x.new_zeros(b, d, output_size(n, k, rate, stride, pad))
    for p in range(y.shape[2]):
        for t in range(k):
            at = stride * p + rate * t - pad
            if 0 <= at < n:
                y[:, :, p] += x[:, :, at] @ w[:, :, t].t()
    return y


def dilated_2d(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "d c k l"], rate: int = 1, stride: int = 1, pad: int = 0
) -> Float[Tensor, "b d o q"]:
    """Eq. (1) in two dimensions, term by term, as a reference; `torch.nn.functional.conv2d` is the fast one."""
    b, c, h, w = x.shape
    d, _, k, l = weight.shape
    y = x.new_zeros(b, d, output_size(h, k, rate, stride, pad), output_size(w, l, rate, stride, pad))
    for p, q in itertools.product(range(y.shape[2]), range(y.shape[3])):
        for t, u in itertools.product(range(k), range(l)):
            i, j = stride * p + rate * t - pad, stride * q + rate * u - pad
            if 0 <= i < h and 0 <= j < w:
                y[:, :, p, q] += x[:, :, i, j] @ weight[:, :, t, u].t()
    return y


def effective_kernel(k: int, rate: int) -> int:
    """K of eq. (2)."""
    return k + (k - 1) * (rate - 1)


def output_size(n: int, k: int, rate: int = 1, stride: int = 1, pad: int = 0) -> int:
    """o of eq. (2). Raises UsageError where not even one output fits."""
    o = (n + 2 * pad - effective_kernel(k, rate)) // stride + 1
    if o < 1:
        raise UsageError(
            f"a kernel of {k} at rate {rate} covers {effective_kernel(k, rate)} pixels, got {n} with {pad} more on "
            f"each side; allowed: rates up to {max(0, (n + 2 * pad - 1) // max(1, k - 1))}, or more padding."
        )
    return o


def same_padding(k: int, rate: int) -> int:
    """The padding that keeps the size at stride 1. Raises UsageError for an even K, which has no middle."""
    if effective_kernel(k, rate) % 2 == 0:
        raise UsageError(f"a kernel of {k} at rate {rate} has no middle pixel; allowed: odd kernels, or even rates.")
    return (effective_kernel(k, rate) - 1) // 2


# ---------------------------------------------------------------- stacks


@dataclass(frozen=True)
class Layer:
    """One convolution or pooling of a stack."""

    kernel: int = 3
    rate: int = 1
    stride: int = 1

    def __post_init__(self):
        for name in ("kernel", "rate", "stride"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} is impossible; allowed: whole numbers from 1.")


def jumps(stack: list[Layer]) -> list[int]:
    """J_1 … J_n, J_{n+1} of eq. (3)."""
    return list(itertools.accumulate((layer.stride for layer in stack), lambda a, b: a * b, initial=1))


def receptive_field(stack: list[Layer]) -> int:
    """R_n of eq. (3)."""
    return 1 + sum((effective_kernel(l.kernel, l.rate) - 1) * J for l, J in zip(stack, jumps(stack)))


def paths(stack: list[Layer]) -> Int[Tensor, " R"]:
    """c of eq. (4), exactly, as Python integers would be; raises UsageError where they pass 64 bits."""
    if math.prod(layer.kernel for layer in stack) >= 2**63:
        raise UsageError("the paths of so deep a stack pass 2^63; allowed: a product of the kernels below that.")
    c = torch.ones(1, dtype=torch.long)
    for layer, J in zip(stack, jumps(stack)):
        step = layer.rate * J
        longer = c.new_zeros(len(c) + (layer.kernel - 1) * step)
        for t in range(layer.kernel):
            longer[t * step : t * step + len(c)] += c
        c = longer
    return c


@dataclass(frozen=True)
class Support:
    """What one output of a stack reads, along one side."""

    field: int
    """R_n, pixels from the first that is read to the last."""
    used: int
    """|S|, those that are read."""
    holes: tuple[int, ...]
    """Those that are not, counted from the first pixel that is."""
    widest: int
    """The most neighbouring pixels that are not read."""

    @property
    def share(self) -> float:
        """Of the pixels in two dimensions that are read."""
        return (self.used / self.field) ** 2


def support(stack: list[Layer]) -> Support:
    """S of eq. (4) and its holes."""
    c = paths(stack)
    holes = (c == 0).nonzero().flatten().tolist()
    runs = [len(run) for run in "".join("o" if p == 0 else " " for p in c.tolist()).split()]
    return Support(len(c), len(c) - len(holes), tuple(holes), max(runs, default=0))


# ---------------------------------------------------------------- hybrid dilated convolution


def gaps(rates: list[int]) -> list[int]:
    """M_1 … M_n of eq. (5), from the rates r_1 … r_n."""
    M = [rates[-1]]
    for r in reversed(rates[:-1]):
        M.insert(0, max(M[0] - 2 * r, 2 * r - M[0], r))
    return M


def satisfies_hdc(rates: list[int], k: int = 3) -> bool:
    """Eq. (5): M_2 ≤ k. Of one layer, r_1 = 1."""
    return gaps(rates)[1] <= k if len(rates) > 1 else rates[0] == 1


def search(layers: int, k: int = 3, most: int = 16) -> list[tuple[int, ...]]:
    """All rates r_1 ≤ … ≤ r_n ≤ `most` whose stack of kernels of k has no holes, those that see furthest first; of
    equal ones those whose paths are spread most evenly. Raises UsageError where more than `MOST` would be looked at."""
    count = math.comb(most + layers - 1, layers)
    if count > MOST:
        raise UsageError(
            f"{count:,} stacks of {layers} rates up to {most} are too many; allowed: {MOST:,} (fewer layers, or a "
            "lower greatest rate)."
        )
    found = []
    for rates in itertools.combinations_with_replacement(range(1, most + 1), layers):
        if rates[0] > 1 and k > 1:
            break  # no layer of rate 1: there are holes
        c = paths([Layer(k, r) for r in rates]).double()
        if (c > 0).all():
            share = c / c.sum()
            found.append((len(c), -(share * share.log()).sum().item(), rates))
    return [rates for _, _, rates in sorted(found, key=lambda f: (-f[0], -f[1], f[2]))]


def command(argv: list[str]) -> int:
    """`ptheta dilation RATES [options]`: a stack in numbers and in a picture."""
    from ptheta.segmentation.gridding import command as gridding

    return gridding(argv)
