"""Losses of masks, by the formulas pixel by pixel."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.sam.losses import dice, focal, iou, iou_loss, ious, mask_loss


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
            assert math.isclose(focal(m[:, k], y)[i].item(), sum(terms) / len(terms), rel_tol=1e-9)
            assert math.isclose(dice(m[:, k], y)[i].item(), 1 - (2 * both + 1) / (said + true + 1), rel_tol=1e-9)
            assert math.isclose(iou(m, y)[i, k].item(), cut / joined if joined else 1.0, rel_tol=1e-6)


def test_their_sums_and_gradients():
    m, y = drawn(1)
    torch.testing.assert_close(mask_loss(m[:, 0], y), 20 * focal(m[:, 0], y) + dice(m[:, 0], y))
    torch.testing.assert_close(mask_loss(m[:, 0], y, 5.0), 5 * focal(m[:, 0], y) + dice(m[:, 0], y))
    s, of = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True), iou(m, y).double()
    iou_loss(s, of).sum().backward()
    torch.testing.assert_close(s.grad, -of)


def test_ious_of_all_pairs_are_those_of_each():
    m, y = drawn(2)
    each = ious(m, y[:, None])
    assert each.shape == (3, 2, 1)
    torch.testing.assert_close(each[..., 0].double(), iou(m, y).double())


def test_gradients_are_finite_at_any_logit():
    m = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4]).view(1, 1, 5).requires_grad_()
    y = torch.tensor([[[1.0, 1.0, 0.0, 0.0, 0.0]]])
    (20 * focal(m, y) + dice(m, y)).sum().backward()
    assert m.grad.isfinite().all()


def test_two_empty_masks_agree():
    assert iou(torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 2, 2)).item() == 1.0
