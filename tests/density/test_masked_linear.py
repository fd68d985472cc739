"""The masked product against x (W ∘ M)^T + b with M written out."""

import copy
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.density import masked_linear as module
from ptheta.density.made import MADE
from ptheta.density.masked_linear import forbid, mask, masked_linear, plan

LAYERS = {
    "b": st.integers(1, 5),
    "o": st.integers(1, 20),
    "i": st.integers(1, 20),
    "most": st.integers(1, 9),
    "strict": st.booleans(),
    "is_sorted": st.booleans(),
    "seed": st.integers(0, 10**6),
}


def layer(b, o, i, most, is_sorted, seed, dtype=torch.float64):
    """x, W, bias, degrees of the outputs and of the inputs."""
    g = torch.Generator().manual_seed(seed)
    x, W, bias = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in ((b, i), (o, i), (o,)))
    degrees = [torch.randint(1, most + 1, (size,), generator=g) for size in (o, i)]
    degrees = [d.sort().values for d in degrees] if is_sorted else degrees
    return [t.requires_grad_() for t in (x, W, bias)], degrees


def written_out(degrees, strict) -> torch.Tensor:
    out, inner = (d.tolist() for d in degrees)
    return torch.tensor([[float(k > j if strict else k >= j) for j in inner] for k in out], dtype=torch.float64)


@pytest.mark.parametrize("large", [1, 2**20], ids=["large", "small"])
@settings(deadline=None, max_examples=80)
@given(**LAYERS)
def test_values_and_gradients_equal_the_product_with_the_mask(large, b, o, i, most, strict, is_sorted, seed):
    (x, W, bias), degrees = layer(b, o, i, most, is_sorted, seed)
    M = written_out(degrees, strict)
    assert torch.equal(mask(*degrees, strict).double(), M)
    with patch.object(module, "LARGE", large):
        blocks = plan(*degrees, strict)
    assert (len(blocks) > 1) == (large == 1 and o > 1 and all((d.diff() >= 0).all() for d in degrees))
    kept = W.detach().clone()
    y, naive = masked_linear(x, W, bias, *degrees, strict, blocks), x @ (W * M).T + bias
    torch.testing.assert_close(y, naive, rtol=1e-12, atol=1e-12)
    weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view_as(y)
    got = torch.autograd.grad((y * weight).sum(), (x, W, bias))
    want = torch.autograd.grad((naive * weight).sum(), (x, W, bias))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (got[1][M == 0] == 0).all() and torch.equal(W, kept)


@settings(deadline=None, max_examples=60)
@given(
    o=st.integers(1, 40), i=st.integers(1, 40), most=st.integers(1, 9), strict=st.booleans(), seed=st.integers(0, 99)
)
def test_blocks_hold_every_row_once_and_all_that_is_allowed(o, i, most, strict, seed):
    _, degrees = layer(1, o, i, most, True, seed)
    M = mask(*degrees, strict)
    with patch.object(module, "LARGE", 1):
        blocks = plan(*degrees, strict)
    assert [row for r, s, _, _ in blocks for row in range(r, s)] == list(range(o))
    assert len(blocks) <= module.BLOCKS
    for r, s, c0, c1 in blocks:
        assert M[r:s, :c0].all() and not M[r:s, c1:].any()
    _, mixed = layer(1, o, i, most, False, seed)
    mixed = [d.flip(0) if (d.diff() >= 0).all() else d for d in mixed]
    if any((d.diff() < 0).any() for d in mixed):
        with patch.object(module, "LARGE", 1):
            assert plan(*mixed, strict) == [(0, o, 0, i)], "degrees that are not sorted make no staircase"


def test_half_of_a_large_layer_is_not_multiplied():
    degrees = torch.arange(1, 1101)
    work = sum((s - r) * c1 for r, s, _, c1 in plan(degrees, degrees, False)) / 1100**2
    assert work < 0.6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_forbidden_weights_become_zero_bit_by_bit(dtype):
    (_, W, _), degrees = layer(1, 130, 70, 9, False, 3, dtype)
    W = W.detach()
    W[5, 7], W[6, 8], W[7, 9] = float("inf"), float("nan"), -0.0
    M, kept = mask(*degrees, False), W.clone()
    for view in (W, W.clone()[:, 10:50], W.clone()[3:9]):
        rows, columns = view.shape
        first = (0, 0) if rows == 130 and columns == 70 else (0, 10) if rows == 130 else (3, 0)
        part = M[first[0] : first[0] + rows, first[1] : first[1] + columns]
        old = kept[first[0] : first[0] + rows, first[1] : first[1] + columns]
        forbid(view, degrees[0][first[0] : first[0] + rows], degrees[1][first[1] : first[1] + columns], False)
        assert (view[~part] == 0).all()
        torch.testing.assert_close(view[part], old[part], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("large", "is_sorted"), [(1, True), (1, False), (2**20, True)], ids=["blocks", "whole", "kept mask"]
)
def test_in_autocast_the_products_run_in_its_precision_and_gradients_stay_wide(large, is_sorted):
    (x, W, bias), degrees = layer(8, 20, 30, 9, is_sorted, 5, torch.float32)
    with patch.object(module, "LARGE", large):
        blocks = plan(*degrees, False)
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_linear(x, W, bias, *degrees, False, blocks)
    y.float().sum().backward()
    half = [t.detach().bfloat16().float() for t in (x, W, bias)]
    M = mask(*degrees, False)
    assert y.dtype == torch.bfloat16 and {x.grad.dtype, W.grad.dtype, bias.grad.dtype} == {torch.float32}
    torch.testing.assert_close(y.float(), half[0] @ (half[1] * M).T + half[2], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(W.grad, M * half[0].sum(0), rtol=2e-2, atol=5e-2)
    torch.testing.assert_close(x.grad, (half[1] * M).sum(0).expand(8, -1), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("direct", [True, False])
def test_a_model_in_blocks_is_the_same_model(direct):
    model = MADE(30, (60, 50), direct=direct).double()
    x = torch.randint(2, (9, 30), generator=torch.Generator().manual_seed(0)).double()
    twin = copy.deepcopy(model)
    with patch.object(module, "LARGE", 1):
        twin(x).sum().backward()
    model(x).sum().backward()
    assert len(twin.plan(0)[0]) > 1 == len(model.plan(0)[0])
    torch.testing.assert_close(twin(x), model(x), rtol=1e-12, atol=1e-12)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-12, msg=name)


def test_weights_that_are_loaded_bring_their_own_blocks():
    """Degrees are part of what is saved: what was planned for others is forgotten."""
    with patch.object(module, "LARGE", 1):
        one, other = MADE(20, (40,), seed=1).double().eval(), MADE(20, (40,), seed=2).double().eval()
        x = torch.eye(20).double()
        one.log_prob(x)
        one.load_state_dict(other.state_dict())
        assert not torch.equal(MADE(20, (40,), seed=1).degrees1, other.degrees1)
        torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-12, atol=1e-12)
