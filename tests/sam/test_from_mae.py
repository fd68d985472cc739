"""The picture encoder that begins as mae's sees what mae's sees."""

import pytest
import torch

from ptheta.engine.errors import UsageError
from ptheta.sam.from_mae import copy_encoder
from ptheta.sam.model import SAM
from ptheta.selfsup.mae import MAE


def mae(**sizes) -> MAE:
    sizes = {
        "shape": (3, 64, 64),
        "encoder": "vit",
        "width": 128,
        "depth": 6,
        "patch": 16,
        "cells": 1,
        "views": "none",
        **sizes,
    }
    model = MAE(seed=3, **sizes)
    model.mean.copy_(torch.tensor([0.4, 0.5, 0.3]))
    model.deviation.copy_(torch.tensor([0.2, 0.25, 0.3]))
    return model.eval()


@torch.no_grad()
def test_tokens_are_the_same():
    """Where attention is global; but for the norm at the end, which SAM has not, and GELU's approximation."""
    theirs, own = mae(), SAM("tiny", 64)
    for p in theirs.parameters():
        p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    copy_encoder(theirs, own)
    x = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    z = own.image_encoder.patch_embed(own.framed(x)) + own.image_encoder.pos_embed
    assert own.image_encoder.fine is not None and not own.image_encoder.fine.up(own.framed(x))[0].any()
    tokens = theirs.encoder.tokens(theirs.normalised(x))
    torch.testing.assert_close(z.flatten(1, 2), tokens, rtol=1e-4, atol=1e-4)
    for block in own.image_encoder.blocks:
        block.window = 0
        z = block(z)
    z = theirs.encoder.blocks.norm(z.flatten(1, 2))
    torch.testing.assert_close(z, theirs.encoder.blocks(tokens), rtol=0, atol=0.02)


def test_other_sizes_are_refused_with_the_options_that_fit():
    with pytest.raises(UsageError, match="--size 64 --patch 16 --width 128 --depth 6"):
        copy_encoder(mae(depth=2), SAM("tiny", 64))
