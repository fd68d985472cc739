r"""How good an answer is, from what it looks like.

Z. Huang et al., "Mask Scoring R-CNN", CVPR 2019 (the IoU of a mask is learned from the mask).

In SAM expected IoUs come from one token, before there is a mask. With p = σ(m) and M = {m > 0}, a model that doubts
what it says of many pixels will err in many, and

    a_1 = s,    a_2 = \frac{\sum_{x ∈ M} p}{\sum_x \max(p, [x ∈ M])},
    a_3 = \frac{|\{m > 1\}|}{|\{m > −1\}|},    a_4 = 1 + \frac 1 5 \log(|M| / n + 10^{−4})                       (1)

(a_2 is what the IoU of M is to be expected, if pixels are right with p, a_3 the stability of `everything`, a_4 tells
how large M is, of n pixels) tell of an answer what its token could not know:

    s ← s + W_2 ReLU(W_1 a)                                                                                      (2)

`tiny` and `small` have this; masks learn nothing by it.

| symbol | shape | here |
|---|---|---|
| m | (b, k, h, w) | logits |
| s | (b, k) | expected IoUs |
| a | (b, k, 4) | |
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

HIDDEN, LEAST = 32, 1e-4


class Scoring(nn.Module):
    """Eqs. (1) and (2)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, m: Float[Tensor, "b k h w"], s: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        a = torch.stack([s, *looks(m.detach().float())], 2).to(self.first.weight.dtype)
        return s + self.last(relu(self.first(a)))[..., 0]


def looks(m: Float[Tensor, "b k h w"]) -> list[Float[Tensor, "b k"]]:
    """a_2 to a_4 of eq. (1)."""
    p, M = m.sigmoid(), (m > 0).to(m.dtype)
    expected = (p * M).sum((2, 3)) / torch.maximum(p, M).sum((2, 3)).clamp(min=LEAST)
    sure, at_all = ((m > at_least).to(m.dtype).sum((2, 3)) for at_least in (1.0, -1.0))
    return [expected, sure / at_all.clamp(min=1), 1 + (M.mean((2, 3)) + LEAST).log() / 5]
