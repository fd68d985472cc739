r"""SAM's prompt encoder: points, boxes and masks as tokens and as a map.

A. Kirillov et al., "Segment Anything", ICCV 2023 (the box "prompt encoder" of figure 4; appendix A).
M. Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains", NeurIPS
2020.
X. Zou et al., "Segment Everything Everywhere All at Once", NeurIPS 2023 (prompts that are sampled from the picture).

A place (x, y) of the picture, of 0 to 1, is told by its Fourier features with a random matrix G that is not learned:

    γ(x, y) = (\sin 2π u, \cos 2π u),    u = G^T (2x − 1, 2y − 1)                                                (1)

A point of the picture is γ of the middle of its pixel and a learned vector for its label; a box is two such points,
its corners; where there are points and no box, one more token says that no more is coming:

    token = γ((x + 1/2) / W, (y + 1/2) / H) + e_{label}                                                          (2)

    labels: 0 background, 1 foreground, 2 and 3 a box's corners, −1 nothing (γ is left out), 4 words

(of words W v in place of γ, with v what a model of pictures and texts says of them; D.5).

In `tiny` and `small` a point also says what is there: with z, g_4 and g_2 of `fine` at its pixel,

    token = γ(x, y) + W (z ⊕ g_4 ⊕ g_2)(x, y) + e_{label}                                                       (3)

where the published models leave it to attention to look.

A mask, the logits of an earlier answer at four times the map's side, goes through three convolutions to a map
that is added to the picture's; without one a learned vector is added everywhere. To that `tiny` and `small` add where
points and box are (`marks`).

| symbol | shape | here |
|---|---|---|
| G | (2, 128) | `pe_layer.positional_encoding_gaussian_matrix` |
| tokens | (b, n, 256) | "sparse" |
| map | (b, 256, h, w), or (1, 256, 1, 1) without a mask | "dense" |
| points, boxes | (b, n, 2) as x, y; (b, 4) as left, top, right, bottom | in pixels of what the encoder saw |
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptheta.sam.fine import wide
from ptheta.sam.image_encoder import LayerNorm2d
from ptheta.sam.marks import Marks

Prompt = tuple[Tensor, Tensor, Tensor | None]
"""Points (b, n, 2) with their labels (b, n), corners of boxes among them; what words say (b, e)."""


class Fourier(nn.Module):
    """Eq. (1)."""

    positional_encoding_gaussian_matrix: Tensor
    """G."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, features))

    def forward(self, at: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b f"]:
        """Of places (x, y) from 0 to 1."""
        u = 2 * math.pi * ((2 * at - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([u.sin(), u.cos()], -1)

    def grid(self, h: int, w: int) -> Float[Tensor, "h w f"]:
        """Of the middles of the cells of a map."""
        G = self.positional_encoding_gaussian_matrix
        y, x = ((torch.arange(n, device=G.device, dtype=G.dtype) + 0.5) / n for n in (h, w))
        return self(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1))


class PromptEncoder(nn.Module):
    """channels: Of tokens and map. size: Side of the pictures. side: Of the picture's map. fine: Whether points are
    told by eq. (3), and their places by `marks`. words: e, 0 where prompts are never words."""

    def __init__(self, channels: int, size: int, side: int, fine: bool = False, words: int = 0):
        super().__init__()
        self.size, self.side = size, side
        self.pe_layer = Fourier(channels // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, channels), nn.Embedding(1, channels)
        self.mask_downscaling: nn.Sequential = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2), LayerNorm2d(4), nn.GELU(), nn.Conv2d(4, 16, 2, 2), LayerNorm2d(16), nn.GELU(),
            nn.Conv2d(16, channels, 1),
        )  # fmt: skip
        self.seen = nn.Linear(channels + channels // 4 + channels // 8, channels) if fine else None
        self.marks = Marks(channels, size) if fine else None
        self.words = nn.Linear(words, channels) if words else None
        self.words_embed = nn.Embedding(1, channels) if words else None

    def learned(self) -> Float[Tensor, "5 c"]:
        """e_{−1} to e_3, with words to e_4."""
        spoken = [] if self.words_embed is None else [self.words_embed]
        every: list[nn.Embedding] = [self.not_a_point_embed, *self.point_embeddings, *spoken]  # pyright: ignore
        return torch.cat([e.weight for e in every])

    def tokens(self, prompt: Prompt, image: Float[Tensor, "i c h w"]) -> Float[Tensor, "b n c"]:
        """Eq. (2) or (3). image: Maps of i pictures, of which each has b / i prompts that follow each other."""
        at, labels, said = prompt
        gamma = self.pe_layer((at + 0.5) / self.size)
        if self.seen is not None:
            gamma = gamma + self.seen(there(image, (at + 0.5) / self.size, gamma.shape[2]))
        if self.words is not None and said is not None:
            gamma = torch.where(labels[..., None] == 4, self.words(said)[:, None], gamma)
        return torch.where(labels[..., None] < 0, 0.0, gamma) + self.learned()[labels + 1]

    def joined(
        self, points: Float[Tensor, "b n 2"] | None, labels: Int[Tensor, "b n"] | None,
        boxes: Float[Tensor, "b 4"] | None, words: Float[Tensor, "b e"] | None = None,
    ) -> Prompt | None:  # fmt: skip
        """Points with their labels, then words, then boxes; None of none of these."""
        at, of = [], []
        if points is not None and labels is not None:
            at, of = [points], [labels]
        if words is not None:
            at.append(words.new_zeros(len(words), 1, 2))
            of.append(torch.full((len(words), 1), 4, device=words.device))
        if at and boxes is None:
            at.append(torch.zeros_like(at[0][:, :1]))
            of.append(torch.full_like(of[0][:, :1], -1))
        if boxes is not None:
            at.append(boxes.view(-1, 2, 2))
            of.append(torch.tensor([2, 3], device=boxes.device).expand(len(boxes), 2))
        return (torch.cat(at, 1), torch.cat(of, 1), words) if at else None

    def map(
        self, masks: Float[Tensor, "b 1 H W"] | None, prompt: Prompt | None, image: Float[Tensor, "i e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Of masks, and of where a prompt is; without the latter and without masks (1, c, 1, 1)."""
        dense = self.no_mask_embed.weight[..., None, None] if masks is None else self.mask_downscaling(masks)
        if self.marks is None or prompt is None:
            return dense
        return dense + self.marks(prompt[0], prompt[1], image[:, : dense.shape[1]])

    def places(self) -> Float[Tensor, "h w c"]:
        """γ of the cells of the picture's map."""
        return self.pe_layer.grid(self.side, self.side)


def there(image: Float[Tensor, "i C h w"], at: Float[Tensor, "b n 2"], c: int) -> Float[Tensor, "b n e"]:
    """z, g_4 and g_2 (`fine`, where it says in which channels they are) at places from 0 to 1 of i pictures, each of
    which has b / i prompts."""
    (i, _, h, w), b = image.shape, len(at)
    x, y = ((at[..., k] * 4 * n).long().clamp(0, 4 * n - 1) for k, n in enumerate((w, h)))  # in cells of g_2
    of = (torch.arange(b, device=at.device) * i // b)[:, None]
    quarter = 2 * (y // 2 % 2) + x // 2 % 2
    sixteenth = 4 * quarter + 2 * (y % 2) + x % 2
    z, g4, g2, _ = image.split(wide(c), 1)
    parts = (
        z[of, :, y // 4, x // 4],
        g4.unflatten(1, (4, -1))[of, quarter, :, y // 4, x // 4],
        g2.unflatten(1, (16, -1))[of, sixteenth, :, y // 4, x // 4],
    )
    return torch.cat(parts, 2)
