"""Muon: directions of equal length, its first steps by hand, AdamW for the rest, and states that come back."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.nets.muon import Muon, orthogonal


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))
def test_singular_vectors_stay_and_values_become_alike(seed, k, m, n):
    g = torch.Generator().manual_seed(seed)
    N = torch.randn(k, m, n, generator=g, dtype=torch.float64)
    U, S, V = torch.linalg.svd(N, full_matrices=False)
    O = orthogonal(N)
    inner = U.mT @ O @ V.mT  # diagonal, if the vectors are the same
    values = inner.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(torch.diag_embed(values), inner, atol=1e-6, rtol=0)
    large = S / S.norm(dim=1, keepdim=True) > 0.02
    assert (values[large] > 0.65).all() and (values < 1.25).all()


def polynomial(N):
    """Eq. (3) for singular values, each by itself."""
    U, s, V = torch.linalg.svd(N, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return U @ torch.diag(s) @ V


def test_two_steps_are_the_equations_and_vectors_go_by_adamw():
    g = torch.Generator().manual_seed(0)
    W, kernel, b = (torch.nn.Parameter(torch.randn(*s, generator=g)) for s in ((4, 6), (4, 3, 2, 2), (5,)))
    plain = torch.nn.Parameter(b.detach().clone())
    expected = [p.detach().double().flatten(1) for p in (W, kernel)]
    M = [torch.zeros_like(p) for p in expected]
    of_matrices = {"params": [W, kernel], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
    optimizer = Muon([of_matrices, {"params": [b], "lr": 0.01, "weight_decay": 0.0}], betas=(0.9, 0.98))
    adamw = torch.optim.AdamW([plain], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(2):
        grads = [torch.randn(p.shape, generator=g) for p in (W, kernel, b)]
        for p, grad in zip((W, kernel, b, plain), (*grads, grads[2])):
            p.grad = grad.clone()
        optimizer.step(), adamw.step()
        for i in range(2):
            G = grads[i].double().flatten(1)
            M[i] = 0.9 * M[i] + 0.1 * G
            n = max(G.shape)
            expected[i] = (1 - 0.1 * 0.5) * expected[i] - 0.2 * n**0.5 * 0.1 * polynomial(0.9 * M[i] + 0.1 * G)
    for p, wanted in zip((W, kernel), expected):
        torch.testing.assert_close(p.detach().flatten(1).double(), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(b, plain)


def test_states_come_back():
    def made():
        W, b = torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(3))
        return (W, b), Muon([{"params": [W], "momentum": 0.95, "weight_decay": 0.0}, {"params": [b]}], lr=0.1)

    def walked(ps, optimizer, first, last):
        for i in range(first, last):
            for p in ps:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            optimizer.step()

    ps, optimizer = made()
    walked(ps, optimizer, 0, 4)
    others, again = made()
    walked(others, again, 0, 2)
    state, third = again.state_dict(), made()
    third[1].load_state_dict(state)
    for p, q in zip(third[0], others):
        p.data.copy_(q.data)
    walked(*third, 2, 4)
    assert all(torch.equal(p, q) for p, q in zip(ps, third[0]))
