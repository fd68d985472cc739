r"""A linear layer that sees only what its degrees allow.

Unit k of a layer has a degree m(k): it may depend on the first m(k) variables of the ordering (Germain et al. 2015,
eqs. 12 and 13):

    y = x (W ∘ M)^T + b,    M_{kj} = 1[m(k) ≥ m(j)]   (hidden),    1[m(k) > m(j)]   (output)

Masks are computed from the degrees and never multiplied into the weights, which belong to all masks. Where the units of
both layers are sorted by degree, M is a staircase: whole blocks of it are zero and are not multiplied at all, which
halves the work of a large layer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCKS = 8  # steps of the staircase in a large layer
LARGE = 2**20  # weights from which blocks pay


class Plan(list[tuple[int, int, int, int]]):
    """Row blocks (first row, last row, c0, c1): columns below c0 are all allowed, from c1 on all forbidden.

    A small layer is one block and keeps its mask, since there making one anew costs more than the product.
    """

    mask: Tensor | None = None


def plan(out_degrees: Int[Tensor, " o"], in_degrees: Int[Tensor, " i"], strict: bool) -> Plan:
    """The Plan of a layer with these degrees."""
    rows, columns = len(out_degrees), len(in_degrees)
    is_sorted = bool((out_degrees.diff() >= 0).all() and (in_degrees.diff() >= 0).all())
    if not is_sorted or rows * columns < LARGE:
        whole = Plan([(0, rows, 0, columns)])
        whole.mask = mask(out_degrees, in_degrees, strict).float() if rows * columns < LARGE else None
        return whole
    limits = torch.searchsorted(in_degrees, out_degrees, right=not strict).tolist()
    size = -(-rows // BLOCKS)
    return Plan((r, min(r + size, rows), limits[r], limits[min(r + size, rows) - 1]) for r in range(0, rows, size))


def mask(out_degrees: Int[Tensor, " o"], in_degrees: Int[Tensor, " i"], strict: bool) -> Tensor:
    """M, (o, i) of bool."""
    return out_degrees[:, None] > in_degrees if strict else out_degrees[:, None] >= in_degrees


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def forbid(
    w: Float[Tensor, "o i"], out_degrees: Int[Tensor, " o"], in_degrees: Int[Tensor, " i"], strict: bool
) -> None:
    """w ∘ M in place.

    A mask of 0 and −1 is and-ed to the bits of w, a few rows at a time: four times faster on a CPU than w *= M, for
    which the mask would have to be made a floating-point matrix as large as w.
    """
    bits = _BITS[w.element_size()]
    few = max(1, 2**19 // max(1, w.shape[1]))
    for rows, degrees in zip(w.split(few), out_degrees.split(few), strict=True):
        keep = mask(degrees, in_degrees, strict).view(torch.int8).neg_().to(bits)
        rows.view(bits).bitwise_and_(keep)


class _MaskedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, b, out_degrees, in_degrees, strict, blocks, dtype):
        x, b = x.to(dtype), b.to(dtype)
        allowed = torch.empty_like(W, dtype=dtype)
        parts = []
        for r, s, c0, c1 in blocks:
            w = allowed[r:s, :c1]
            w.copy_(W[r:s, :c1])
            forbid(w[:, c0:], out_degrees[r:s], in_degrees[c0:c1], strict)
            parts.append(torch.addmm(b[r:s], x[:, :c1], w.t()))
        ctx.save_for_backward(x, allowed, out_degrees, in_degrees)
        ctx.strict, ctx.blocks, ctx.wide = strict, blocks, W.dtype
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    @staticmethod
    def backward(ctx, grad_y):
        x, allowed, out_degrees, in_degrees = ctx.saved_tensors
        grad_y = grad_y.to(x.dtype)
        grad_W = torch.empty_like(allowed, dtype=ctx.wide)
        grad_x = torch.zeros_like(x, dtype=ctx.wide) if ctx.needs_input_grad[0] else None
        for r, s, c0, c1 in ctx.blocks:
            g = grad_y[:, r:s]
            part = g.t().contiguous() @ x[:, :c1]
            forbid(part[:, c0:], out_degrees[r:s], in_degrees[c0:c1], ctx.strict)
            grad_W[r:s, :c1] = part
            grad_W[r:s, c1:] = 0
            if grad_x is not None:
                grad_x[:, :c1] += g @ allowed[r:s, :c1]
        return grad_x, grad_W, grad_y.sum(0, dtype=ctx.wide), None, None, None, None, None


def masked_linear(
    x: Float[Tensor, "b i"],
    W: Float[Tensor, "o i"],
    b: Float[Tensor, " o"],
    out_degrees: Int[Tensor, " o"],
    in_degrees: Int[Tensor, " i"],
    strict: bool,
    blocks: Plan,
) -> Float[Tensor, "b o"]:
    """x (W ∘ M)^T + b; `blocks` is `plan` of the same degrees. In autocast the products run in its precision."""
    if blocks.mask is not None:
        blocks.mask = blocks.mask.to(W)
        return torch.nn.functional.linear(x, W * blocks.mask, b)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else W.dtype
    return _MaskedLinear.apply(x, W, b, out_degrees, in_degrees, strict, blocks, dtype)  # type: ignore[no-any-return]
