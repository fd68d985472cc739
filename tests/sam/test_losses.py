"""Losses of masks, by the formulas pixel by pixel."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.sam.losses import dice, focal, iou, ious, loss


def drawn(seed, b=3, k=2, h=4, w=5):
    g = torch.Generator().manual_seed(seed)
    m = 3 * torch.randn(b, k, h, w, generator=g, dtype=torch.float64)
    return m, (torch.rand(b, h, w, generator=g) < 0.4).double()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_they_are_the_formulas(seed):
    m, y = drawn(seed)
    for i in range(3):
        for k in range(2):
            terms, both, said, true, cut, joined = [], 0.0, 0.0, 0.0, 0, 0
            for logit, t in zip(m[i, k].flatten().tolist(), y[i].flatten().tolist()):
                p = 1 / (1 + math.exp(-logit))
                p_y, a = (p, 0.25) if t else (1 - p, 0.75)
                terms.append(-a * (1 - p_y) ** 2 * math.log(p_y))
                both, said, true = both + p * t, said + p * p, true + t
                cut, joined = cut + (logit > 0 and t == 1), joined + (logit > 0 or t == 1)
            assert math.isclose(focal(m, y)[i, k].item(), sum(terms) / len(terms), rel_tol=1e-9)
            assert math.isclose(dice(m, y)[i, k].item(), 1 - (2 * both + 1) / (said + true + 1), rel_tol=1e-9)
            assert math.isclose(iou(m, y)[i, k].item(), cut / joined if joined else 1.0, rel_tol=1e-6)


def test_only_the_best_mask_of_a_prompt_learns_and_every_expected_iou():
    m, y = drawn(1, k=3)
    m.requires_grad_()
    s = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    masks, expected = loss(m, s, y)
    each = 20 * focal(m, y) + dice(m, y)
    assert torch.equal(masks, each.min(1).values)
    torch.testing.assert_close(loss(m, s, y, 5.0)[0], (5 * focal(m, y) + dice(m, y)).min(1).values)
    (masks.sum() + expected.sum()).backward()
    for i in range(3):
        best = each[i].argmin().item()
        for k in range(3):
            assert (m.grad[i, k].abs().sum() > 0) == (k == best)
            wanted = -2 * iou(m, y)[i, k].item() / 3
            assert math.isclose(s.grad[i, k].item(), wanted, abs_tol=1e-6)


def test_ious_of_all_pairs_are_those_of_each():
    m, y = drawn(2)
    each = ious(m, y[:, None])
    assert each.shape == (3, 2, 1)
    torch.testing.assert_close(each[..., 0].double(), iou(m, y).double())
    s = torch.rand(3, 2)
    _, off = loss(m, s, y, of=torch.full((3, 2), 0.25))
    torch.testing.assert_close(off, (s - 0.25).square().mean(1))


def test_gradients_are_finite_at_any_logit():
    m = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4]).view(1, 1, 1, 5).requires_grad_()
    y = torch.tensor([[[1.0, 1.0, 0.0, 0.0, 0.0]]])
    (20 * focal(m, y) + dice(m, y)).sum().backward()
    assert m.grad.isfinite().all()


def test_two_empty_masks_agree():
    assert iou(torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 2, 2)).item() == 1.0
