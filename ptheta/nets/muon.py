r"""Muon: steps for matrices whose directions are all equally long.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (https://kellerjordan.github.io/posts/muon).
J. Liu et al., "Muon is Scalable for LLM Training", 2025 (the scale of eq. (2)).

With G the gradient of a matrix W (m × n; a kernel is the matrix of its outputs by all else) and momentum μ,

    M ← μ M + (1 − μ) G,    N = μ M + (1 − μ) G                                                                  (1)

    W ← (1 − η λ) W − 0.2 \sqrt{\max(m, n)} η O,    O ≈ U V^T  where  N = U Σ V^T                                (2)

so that a step is as long in directions that the gradients seldom have as in those that they always have; by its scale
the numbers of a step are as large as AdamW's, and η may be the same. O comes from X_0 = N / ‖N‖_F by five times

    X ← a X + (b A + c A²) X,    A = X X^T,    (a, b, c) = (3.4445, −4.7750, 2.0315)                             (3)

which brings every singular value from 0.02 to 1 between 0.65 and 1.25. What is no matrix goes by AdamW.

| symbol | shape | here |
|---|---|---|
| X | (k, m, n) with m ≤ n | k matrices of one shape at once |
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

STEPS, COEFFICIENTS, EPSILON = 5, (3.4445, -4.7750, 2.0315), 1e-7


def orthogonal(N: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """O of eq. (2), by eq. (3)."""
    a, b, c = COEFFICIENTS
    X = N.mT if N.shape[1] > N.shape[2] else N
    X = X / (X.norm(dim=(1, 2), keepdim=True) + EPSILON)
    for _ in range(STEPS):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if N.shape[1] > N.shape[2] else X


class Muon(torch.optim.AdamW):
    """Eqs. (1) and (2) for parameters of groups that have `momentum`; AdamW for the others."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if "momentum" in group:
                self.turned(group)
        return super().step(closure)

    def turned(self, group: dict[str, Any]) -> None:
        """A step of one group, whose gradients are then gone, so that AdamW leaves it alone."""
        mu, eta = group["momentum"], group["lr"]
        of: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                of.setdefault(p.shape, []).append(p)
        for shape, ps in of.items():
            moved = []
            for p in ps:
                G: Any = p.grad
                state = self.state[p]
                if not state:
                    state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(p)
                state["step"] += 1
                M = state["momentum"].lerp_(G, 1 - mu)
                moved.append(G.lerp(M, mu).flatten(1))
                p.grad = None
            O = orthogonal(torch.stack(moved))
            scale = 0.2 * max(O.shape[1:]) ** 0.5
            for p, o in zip(ps, O):
                p.mul_(1 - eta * group["weight_decay"]).sub_(o.view(shape), alpha=eta * scale)
