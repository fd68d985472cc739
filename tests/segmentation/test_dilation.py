"""Dilated convolution: the definition against torch and scipy, sizes, supports by enumeration, what HDC misses."""

import itertools

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, conv2d

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.segmentation.dilation import (
    Layer,
    dilated_1d,
    dilated_2d,
    effective_kernel,
    gaps,
    jumps,
    output_size,
    paths,
    receptive_field,
    same_padding,
    satisfies_hdc,
    search,
    support,
)  # fmt: skip

SIZES = {"k": st.integers(1, 4), "rate": st.integers(1, 4), "stride": st.integers(1, 3), "pad": st.integers(0, 5)}
LAYERS = st.lists(
    st.builds(Layer, kernel=st.integers(1, 4), rate=st.integers(1, 5), stride=st.integers(1, 2)), min_size=1, max_size=4
)


def rates(*r: int, k: int = 3) -> list[Layer]:
    return [Layer(k, each) for each in r]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "x"), dtype=torch.float64)


# ---------------------------------------------------------------- the operator


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 12), seed=st.integers(0, 9), **SIZES)
def test_the_definition_is_what_torch_computes_in_1d(n, seed, k, rate, stride, pad):
    x, w = normal(2, 3, n, seed=seed), normal(4, 3, k, seed=seed + 10)
    if n + 2 * pad < effective_kernel(k, rate):
        with pytest.raises(UsageError, match="covers"):
            dilated_1d(x, w, rate, stride, pad)
        return
    y = dilated_1d(x, w, rate, stride, pad)
    torch.testing.assert_close(y, conv1d(x, w, None, stride, pad, rate), rtol=1e-12, atol=1e-12)
    assert y.shape[2] == output_size(n, k, rate, stride, pad)


@settings(deadline=None, max_examples=25)
@given(h=st.integers(4, 9), w=st.integers(4, 9), l=st.integers(1, 3), **SIZES | {"k": st.integers(1, 3)})
def test_the_definition_is_what_torch_computes_in_2d(h, w, k, l, rate, stride, pad):
    x, weight = normal(2, 2, h, w), normal(3, 2, k, l, seed=1)
    if min(h - effective_kernel(k, rate), w - effective_kernel(l, rate)) + 2 * pad < 0:
        with pytest.raises(UsageError, match="covers"):
            dilated_2d(x, weight, rate, stride, pad)
        return
    want = conv2d(x, weight, None, stride, pad, rate)
    torch.testing.assert_close(dilated_2d(x, weight, rate, stride, pad), want, rtol=1e-12, atol=1e-12)


def test_yu_and_koltun_mirror_the_kernel():
    """(F *_l k)(p) = Σ_{s + l t = p} F(s) k(t): the convolution of scipy with zeros between the weights."""
    x, w = normal(1, 1, 20), normal(1, 1, 3, seed=1)
    between = np.zeros(2 * 4 + 1)
    between[::4] = w[0, 0].numpy()
    want = scipy.signal.convolve(x[0, 0].numpy(), between, mode="same")
    got = dilated_1d(x, w.flip(2), rate=4, pad=4)[0, 0].numpy()
    assert got == pytest.approx(want, abs=1e-12)


def test_sizes_by_hand():
    assert [effective_kernel(3, r) for r in (1, 2, 6, 12)] == [3, 5, 13, 25] and effective_kernel(1, 9) == 1
    assert [same_padding(3, r) for r in (1, 2, 18)] == [1, 2, 18] and same_padding(2, 2) == 1
    assert output_size(480, 3, 1, 2, 1) == 240 and output_size(7, 3, 3) == 1
    for k, rate in ((2, 1), (4, 3)):
        with pytest.raises(UsageError, match="no middle"):
            same_padding(k, rate)
    with pytest.raises(UsageError, match="covers 13 pixels, got 8 .* allowed: rates up to 3,"):
        output_size(8, 3, 6)
    assert output_size(8, 3, 3) == 2
    for field in ("kernel", "rate", "stride"):
        with pytest.raises(UsageError, match=f"{field} = 0"):
            Layer(**{field: 0})


# ---------------------------------------------------------------- stacks


