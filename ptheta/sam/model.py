r"""Segment Anything's model: a picture is looked at once, and then answers prompts.

A. Kirillov et al., "Segment Anything", ICCV 2023.

    p_θ(mask | picture, prompt):    z = encoder(picture),    masks, IoUs = decoder(z, prompt encoder(prompt))    (1)

A picture of any size is scaled so that its longer side is `size` pixels, normalised by the mean and deviation of
ImageNet's colours, and continued to a square with zeros, below and to the right. Answers, of four times the side of the
map, are scaled to `size` (bilinear), cut to where the picture is, and scaled to the picture's own size: logits, of
which above 0 is within the mask.

| variant | width | depth | heads | global blocks | window | size | parameters |
|---|---|---|---|---|---|---|---|
| vit_b | 768 | 12 | 12 | 2, 5, 8, 11 | 14 | 1024 | 93,735,472 |
| vit_l | 1024 | 24 | 16 | 5, 11, 17, 23 | 14 | 1024 | 312,342,832 |
| vit_h | 1280 | 32 | 16 | 7, 15, 23, 31 | 14 | 1024 | 641,090,608 |
| tiny | 128 | 6 | 4 | 1, 3, 5 | 8 | any multiple of 16 | 2,710,540 for 256 |
| small | 192 | 8 | 3 | 1, 3, 5, 7 | 8 | any multiple of 16 | 6,714,044 for 256 |

`tiny` and `small` are ours, for training on a processor; their prompts have 128 and 192 channels, and beside their
patches there are convolutions for what is smaller (`fine`): the map has a place for 8 pixels, answers one for two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError, unknown
from ptheta.engine.pretrained import Pretrained
from ptheta.sam.fine import wide
from ptheta.sam.image_encoder import ImageEncoder, LayerNorm2d
from ptheta.sam.mask_decoder import MaskDecoder
from ptheta.sam.prompt_encoder import PromptEncoder

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PATCH = 16


@dataclass(frozen=True)
class Variant:
    """Sizes of one."""

    width: int
    depth: int
    heads: int
    everywhere: tuple[int, ...]
    """Blocks whose attention is global."""
    window: int = 14
    size: int = 1024
    channels: int = 256
    """Of tokens and map after the image encoder."""
    hidden: int = 2048
    """Of the decoder's layers."""
    fine: bool = False
    """Whether there are finer maps than that of patches."""


