r"""Prompts as a person would give them: a first point or box, then points where the answer errs.

A. Kirillov et al., "Segment Anything", ICCV 2023 (appendix A, "training algorithm"; D.1, "point sampling").

In training a first point is any pixel of the mask, all alike, and a box is the mask's own, each corner moved by noise
of a tenth of the box's side, at most 20 pixels. Each next point is any pixel of the error region,

    E = {truth} △ {m > 0},        label 1 where the truth is, else 0                                             (1)

To evaluate, and for a person who is careful, the point is the middle: of the region the pixel that is farthest from
its edge,

    \arg\max_x d(x),    d(x) = how many times the region can be eroded by 3 × 3 pixels and still hold x           (2)

(pixels beyond the picture's edge do not count as the region). Where nothing is wrong there is no next point.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptheta.sam.boxes import around

NOISE, MOST = 0.1, 20.0  # of a box's corner: of its side, in pixels


def anywhere(
    region: Bool[Tensor, "b h w"], g: torch.Generator
) -> tuple[Float[Tensor, "b 2"], Bool[Tensor, " b"]]:  # fmt: skip
    """A pixel of each region, all alike, as x, y; and whether there is one."""
    b, _, w = region.shape
    flat = region.flatten(1)
    count = flat.sum(1)
    which = (torch.rand(b, generator=g, device=region.device, dtype=torch.float64) * count).long()
    pixels = torch.cat([flat.nonzero()[:, 1], count.new_zeros(1)])  # row by row; and one for an empty last region
    at = torch.where(count > 0, pixels[count.cumsum(0) - count + which], 0)
    return torch.stack([at % w, at // w], 1).float(), count > 0


def middle(region: Bool[Tensor, "b h w"]) -> tuple[Float[Tensor, "b 2"], Bool[Tensor, " b"]]:
    """The pixel of eq. (2) of each region, of several the first; as x, y; and whether there is one."""
    boxes = around(region).tolist()
    found = [deepest(one[t : b + 1, l : r + 1]) for one, (l, t, r, b) in zip(region.cpu(), boxes)]
    at = torch.tensor([(l + x, t + y) for (x, y), (l, t, _, _) in zip(found, boxes)], dtype=torch.float32)
    return at.view(-1, 2).to(region.device), region.flatten(1).any(1)


def deepest(region: Bool[Tensor, "h w"]) -> tuple[int, int]:
    """The pixel of greatest d, by sums over squares: one of side 2 d − 1 around it is full, and none of 2 d + 1 is
    anywhere. The greatest full square is sought by halving."""
    h, w = region.shape
    S = torch.zeros(h + 1, w + 1, dtype=torch.int32)
    S[1:, 1:] = region.int().cumsum(0).cumsum(1)

    def full(d: int) -> Tensor:
        n = 2 * d - 1
        return S[n:, n:] - S[:-n, n:] - S[n:, :-n] + S[:-n, :-n] == n * n

    low, high = 1, (min(h, w) + 1) // 2
    while low < high:
        d = (low + high + 1) // 2
        low, high = (d, high) if full(d).any() else (low, d - 1)
    squares = full(low)
    at = int(squares.flatten().int().argmax())
    return at % squares.shape[1] + low - 1, at // squares.shape[1] + low - 1


def errors(m: Float[Tensor, "b h w"], truth: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """E of eq. (1)."""
    return (m > 0) ^ truth


def labels(at: Float[Tensor, "b 2"], truth: Bool[Tensor, "b h w"]) -> Int[Tensor, " b"]:
    """Of points."""
    x, y = at.long().unbind(1)
    return truth[torch.arange(len(truth), device=truth.device), y, x].long()


def loose_box(mask: Bool[Tensor, "b h w"], g: torch.Generator) -> Float[Tensor, "b 4"]:
    """The box around each mask with noise on each side, within the picture and at least a pixel wide and high."""
    h, w = mask.shape[1:]
    box = around(mask).float()
    box[:, 2:] += 1  # from edge to edge
    sides = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    noise = torch.randn(box.shape, generator=g, device=box.device) * NOISE * sides
    moved = box + noise.clamp(-MOST, MOST)
    ends = torch.tensor([w, h], dtype=box.dtype, device=box.device)
    low = torch.minimum(moved[:, :2].clamp(min=0), ends - 1)
    return torch.cat([low, torch.maximum(torch.minimum(moved[:, 2:], ends), low + 1)], 1)
