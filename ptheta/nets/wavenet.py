r"""A stack of causal dilated convolutions over a sequence, one step at a time or all at once.

A. van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016.
T. Le Paine et al., "Fast Wavenet Generation Algorithm", 2016 (the queues of (3)).

With rates r_1 … r_L and kernels of k places, of which the last is at the present,

    (W ∗_r x)_t = \sum_{i=0}^{k−1} W_i x_{t − (k−1−i) r}                                                       (1)

    z^l = \tanh(F^l ∗_{r_l} x^l) ⊙ σ(G^l ∗_{r_l} x^l),    x^{l+1} = x^l + R^l z^l,    s = \sum_l S^l z^l + b     (2)

so that s_t depends on x_{t−R+1} … x_t alone, R = 1 + (k − 1) \sum_l r_l: ten layers of rates 1, 2, 4 … 512 see 1,024
steps. What comes next is told from s_t, so that x_t must be what was there before it.

A step at a time, layer l needs the last (k − 1) r_l values of x^l and no others; they are kept in a queue,

    x^l_{t − (k−1−i) r_l},   i = 0 … k − 2,    from where they were put (k−1−i) r_l steps before               (3)

and a step costs O(L), not O(R).

| symbol | shape | here |
|---|---|---|
| x | (b, c, t) | the sequence, c channels |
| s | (b, s, t) | what is read from all layers |
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from ptheta.engine.errors import UsageError
from ptheta.nets.transformer import normal

Queues = list[Float[Tensor, "b c q"]]


def causal(x: Float[Tensor, "b c t"], W: Float[Tensor, "d c k"], rate: int) -> Float[Tensor, "b d t"]:
    """Eq. (1), with zeros before the sequence begins."""
    return conv1d(pad(x, ((W.shape[2] - 1) * rate, 0)), W, dilation=rate)


class WaveNet(nn.Module):
    """Eq. (2) with weights drawn from the generator g. Raises UsageError for rates or kernels that cannot be."""

    def __init__(self, g: torch.Generator, channels: int, out: int, rates: tuple[int, ...], kernel: int = 2):
        super().__init__()
        if not rates or min(rates) < 1 or kernel < 2:
            raise UsageError(f"rates = {rates}, kernel = {kernel}; allowed: rates from 1, kernels from 2.")
        self.channels, self.rates, self.kernel = channels, tuple(rates), kernel

        def each(*shape: int) -> nn.ParameterList:
            return nn.ParameterList(normal(g, *shape, std=1 / math.sqrt(math.prod(shape[1:]))) for _ in rates)

        self.FG = each(2 * channels, channels, kernel)  # F above G: one convolution for both
        self.R, self.S = each(channels, channels), each(out, channels)
        self.b = nn.Parameter(torch.zeros(out))

    @property
    def field(self) -> int:
        """R: on how many steps an output depends."""
        return 1 + (self.kernel - 1) * sum(self.rates)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b s t"]:
        """s of all steps at once."""
        s = self.b[:, None].expand(len(x), -1, x.shape[2])
        for FG, R, S, r in zip(self.FG, self.R, self.S, self.rates):
            z = gated(causal(x, FG, r))
            x, s = x + R @ z, s + S @ z
        return s

    def begin(self, b: int) -> Queues:
        """The queues of (3) before the first step: zeros, as before the sequence."""
        like = self.b
        return [like.new_zeros(b, self.channels, (self.kernel - 1) * r) for r in self.rates]

    def step(self, x: Float[Tensor, "b c"], t: int, queues: Queues) -> Float[Tensor, "b s"]:
        """s of step t (0, 1, …), whose input is x; the queues are brought up to date."""
        s = self.b.expand(len(x), -1)
        for FG, R, S, r, queue in zip(self.FG, self.R, self.S, self.rates, queues):
            size = (self.kernel - 1) * r
            before = [queue[:, :, (t + i * r) % size] for i in range(self.kernel - 1)]  # a ring: the oldest is at t
            seen = torch.stack([*before, x], 2)
            queue[:, :, t % size] = x
            z = gated(torch.einsum("dck,bck->bd", FG, seen))
            x, s = x + z @ R.t(), s + z @ S.t()
        return s


def gated(h: Tensor) -> Tensor:
    """tanh of the first half of the channels times σ of the second."""
    f, gate = h.chunk(2, 1)
    return f.tanh() * gate.sigmoid()
