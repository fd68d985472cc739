"""Answers that follow edges: eq. (2) place by place, what kernels are, and that nothing crosses an edge they draw."""

import torch

from ptheta.sam.propagation import KERNELS, RATES, Kernels, propagated


def place_by_place(m, K):
    """Eq. (2) for one answer (H, W) with kernels (27, H, W)."""
    H, W = m.shape
    for n, r in enumerate(RATES):
        new = torch.zeros_like(m)
        for y in range(H):
            for x in range(W):
                for step in range(9):
                    to_y, to_x = y + r * (step // 3 - 1), x + r * (step % 3 - 1)
                    new[y, x] += K[9 * n + step, y, x] * m[min(max(to_y, 0), H - 1), min(max(to_x, 0), W - 1)]
        m = new
    return m


def test_as_place_by_place():
    g = torch.Generator().manual_seed(0)
    m = torch.randn(4, 3, 10, 7, generator=g, dtype=torch.float64)  # two prompts of each of two pictures
    K = torch.rand(2, KERNELS, 10, 7, generator=g, dtype=torch.float64)
    out = propagated(m, K)
    with torch.no_grad():
        torch.testing.assert_close(propagated(m, K), out)
    for b in range(4):
        for k in range(3):
            torch.testing.assert_close(out[b, k], place_by_place(m[b, k], K[b // 2]))


def test_kernels_are_shares_and_begin_near_the_place_itself():
    kernels = Kernels(4)
    f = torch.randn(1, 4, 9, 9)
    K = kernels(f).unflatten(1, (len(RATES), 9))
    torch.testing.assert_close(K.sum(2), torch.ones(1, len(RATES), 9, 9))
    torch.nn.init.zeros_(kernels.last.weight)
    torch.nn.init.zeros_(kernels.last.bias)
    first = kernels(f).unflatten(1, (len(RATES), 9))
    torch.testing.assert_close(first[:, :, 4] / first[:, :, 0], torch.full((1, len(RATES), 9, 9), torch.e**3))


def test_what_is_the_same_everywhere_stays():
    K = torch.rand(1, len(RATES), 9, 12, 12).softmax(2).flatten(1, 2)
    torch.testing.assert_close(propagated(torch.full((2, 1, 12, 12), -1.5), K), torch.full((2, 1, 12, 12), -1.5))


def test_nothing_crosses_an_edge():
    """Kernels that take from their own side alone."""
    left = torch.arange(16) < 6
    K = torch.zeros(1, len(RATES), 9, 16, 16)
    for n, r in enumerate(RATES):
        for step in range(9):
            to = (torch.arange(16) + r * (step % 3 - 1)).clamp(0, 15)
            K[0, n, step] = (left[to] == left).float()
    K = (K / K.sum(2, keepdim=True)).flatten(1, 2)
    noisy = torch.where(left, 2.0, -2.0) + torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    out = propagated(noisy, K)
    assert ((out > 0) == left).all() and not ((noisy > 0) == left).all()
    moved = propagated(noisy + 100 * left, K)
    torch.testing.assert_close(moved[..., 6:], out[..., 6:])
    torch.testing.assert_close(moved[..., :6], out[..., :6] + 100, rtol=1e-5, atol=1e-4)


def test_gradients_are_those_of_finite_differences():
    g = torch.Generator().manual_seed(2)
    m = torch.randn(2, 2, 5, 6, generator=g, dtype=torch.float64, requires_grad=True)
    K = torch.rand(1, KERNELS, 5, 6, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(propagated, (m, K), fast_mode=True)
