"""Which answer is taught which mask, by trying all orders."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.sam import losses, matching


def drawn(seed, b=2, p=4, side=12):
    """Logits of three answers to each prompt, rectangles that overlap, and which hold the corner of which."""
    g = torch.Generator().manual_seed(seed)
    m = 2 * torch.randn(b * p, 3, side, side, generator=g)
    y = torch.zeros(b, p, side, side, dtype=torch.bool)
    for masks in y:
        for mask in masks:
            (t, l), (h, w) = torch.randint(0, 7, (2,), generator=g), torch.randint(2, 8, (2,), generator=g)
            mask[t : t + h, l : l + w] = True
    corners = [[next(zip(*torch.where(mask))) for mask in masks] for masks in y]
    holding = torch.tensor([[[bool(other[at]) for other in masks] for at in of] for masks, of in zip(y, corners)])
    return m, y, holding


def by_hand(m, masks, own, holds, weight):
    """Eqs. (1) and (2) for one prompt: the least mean loss, and the answers' gradients follow."""
    truths = [own]
    for j, mask in enumerate(masks):
        apart = all((mask & masks[i]).sum() / (mask | masks[i]).sum() <= matching.SAME for i in truths)
        if holds[j] and apart and len(truths) < 3:
            truths.append(j)
    each = [[losses.mask_loss(a[None], masks[j][None].float(), weight)[0] for j in truths] for a in m]
    sums = [sum(each[k][j] for j, k in enumerate(order)) for order in permutations(range(3), len(truths))]
    return min(sums, key=lambda one: one.item()) / len(truths), len(truths)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_it_is_the_least_of_all_orders(seed):
    m, y, holding = drawn(seed)
    found = matching.loss(m, y, holding, 5.0)
    for n in range(len(m)):
        wanted, _ = by_hand(m[n], y[n // 4], n % 4, holding[n // 4, n % 4], 5.0)
        assert math.isclose(found[n].item(), wanted.item(), rel_tol=1e-4)


def test_drawn_prompts_have_one_two_and_three_truths():
    counts = set()
    for seed in range(10):
        m, y, holding = drawn(seed)
        counts |= {by_hand(m[n], y[n // 4], n % 4, holding[n // 4, n % 4], 5.0)[1] for n in range(len(m))}
    assert counts == {1, 2, 3}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_the_table_has_the_loss_of_each_answer_with_each_mask(seed):
    m, y, _ = drawn(seed)
    m = m.unflatten(0, (2, 4)).flatten(1, 2)
    found = matching.table(m, y, 20.0)
    assert found.shape == (2, 12, 4)
    for i in range(2):
        for k in range(12):
            each = losses.mask_loss(m[i, k].expand(4, -1, -1), y[i].float())
            torch.testing.assert_close(found[i, k], each, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_answers_that_were_chosen():
    m, y, holding = drawn(3)
    m.requires_grad_()
    matching.loss(m, y, holding, 5.0).sum().backward()
    own = m.grad.clone()
    m.grad = None
    sum(by_hand(m[n], y[n // 4], n % 4, holding[n // 4, n % 4], 5.0)[0] for n in range(len(m))).backward()
    torch.testing.assert_close(own, m.grad, rtol=1e-4, atol=1e-6)


def test_a_prompt_that_means_one_thing_teaches_its_best_answer_alone():
    m, y, _ = drawn(5)
    m.requires_grad_()
    matching.loss(m, y, torch.eye(4, dtype=torch.bool).expand(2, 4, 4), 5.0).sum().backward()
    for n in range(len(m)):
        each = losses.mask_loss(m[n].detach(), y[n // 4, n % 4].float().expand(3, -1, -1), 5.0)
        assert [bool(g.any()) for g in m.grad[n]] == [k == int(each.argmin()) for k in range(3)]


def test_masks_that_are_nearly_the_same_are_one():
    y = torch.zeros(1, 3, 10, 10, dtype=torch.bool)
    y[0, 0, :8], y[0, 1, :9], y[0, 2, :2] = True, True, True
    of, there = matching.meant(y, torch.ones(1, 3, 3, dtype=torch.bool))
    assert [sorted(o[t].tolist()) for o, t in zip(of, there)] == [[0, 2], [1, 2], [0, 2]]


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_the_table_is_finite_at_any_logit(logit):
    m = torch.full((1, 3, 4, 4), logit)
    y = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    assert matching.table(m, y, 20.0).isfinite().all()