VARIANTS = {
    "vit_b": Variant(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Variant(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Variant(1280, 32, 16, (7, 15, 23, 31)),
    "tiny": Variant(128, 6, 4, (1, 3, 5), 8, 256, 128, 256, True),
    "small": Variant(192, 8, 3, (1, 3, 5, 7), 8, 256, 192, 512, True),
}


class SAM(Pretrained):
    """Eq. (1). size: Side that pictures are scaled to, of tiny and small any multiple of 16. words: Length of what a
    model of pictures and texts says of words, 0 for a model that is not asked in words.

    Raises UsageError for an unknown variant or a size that it cannot have."""

    name = "sam"
    mean: Tensor
    deviation: Tensor

    def __init__(self, variant: str = "vit_b", size: int | None = None, seed: int = 0, words: int = 0):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, list(VARIANTS))
        of = VARIANTS[variant]
        size = of.size if size is None else size
        if size < PATCH or size % PATCH or (size != of.size and of.size == 1024):
            allowed = "1024" if of.size == 1024 else f"multiples of {PATCH}"
            raise UsageError(f"{variant} for pictures of {size} pixels is impossible; allowed: {allowed}.")
        self.arguments = {"variant": variant, "size": size, "seed": seed, "words": words}
        self.words = words
        self.variant, self.size = variant, size
        self.side = 4 * (1 + of.fine) * (size // PATCH)  # of answers
        where = torch.get_default_device()
        with torch.device("meta"):  # sizes alone: what layers draw for themselves has no seed
            self.image_encoder = ImageEncoder(
                size,
                of.width,
                of.depth,
                of.heads,
                of.everywhere,
                of.window,
                PATCH,
                of.channels,
                of.fine,
            )
            self.prompt_encoder = PromptEncoder(of.channels, size, self.side // 4, of.fine, words)
            self.mask_decoder = MaskDecoder(of.channels, 8, of.hidden, fine=of.fine)
        self.to_empty(device=where)
        if where.type != "meta":
            self._draw(generator(seed, 0, "sam weights"))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    @torch.no_grad()
    def _draw(self, g: torch.Generator) -> None:
        """Initial weights: matrices and kernels N(0, 1 / inputs), places N(0, 0.02²), tokens and G N(0, 1), scales of
        LN one, biases and relative positions zero. What the encoder's blocks add is divided by √(2 depth). In the
        decoder's attention between tokens and map W_q is doubled and W_k = W_q: as ⟨γ(x), γ(y)⟩ is greatest at x = y,
        a point looks at its own place from the beginning."""
        for module in self.modules():
            for name, p in module.named_parameters(recurse=False):
                if isinstance(module, torch.nn.LayerNorm | LayerNorm2d):
                    p.fill_(float(name == "weight"))
                elif p.dim() < 2 or name.startswith("rel_pos"):
                    p.zero_()
                elif isinstance(module, torch.nn.Embedding):
                    p.copy_(torch.randn(p.shape, generator=g))
                elif name == "pos_embed":
                    p.copy_(0.02 * torch.randn(p.shape, generator=g))
                else:
                    inputs = p.shape[0] if isinstance(module, torch.nn.ConvTranspose2d) else p[0].numel()
                    p.copy_(inputs**-0.5 * torch.randn(p.shape, generator=g))
        for block in self.image_encoder.blocks:
            for last in (block.attn.proj, block.mlp.lin2):  # pyright: ignore
                last.weight.div_((2 * len(self.image_encoder.blocks)) ** 0.5)  # pyright: ignore
        for attention in self.mask_decoder.transformer.between():
            attention.q_proj.weight.mul_(2)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
        G = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        G.copy_(torch.randn(G.shape, generator=g))

    @property
    def map_channels(self) -> int:
        """Of a picture's map, with finer ones behind its own."""
        c = VARIANTS[self.variant].channels
        return c if self.image_encoder.fine is None else sum(wide(c))

    def scaled(self, h: int, w: int) -> tuple[int, int]:
        """What a picture's sides become; at least one pixel each."""
        ratio = self.size / max(h, w)
        return max(1, int(h * ratio + 0.5)), max(1, int(w * ratio + 0.5))

    def framed(self, x: UInt8[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 size size"]:
        """Pictures that were scaled, normalised and continued to a square."""
        h, w = x.shape[-2:]
        return pad((x - self.mean) / self.deviation, (0, self.size - w, 0, self.size - h))

    def embed_image(self, x: Float[Tensor, "b 3 size size"]) -> Float[Tensor, "b c h w"]:
        """z of eq. (1)."""
        return self.image_encoder(x)

    def decode(
        self, image: Float[Tensor, "i c h w"], points: Tensor | None = None, labels: Tensor | None = None,
        boxes: Tensor | None = None, masks: Tensor | None = None, several: bool = True, words: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b k H W"], Float[Tensor, "b k"]]:  # fmt: skip
        """Logits of masks, and what their IoUs will be. All prompts in pixels of the frame; b of each that is given:
        points (b, n, 2) with labels (b, n), boxes (b, 4), masks (b, 1, side, side), what is said of words (b, e)."""
        prompts = self.prompt_encoder
        prompt = prompts.joined(points, labels, boxes, words)
        tokens = None if prompt is None else prompts.tokens(prompt, image)
        return self.mask_decoder(image, prompts.places(), tokens, prompts.map(masks, prompt, image), several)

    def looked(
        self, image: Float[Tensor, "1 c h w"], points: Float[Tensor, "b n 2"], labels: Tensor
    ) -> tuple[Tensor, Tensor, Float[Tensor, "b 4"]]:
        """What the decoder needs for masks of points (`MaskDecoder.masks`), and their expected IoUs: for when the masks
        of most prompts are not wanted."""
        prompts = self.prompt_encoder
        prompt: Any = prompts.joined(points, labels, None)
        t, z = self.mask_decoder.looked(
            image, prompts.places(), prompts.tokens(prompt, image), prompts.map(None, prompt, image)
        )
        return t, z, self.mask_decoder.ious(t)

    def enlarged(self, m: Float[Tensor, "b k H W"], h: int, w: int) -> Float[Tensor, "b k h w"]:
        """Logits at the size of a picture that has h × w pixels."""
        rows, columns = self.scaled(h, w)
        m = interpolate(m, (self.size, self.size), mode="bilinear", align_corners=False)[..., :rows, :columns]
        return interpolate(m, (h, w), mode="bilinear", align_corners=False)
