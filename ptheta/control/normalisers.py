r"""Running means and deviations: observations with mean 0 and deviation 1, rewards in units of that of returns.

T. Chan, G. Golub and R. LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician 37, 1983.
L. Engstrom et al., "Implementation Matters in Deep Policy Gradients", ICLR 2020.

Of n numbers with mean m and sum of squared deviations M, and k more with m', M',

    n ← n + k,    m ← m + (m' − m) k / (n + k),    M ← M + M' + (m' − m)^2 n k / (n + k)                          (1)

    \hat s = clip( (s − m) / \sqrt{M / n + 10^{−8}}, −c, c )                                                     (2)

and of rewards, with the discounted sum R_t = γ R_{t−1} + r_t of each environment, which begins anew with an episode,

    \hat r = r / \sqrt{ Var(R) + 10^{−8} }                                                                       (3)

whose mean is not taken away, as that would change which policy is best. Both are part of a model or of a run's state,
and stay as they are where a policy is judged.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

CLIP = 10.0


class Moments(nn.Module):
    """Eq. (1) of vectors, in float64, and eq. (2). Before the first update it leaves them as they are, unclipped."""

    count: Tensor
    mean: Tensor
    squares: Tensor
    """M."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))

    def update(self, x: Tensor) -> None:
        """Eq. (1) with the rows of (k, …)."""
        if len(x) == 0:
            return
        x = x.double()
        k, mean = len(x), x.mean(0)
        squares = (x - mean).square().sum(0)
        total = self.count + k
        self.squares += squares + (mean - self.mean).square() * self.count * k / total
        self.mean += (mean - self.mean) * k / total
        self.count.copy_(total)

    def scale(self) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """(m, 1 / deviation) in float32; (0, 1) before anything was seen."""
        if self.count == 0:
            return self.mean.float(), torch.ones_like(self.mean).float()
        return self.mean.float(), (self.squares / self.count + 1e-8).rsqrt().float()

    def forward(self, s: Tensor) -> Tensor:
        """Eq. (2)."""
        if self.count == 0:
            return s
        mean, rate = self.scale()
        return ((s - mean) * rate).clamp(-CLIP, CLIP)


class Returns(nn.Module):
    """Eq. (3) for E environments."""

    R: Tensor

    def __init__(self, envs: int):
        super().__init__()
        self.moments = Moments()
        self.register_buffer("R", torch.zeros(envs, dtype=torch.float64))

    def update(self, rewards: Float[Tensor, "T E"], ended: Tensor, gamma: float, alive: Tensor | None = None) -> None:
        """With T steps; `ended` (T, E) is true where an episode was over, `alive` where there was a step at all."""
        if len(rewards) == 0:
            return
        R, seen = self.R, []
        for r, goes_on in zip(rewards.double().unbind(), (~ended).double().unbind()):
            seen.append(torch.add(r, R, alpha=gamma))
            R = seen[-1] * goes_on
        self.R.copy_(R)
        all_seen = torch.stack(seen)
        self.moments.update(all_seen.flatten() if alive is None else all_seen[alive])

    def forward(self, rewards: Tensor) -> Tensor:
        """Rewards by eq. (3)."""
        return rewards * self.moments.scale()[1]
