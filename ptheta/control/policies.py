r"""Policies: distributions of actions given what is observed, over the output of any network.

Of discrete actions, with scores z = net(s),

    π(a | s) = e^{z_a} / \sum_b e^{z_b}                                                                          (1)

    KL(old || π) = \sum_a π_old(a) (\log π_old(a) − \log π(a)),      H = −\sum_a π(a) \log π(a)                     (2)

Of actions that are vectors, with μ = net(s) and a deviation σ that is learned and the same everywhere,

    \log π(a | s) = −\sum_i [ (a_i − μ_i)^2 / (2 σ_i^2) + \log σ_i + \log \sqrt{2π} ]                              (3)

    \log σ = low + (high − low) (1 + \tanh ω) / 2                                                                (4)

    KL(old || π) = \sum_i [ \log (σ_i / σ_i') + (σ_i'^2 + (μ_i' − μ_i)^2) / (2 σ_i^2) − 1/2 ],
    H = \sum_i [ \log σ_i + \log \sqrt{2πe} ]                                                                     (5)

where ' is of the old one. What a small change of the network's outputs y changes of KL is \frac{1}{2} dy^T M dy, with

    M = diag(π) − π π^T  of z,      M = diag(1 / σ^2)  of μ                                                       (7)

and of ω, 2 (∂ \log σ / ∂ω)^2 for each. (4) keeps σ within bounds and has a gradient everywhere. An action may fall
outside of what an environment takes: what is done is the nearest that it takes, and its probability that of the action
that was drawn. One action for each observation, within the bounds l < h,

    a = (l + h) / 2 + (h − l) / 2 · \tanh net(s)                                                                 (6)

| symbol | shape | here |
|---|---|---|
| s | (b, …) | observations |
| z; μ; a | (b, A); (b, n); (b,) or (b, n) | discrete actions are whole numbers |

`given` is what a policy says of an observation, (z,) or (μ, log σ): kept without gradient, it is the old policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptheta.engine.errors import UsageError

LEAST, HIGH = math.exp(-5), 2.0  # of σ, and of log σ
Given = tuple[Tensor, ...]


class Categorical(nn.Module):
    """Eqs. (1) and (2)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def said(self, y: Tensor) -> Given:
        """(z,), for what the network says."""
        return (y,)

    def given(self, s: Tensor) -> Given:
        """(z,)."""
        return (self.net(s),)

    def draw(self, given: Given, g: torch.Generator) -> Tensor:
        """An action for each row."""
        return torch.multinomial(given[0].softmax(1), 1, generator=g)[:, 0]

    def best(self, given: Given) -> Tensor:
        """The likeliest action."""
        return given[0].argmax(1)

    def log_prob(self, given: Given, a: Tensor) -> Float[Tensor, " b"]:
        """log π(a | s)."""
        return given[0].log_softmax(1).gather(1, a[:, None])[:, 0]

    def entropy(self, given: Given) -> Float[Tensor, " b"]:
        """H, nats."""
        log_p = given[0].log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)

    def information(self, z: Float[Tensor, "b A"]) -> tuple[Float[Tensor, " 0"], Callable[[Tensor], Tensor]]:
        """Eq. (7): of parameters of its own, of which there are none; and dz → M dz."""
        p = z.softmax(1)
        return z.new_zeros(0), lambda dz: p * (dz - (p * dz).sum(1, keepdim=True))

    def kl(self, old: Given, given: Given) -> Float[Tensor, " b"]:
        """KL(old || π), nats."""
        before, log_p = old[0].log_softmax(1), given[0].log_softmax(1)
        return (before.exp() * (before - log_p)).sum(1)


class Gaussian(nn.Module):
    """Eqs. (3) to (5). sigma: where σ starts; least: what it stays above. Raises UsageError for one out of bounds."""

    def __init__(self, net: nn.Module, actions: int, sigma: float = 1.0, least: float = LEAST):
        super().__init__()
        self.low, half = math.log(least), (HIGH - math.log(least)) / 2
        if not self.low < math.log(max(sigma, 1e-30)) < HIGH:
            raise UsageError(f"sigma = {sigma} is impossible; allowed: between {least:.3g} and {math.exp(HIGH):.3g}.")
        self.net = net
        start = math.atanh((math.log(sigma) - self.low) / half - 1)
        self.omega = nn.Parameter(torch.full((actions,), start))

    def said(self, y: Tensor) -> Given:
        """(μ, log σ), for what the network says."""
        middle, half = (HIGH + self.low) / 2, (HIGH - self.low) / 2
        return y, torch.add(middle, self.omega.tanh(), alpha=half).expand_as(y)

    def given(self, s: Tensor) -> Given:
        """(μ, log σ)."""
        return self.said(self.net(s))

    def draw(self, given: Given, g: torch.Generator) -> Tensor:
        """An action for each row, within no bounds."""
        mu, log_sigma = given
        return mu + log_sigma.exp() * torch.randn(mu.shape, generator=g, device=mu.device, dtype=mu.dtype)

    def best(self, given: Given) -> Tensor:
        """μ."""
        return given[0]

    def log_prob(self, given: Given, a: Tensor) -> Float[Tensor, " b"]:
        """Eq. (3)."""
        mu, log_sigma = given
        return -(((a - mu) / log_sigma.exp()).square() / 2 + log_sigma + math.log(2 * math.pi) / 2).sum(1)

    def entropy(self, given: Given) -> Float[Tensor, " b"]:
        """H, nats."""
        return (given[1] + math.log(2 * math.pi * math.e) / 2).sum(1)

    def information(self, mu: Float[Tensor, "b n"]) -> tuple[Float[Tensor, " n"], Callable[[Tensor], Tensor]]:
        """Eq. (7): of ω; and dμ → M dμ."""
        turned, half = self.omega.detach().tanh(), (HIGH - self.low) / 2
        log_sigma, slope = self.low + half * (1 + turned), half * (1 - turned.square())
        precision = (-2 * log_sigma).exp()
        return 2 * slope.square(), lambda dmu: dmu * precision

    def kl(self, old: Given, given: Given) -> Float[Tensor, " b"]:
        """KL(old || π), nats."""
        (mu_, log_), (mu, log_sigma) = old, given
        ratio = ((2 * log_).exp() + (mu_ - mu).square()) / (2 * (2 * log_sigma).exp())
        return (log_sigma - log_ + ratio - 0.5).sum(1)


class Deterministic(nn.Module):
    """Eq. (6). Raises UsageError for bounds that are infinite or not in order."""

    low: Tensor
    high: Tensor
    middle: Tensor
    reach: Tensor

    def __init__(self, net: nn.Module, low: Float[Tensor, " n"], high: Float[Tensor, " n"]):
        super().__init__()
        low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
        if not (torch.isfinite(low) & torch.isfinite(high) & (low < high)).all():
            raise UsageError(
                f"bounds {low.tolist()} to {high.tolist()} are impossible; allowed: finite, low below high."
            )
        self.net = net
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("reach", (high - low) / 2, persistent=False)

    def within(self, y: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """a, for what the network says."""
        return torch.addcmul(self.middle, self.reach, y.tanh())

    def slope(self, y: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """∂a / ∂y of eq. (6)."""
        return self.reach * (1 - y.tanh().square())

    def forward(self, s: Tensor) -> Float[Tensor, "b n"]:
        """a."""
        return self.within(self.net(s))
