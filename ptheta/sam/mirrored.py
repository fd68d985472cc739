r"""Answers about a picture and about its mirror image, together.

K. Sofiiuk, I. Petrov and A. Konushin, "Reviving Iterative Training with Mask Guidance for Interactive Segmentation",
ICIP 2022 (evaluation: flips).

A model that was trained on pictures and their mirror images says nearly the same of both, and errs in other places.
With \bar x the picture, and \bar c the prompt, mirrored from left to right,

    m = ( m_θ(x, c) + \overline{m_θ(\bar x, \bar c)} ) / 2,    s = ( s_θ(x, c) + s_θ(\bar x, \bar c) ) / 2         (1)

which takes twice the time. It is asked as the model is, by `predictor` and `evaluation`; a grid of points
(`everything`) is not.

| symbol | shape | here |
|---|---|---|
| x | (b, 7, s, s) | a frame, that of the mirror image, and e / s, of a picture e pixels wide |
| z | (b, 2 C + 1, h, w) | both maps, and e / s |

e is the width in cells of the logits, in pixels: where these do not divide it, up to a cell of what follows is mirrored
with the picture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ptheta.sam.model import SAM


class Mirrored(nn.Module):
    """Eq. (1) of a model."""

    name = "sam"

    def __init__(self, model: SAM):
        super().__init__()
        self.model = model
        self.variant, self.size, self.side, self.words = model.variant, model.size, model.side, model.words
        self.scaled, self.enlarged = model.scaled, model.enlarged

    @property
    def mean(self) -> Tensor:
        return self.model.mean

    def framed(self, x: UInt8[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 7 size size"]:
        """See x above, of pictures that were scaled."""
        cell, frame = self.size // self.side, self.model.framed(x)
        e = -(-x.shape[-1] // cell) * cell
        mirror = torch.cat([frame[..., :e].flip(-1), frame[..., e:]], -1)
        return torch.cat([frame, mirror, torch.full_like(frame[..., :1, :, :], e / self.size)], -3)

    def embed_image(self, x: Float[Tensor, "b 7 size size"]) -> Float[Tensor, "b e h w"]:
        """z."""
        z, mirror = (self.model.embed_image(part) for part in (x[:, :3], x[:, 3:6]))
        return torch.cat([z, mirror, x[:, 6:, : z.shape[2], : z.shape[3]]], 1)

    def decode(
        self, image: Float[Tensor, "i c h w"], points: Tensor | None = None, labels: Tensor | None = None,
        boxes: Tensor | None = None, masks: Tensor | None = None, several: bool = True, words: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b k H W"], Float[Tensor, "b k"]]:  # fmt: skip
        """m and s of eq. (1); arguments as those of `SAM.decode`."""
        (z, mirror), e = image[:, :-1].chunk(2, 1), (image[:, -1, 0, 0] * self.size).round()
        m, s = self.model.decode(z, points, labels, boxes, masks, several, words)
        e = e.repeat_interleave(len(m) // len(e))
        if points is not None:
            points = torch.stack([e[:, None] - 1 - points[..., 0], points[..., 1]], 2)  # middles of pixels
        if boxes is not None:
            left, top, right, bottom = boxes.unbind(1)
            boxes = torch.stack([e - right, top, e - left, bottom], 1)
        of_mask = None if masks is None else self.turned(masks, e)
        other, its = self.model.decode(mirror, points, labels, boxes, of_mask, several, words)
        return (m + self.turned(other, e)) / 2, (s + its) / 2

    def turned(self, m: Float[Tensor, "b k H W"], e: Float[Tensor, " b"]) -> Float[Tensor, "b k H W"]:
        """Logits of the mirror image as those of the picture, and the other way round."""
        c, x = (e * self.side / self.size).long()[:, None], torch.arange(m.shape[3], device=m.device)
        return m.gather(3, torch.where(x < c, c - 1 - x, x)[:, None, None].expand_as(m))
