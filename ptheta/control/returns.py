r"""Returns and advantages of what was lived through, by equation: discounted, n-step, λ, and generalised advantages.

R. Sutton and A. Barto, "Reinforcement Learning: An Introduction", 2nd edition, MIT Press 2018, chapters 3, 7 and 12.
J. Schulman, P. Moritz, S. Levine, M. Jordan and P. Abbeel, "High-Dimensional Continuous Control Using Generalized
Advantage Estimation", ICLR 2016.
F. Pardo, A. Tavakoli, V. Levdik and P. Kormushev, "Time Limits in Reinforcement Learning", ICML 2018.

Step t goes from s_t to s'_t with reward r_t. An episode that is terminated there is over, and is worth nothing more;
one that is truncated there, by a time limit or because no more was collected, would have gone on, and is worth V(s'_t),
of the observation that it ended with and not of the one after the reset. With c_t = 0 at either, 1 elsewhere, and b_t =
0 if terminated, 1 elsewhere,

    G_t = r_t + γ ( c_t G_{t+1} + b_t (1 − c_t) V(s'_t) )                                                        (1)

    G_t^{(n)} = r_t + γ ( c_t G_{t+1}^{(n−1)} + b_t (1 − c_t) V(s'_t) ),      G_t^{(1)} = r_t + γ b_t V(s'_t)     (2)

    δ_t = r_t + γ b_t V(s'_t) − V(s_t)                                                                           (3)

    A_t = δ_t + γ λ c_t A_{t+1}                                                                                  (4)

where the last step of all counts as truncated if its episode is not over. As V(s'_t) = V(s_{t+1}) where an episode goes
on, A_t is the mean of G_t^{(n)} − V(s_t) over n with weights (1 − λ) λ^{n−1}, all that remains on the last n that there
is; λ = 0 gives (3), λ = 1 gives G_t − V(s_t).

| symbol | shape | here |
|---|---|---|
| r, V(s), V(s') | (T, E) | of E environments that are stepped together |
| terminated, truncated | (T, E) | booleans; where both are true the episode is over |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.engine.errors import UsageError


@dataclass(frozen=True)
class Steps:
    """What was lived through. Raises UsageError for shapes that differ."""

    rewards: Float[Tensor, "T E"]
    next_values: Float[Tensor, "T E"]
    """V(s'_t); it is not read where an episode is terminated, and may be anything there."""
    terminated: Bool[Tensor, "T E"]
    truncated: Bool[Tensor, "T E"]

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in self.__dataclass_fields__}
        if len(set(shapes.values())) > 1 or self.rewards.dim() != 2:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise UsageError(f"{said}; allowed: one shape (T, E) for all of them.")

    @property
    def goes_on(self) -> Float[Tensor, "T E"]:
        """c_t, with 0 at the last step."""
        c = (~(self.terminated | self.truncated)).to(self.rewards.dtype)
        if len(c):
            c[-1] = 0
        return c

    @property
    def bootstrap(self) -> Float[Tensor, "T E"]:
        """b_t V(s'_t)."""
        return torch.where(self.terminated, torch.zeros_like(self.next_values), self.next_values)


def checked(name: str, value: float) -> float:
    """UsageError for what is no share."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} = {value} is impossible; allowed: from 0 to 1.")
    return value


def discounted(steps: Steps, gamma: float) -> Float[Tensor, "T E"]:
    """Eq. (1)."""
    checked("gamma", gamma)
    c, V = steps.goes_on, steps.bootstrap
    G, out = torch.zeros_like(V[0]) if len(V) else V, torch.empty_like(steps.rewards)
    for t in range(len(out) - 1, -1, -1):
        G = steps.rewards[t] + gamma * (c[t] * G + (1 - c[t]) * V[t])
        out[t] = G
    return out


def n_step(steps: Steps, gamma: float, n: int) -> Float[Tensor, "T E"]:
    """Eq. (2). Raises UsageError for n < 1."""
    checked("gamma", gamma)
    if n < 1:
        raise UsageError(f"n = {n} is impossible; allowed: from 1 on.")
    c, V = steps.goes_on, steps.bootstrap
    G = steps.rewards + gamma * V
    for _ in range(min(n, len(G)) - 1):
        after = torch.cat([G[1:], torch.zeros_like(G[:1])])
        G = steps.rewards + gamma * (c * after + (1 - c) * V)
    return G


def advantages(steps: Steps, values: Float[Tensor, "T E"], gamma: float, lam: float) -> Float[Tensor, "T E"]:
    """Eq. (4). values: V(s_t)."""
    checked("gamma", gamma)
    checked("lambda", lam)
    if values.shape != steps.rewards.shape:
        raise UsageError(f"values are {tuple(values.shape)}; allowed: {tuple(steps.rewards.shape)}, as the rewards.")
    delta = steps.rewards + gamma * steps.bootstrap - values
    keep = gamma * lam * steps.goes_on
    A, out = torch.zeros_like(delta[0]) if len(delta) else delta, torch.empty_like(delta)
    for t in range(len(out) - 1, -1, -1):
        A = delta[t] + keep[t] * A
        out[t] = A
    return out


def standardised(A: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """With mean 0 and deviation 1 over all steps; of one step, or of equal ones, which have no deviation, A − mean."""
    centred = A - A.mean()
    deviation = centred.std() if A.numel() > 1 else torch.zeros((), dtype=A.dtype, device=A.device)
    return centred / torch.where(deviation > 1e-8 * (1 + A.abs().max()), deviation, torch.ones_like(deviation))
