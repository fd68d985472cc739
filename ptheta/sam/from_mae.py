r"""A picture encoder that begins with what `mae` has learned of pictures without masks.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 3, "image encoder": "an MAE pre-trained ViT").

The blocks of both are the same but for relative positions, which begin at zero, windows and an approximation of GELU,
and what `fine` adds to tokens begins at zero; a model of `mae` for the
same size, patches of 16 pixels, the same width and depth gives its patches, places, norms, attention and MLPs. Its
pictures are normalised by their own mean μ and deviation σ, SAM's by ImageNet's, m and d: with x = (255 v − m) / d,

    W v' + b = W (d x + m − 255 μ) / (255 σ) + b                                                                 (1)

so that the first layer's weights and bias are changed by what that takes. Source: our own.
"""

from __future__ import annotations

from typing import Any

import torch

from ptheta.engine.errors import UsageError
from ptheta.sam.model import PATCH, SAM


@torch.no_grad()
def copy_encoder(mae: Any, sam: SAM) -> None:
    """Eq. (1) and the blocks. Raises UsageError where sizes differ, with the options that make them fit."""
    theirs, own = mae.encoder, sam.image_encoder
    width, depth, heads = own.pos_embed.shape[-1], len(own.blocks), own.blocks[0].attn.heads  # pyright: ignore
    wanted = ((3, sam.size, sam.size), PATCH, width, depth, heads)
    layers = theirs.blocks.layers
    got = (tuple(theirs.shape), theirs.patch, theirs.features, len(layers), theirs.blocks.heads)
    if got != wanted:
        raise UsageError(
            f"that mae is for pictures {got[0]} with patches of {got[1]}, width {got[2]}, depth {got[3]} and {got[4]} "
            f"heads, the model {wanted}; train mae with --size {sam.size} --patch {PATCH} --width {width} --depth "
            f"{depth}."
        )
    mean, deviation = (v.to(sam.mean).view(3, 1, 1) for v in (mae.mean, mae.deviation))
    W = theirs.W.view(width, 3, PATCH, PATCH)
    own.patch_embed.proj.weight.copy_(W * sam.deviation / (255 * deviation))
    shift = (sam.mean - 255 * mean) / (255 * deviation)
    own.patch_embed.proj.bias.copy_(theirs.b + (W * shift).sum((1, 2, 3)))  # pyright: ignore
    if own.fine is not None:  # what else tokens get begins with nothing
        own.fine.cut16.weight.zero_()
    own.pos_embed.copy_(theirs.places.view_as(own.pos_embed))
    blocks: Any = own.blocks
    for of, to in zip(layers, blocks):
        q = of.attention
        b_k = torch.zeros_like(q.b_q) if q.b_k is None else q.b_k
        pairs: list[tuple[Any, Any]] = [
            (to.attn.qkv.weight, q.W_qkv), (to.attn.qkv.bias, torch.cat([q.b_q, b_k, q.b_v])),
            (to.attn.proj.weight, q.W_o), (to.attn.proj.bias, q.b_o),
            (to.mlp.lin1.weight, of.mlp.W_1), (to.mlp.lin1.bias, of.mlp.b_1),
            (to.mlp.lin2.weight, of.mlp.W_2), (to.mlp.lin2.bias, of.mlp.b_2),
            (to.norm1.weight, of.norm_1.weight), (to.norm1.bias, of.norm_1.bias),
            (to.norm2.weight, of.norm_2.weight), (to.norm2.bias, of.norm_2.bias),
        ]  # fmt: skip
        for mine, their in pairs:
            mine.copy_(their)
