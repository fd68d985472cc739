r"""Where a prompt is, drawn into the map that it asks: near its clicks, like what is clicked at, within its box.

K. Sofiiuk, I. Petrov and A. Konushin, "Reviving Iterative Training with Mask Guidance for Interactive Segmentation",
ICIP 2022 (clicks as discs in a map of their own).

In SAM a prompt is tokens, and it is for attention to find out what place they speak of, and what is inside of a box.
That is learned late, and `tiny` and `small` are told it. With p the middle of one of the map's places, z what is there,
c_1, c_2, … all clicks of one label and s the side of the picture,

    near_σ(p) = \max_i \exp(−|p − c_i|² / 2σ²),    σ = s/32, s/16, s/8, s/4                                       (1)

    alike_h(p) = \max_i \cos(W_h z(p), W_h z(c_i)),    h = 1, …, 8                                                (2)

for foreground and for background; where there is no such click, 0. For a box of corners (l, t) and (r, b), with middle
m and half sides d,

    within(p) = σ(\frac{x − l}{τ}) σ(\frac{r − x}{τ}) σ(\frac{y − t}{τ}) σ(\frac{b − y}{τ}),    τ = s / 64

    middle(p) = \exp(−|(p − m) / d|²)                                                                            (3)

and all of these, through one linear map, are added to the map's places.

| symbol | shape | here |
|---|---|---|
| c_i, corners | (b, n, 2) as x, y, in pixels | `at`, with `labels` of `prompt_encoder` |
| z | (i, c, h, w) | maps of i pictures, each with b / i prompts |
| near, alike, within | (b, 8, h, w), (b, 16, h, w), (b, 2, h, w) | |
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

NEAR, HEADS, SOFT = (32, 16, 8, 4), 8, 64


class Marks(nn.Module):
    """Eqs. (1) to (3). channels: c. size: s."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.size = size
        self.seen = nn.Linear(channels, channels, bias=False)
        self.mix = nn.Linear(2 * len(NEAR) + 2 * HEADS + 2, channels, bias=False)

    def forward(
        self, at: Float[Tensor, "b n 2"], labels: Int[Tensor, "b n"], z: Float[Tensor, "i c h w"]
    ) -> Float[Tensor, "b c h w"]:
        h, w = z.shape[2:]
        y, x = ((torch.arange(n, device=at.device) + 0.5) * self.size / n - 0.5 for n in (h, w))
        clicks = torch.stack([labels == 1, labels == 0], 1)
        marks = torch.cat(
            [greatest(self.near(at, x, y), clicks), greatest(self.alike(at, z), clicks), self.box(at, labels, x, y)], 1
        )
        return self.mix(marks.permute(0, 2, 3, 1).to(self.mix.weight.dtype)).permute(0, 3, 1, 2)

    def near(self, at: Tensor, x: Float[Tensor, " w"], y: Float[Tensor, " h"]) -> Float[Tensor, "b n 4 h w"]:
        """The terms of eq. (1)."""
        sigma = self.size / torch.tensor(NEAR, device=at.device)
        over_x, over_y = (
            torch.exp(-0.5 * ((at[..., k, None, None] - p) / sigma[:, None]) ** 2) for k, p in enumerate((x, y))
        )
        return over_y[..., None] * over_x[..., None, :]

    def alike(self, at: Tensor, z: Float[Tensor, "i c h w"]) -> Float[Tensor, "b n 8 h w"]:
        """The terms of eq. (2)."""
        (i, _, h, w), b = z.shape, len(at)
        seen = normalize(self.seen(z.flatten(2).mT).unflatten(2, (HEADS, -1)), dim=3)  # (i, h w, 8, e)
        column, row = (((at[..., k] + 0.5) * n / self.size).long().clamp(0, n - 1) for k, n in enumerate((w, h)))
        of = torch.arange(b, device=at.device) * i // b
        clicked = seen[of[:, None], row * w + column].unflatten(0, (i, -1))
        return torch.einsum("ipnHe,ilHe->ipnHl", clicked, seen).flatten(0, 1).unflatten(3, (h, w))

    def box(self, at: Tensor, labels: Tensor, x: Float[Tensor, " w"], y: Float[Tensor, " h"]) -> Tensor:
        """Eq. (3), (b, 2, h, w); 0 without a box. Its corners follow each other."""
        n, first = torch.arange(len(at), device=at.device), (labels == 2).int().argmax(1)
        low, high = at[n, first], at[n, (first + 1).clamp(max=at.shape[1] - 1)]
        middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1)
        soft, within, away = SOFT / self.size, [], []
        for k, p in enumerate((x, y)):
            within.append(((p - low[:, k, None]) * soft).sigmoid() * ((high[:, k, None] - p) * soft).sigmoid())
            away.append(torch.exp(-(((p - middle[:, k, None]) / half[:, k, None]) ** 2)))
        both = torch.stack([over[1][:, :, None] * over[0][:, None] for over in (within, away)], 1)
        return both * (labels == 2).any(1)[:, None, None, None]


def greatest(of: Float[Tensor, "b n f h w"], clicks: Bool[Tensor, "b k n"]) -> Float[Tensor, "b g h w"]:
    """For each of k labels the greatest over its clicks, 0 where there are none; the labels one after the other."""
    each = torch.where(clicks[..., None, None, None], of[:, None], -1.0).amax(2)  # nothing here is below −1
    return (each * clicks.any(2)[..., None, None, None]).flatten(1, 2)