@settings(deadline=None, max_examples=60)
@given(stack=LAYERS)
def test_paths_are_those_of_enumeration_and_of_the_gradient(stack):
    """Every choice of one weight a layer is a path; with weights of one, so is the gradient of one output."""
    at = [0] * receptive_field(stack)
    for choice in itertools.product(*(range(layer.kernel) for layer in stack)):
        at[sum(t * layer.rate * J for t, layer, J in zip(choice, stack, jumps(stack)))] += 1
    assert paths(stack).tolist() == at

    x = torch.zeros(1, 1, len(at), dtype=torch.float64, requires_grad=True)
    y = x
    for layer in stack:
        y = conv1d(y, torch.ones(1, 1, layer.kernel, dtype=torch.float64), None, layer.stride, 0, layer.rate)
    assert y.shape == (1, 1, 1)
    assert torch.autograd.grad(y.sum(), x)[0][0, 0].tolist() == at

    found = support(stack)
    assert found.field == len(at) and found.holes == tuple(p for p, c in enumerate(at) if not c)
    assert found.used + len(found.holes) == found.field and 0 < found.share <= 1
    assert found.widest == max((len(list(g)) for hole, g in itertools.groupby(c == 0 for c in at) if hole), default=0)


def test_known_stacks():
    """Yu and Koltun's context module sees 67 pixels; three layers of rate 2 read every second one; 1, 2, 5 all 17."""
    assert receptive_field(rates(1, 1, 2, 4, 8, 16, 1)) == 67 and support(rates(1, 1, 2, 4, 8, 16, 1)).holes == ()
    gridding = support(rates(2, 2, 2))
    assert (gridding.field, gridding.used, gridding.widest) == (13, 7, 1) and gridding.holes == (1, 3, 5, 7, 9, 11)
    assert gridding.share == pytest.approx((7 / 13) ** 2)
    hybrid = support(rates(1, 2, 5))
    assert (hybrid.field, hybrid.used, hybrid.share, hybrid.widest) == (17, 17, 1.0, 0)
    assert receptive_field([Layer(4, 1, 2), Layer(3), Layer(2, 1, 2), Layer(3)]) == 1 + 3 + 2 * 2 + 1 * 2 + 2 * 4
    assert paths(rates(1, 3, 9)).tolist() == [1] * 27, "powers of the kernel: one path each, none wasted"


@settings(deadline=None, max_examples=60)
@given(r=st.lists(st.integers(1, 8), min_size=1, max_size=4), k=st.integers(2, 4))
def test_no_stack_without_holes_sees_further_than_the_product_of_its_kernels(r, k):
    found = support(rates(*r, k=k))
    assert found.used <= k ** len(r)
    if not found.holes:
        assert found.field <= k ** len(r) and min(r) == 1
    if k > 1:
        assert support(rates(*(k**i for i in range(len(r))), k=k)).field == k ** len(r)


def test_so_many_paths_are_refused():
    assert paths(rates(*[1] * 39)).sum() == 3**39
    with pytest.raises(UsageError, match="2\\^63"):
        paths(rates(*[1] * 40))


# ---------------------------------------------------------------- hybrid dilated convolution


def test_gaps_by_hand():
    """Wang et al.'s own examples, kernels of 3: [1, 2, 5] is good (M_2 = 2), [1, 2, 9] is not (M_2 = 5)."""
    assert gaps([1, 2, 5]) == [1, 2, 5] and satisfies_hdc([1, 2, 5])
    assert gaps([1, 2, 9])[1] == 5 and not satisfies_hdc([1, 2, 9])
    assert satisfies_hdc([1]) and not satisfies_hdc([2])
    assert not support(rates(1, 2, 5)).holes and support(rates(1, 2, 9)).holes


def test_hdc_lets_holes_through_but_none_where_the_first_rate_is_1():
    """Kernels of 3, two to four layers, r_1 ≤ … ≤ r_n ≤ 9: where r_1 = 1, all that pass are without holes."""
    passed = missed = 0
    for n in (2, 3, 4):
        for r in itertools.product(range(1, 10), repeat=n):
            if satisfies_hdc(list(r)):
                passed += 1
                holes = bool(support(rates(*r)).holes)
                missed += holes
                assert not (holes and r[0] == 1), r
    assert satisfies_hdc([2, 2]) and support(rates(2, 2)).holes and satisfies_hdc([2, 3]) and support(rates(2, 3)).holes
    assert missed == 886 and passed > missed


def test_search_finds_what_looking_at_all_finds():
    found = search(3, 3, 10)
    want = [
        r for r in itertools.combinations_with_replacement(range(1, 11), 3) if not support(rates(*r)).holes
    ]  # fmt: skip
    assert sorted(found) == sorted(want) and found[0] == (1, 3, 9)
    fields = [receptive_field(rates(*r)) for r in found]
    assert fields == sorted(fields, reverse=True)
    assert search(2, 2, 5)[0] == (1, 2) and search(1) == [(1,)]
    assert len(search(2, 1, 3)) == 6, "kernels of one weight read one pixel, at any rate"
    with pytest.raises(UsageError, match="too many"):
        search(9, 3, 40)
