"""Weights of one size in a model of another: what is linear stays linear, and the middle stays where it is."""

import pytest
import torch

from ptheta.sam.model import SAM
from ptheta.sam.resized import resized


def test_weights_of_the_same_size_are_the_same():
    model = SAM("tiny", 64, seed=3)
    own = SAM("tiny", 64).state_dict()
    found = resized(model.state_dict(), own)
    assert all(torch.equal(found[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize(("of", "to"), [(64, 128), (128, 64), (64, 80)])
def test_what_rises_evenly_rises_evenly(of, to):
    theirs, own = SAM("tiny", of).state_dict(), SAM("tiny", to).state_dict()
    h, H = of // 16, to // 16
    name = "image_encoder.pos_embed"
    theirs[name] = ((torch.arange(h) + 0.5) / h)[None, :, None, None].expand(1, h, h, 128).clone()
    rows = "image_encoder.blocks.1.attn.rel_pos_h"
    theirs[rows] = torch.linspace(-1, 1, 2 * h - 1)[:, None].expand(-1, 32).clone()
    found = resized(theirs, own)
    assert all(found[key].shape == own[key].shape for key in own)
    inner = slice(1, H - 1)
    expected = ((torch.arange(H) + 0.5) / H)[None, inner, None, None].expand(1, H - 2, H, 128)
    torch.testing.assert_close(found[name][:, inner], expected, atol=0.03, rtol=0)
    torch.testing.assert_close(found[rows], torch.linspace(-1, 1, 2 * H - 1)[:, None].expand(-1, 32))
    assert found[rows][H - 1].abs().max() < 1e-6, "no difference of rows stays none"
    SAM("tiny", to).load_state_dict(found)
