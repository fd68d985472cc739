"""Finer maps: where their places are, and that they are added where the decoder doubles its map."""

import torch
from torch.nn.functional import gelu, interpolate, layer_norm

from ptheta.sam.fine import behind
from ptheta.sam.model import SAM


def test_places_are_behind_the_coarse_ones_quarter_by_quarter():
    f = torch.randn(2, 3, 8, 12)
    halves, quarters = behind(f, 1).view(2, 4, 3, 4, 6), behind(f, 2).view(2, 4, 4, 3, 2, 3)
    for q in range(4):
        assert torch.equal(halves[:, q], f[:, :, q // 2 :: 2, q % 2 :: 2])
        for r in range(4):
            assert torch.equal(quarters[:, q, r], f[:, :, 2 * (q // 2) + r // 2 :: 4, 2 * (q % 2) + r % 2 :: 4])


@torch.no_grad()
def test_masks_are_those_of_maps_of_full_size(tiny):
    """The decoder's end, written with whole maps: transposed convolutions, then sums."""
    x = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    image = tiny.embed_image(x)
    assert image.shape == (1, tiny.map_channels, 10, 10) == (1, 512, 10, 10)
    points, labels = torch.tensor([[[40.0, 70.0]]]), torch.ones(1, 1, dtype=torch.long)
    m, _ = tiny.decode(image, points, labels)
    decoder, fine = tiny.mask_decoder, tiny.image_encoder.fine
    t, z = decoder.looked(image, tiny.prompt_encoder.places(), tiny.prompt_encoder.tokens(points, labels, None),
                          tiny.prompt_encoder.map(None))  # fmt: skip
    own = z[..., :128].transpose(1, 2).reshape(1, 128, 10, 10)
    f4 = gelu(fine.near4(fine.norm4(fine.cut4(x))))
    f8 = gelu(fine.near8(fine.norm8(fine.cut8(f4))))
    up1, norm, _, up2, _ = decoder.output_upscaling
    u = (up1(own) + fine.to8(f8)).permute(0, 2, 3, 1)
    u = layer_norm(u, (32,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    U = gelu(up2(gelu(u)) + fine.to4(f4))
    hyper = torch.stack([head(t[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1)[:, 1:]
    torch.testing.assert_close(m, torch.einsum("bkc,bchw->bkhw", hyper, U), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_pixel_moves_masks_near_it_more_than_a_patch_away():
    """Without what the ViT says: the finer maps alone see what is near."""
    model = SAM("tiny", 64).eval()
    for block in model.image_encoder.blocks:
        block.attn.proj.weight.zero_(), block.mlp.lin2.weight.zero_()
    model.image_encoder.fine.cut16.weight.zero_()
    x = torch.zeros(1, 3, 64, 64)
    y = x.clone()
    y[..., 8:12, 8:12] = 1.0
    change = (model.embed_image(y) - model.embed_image(x))[:, 128:].abs().amax(1, keepdim=True)
    near = interpolate(change, scale_factor=16)[0, 0]
    assert near[:16, :16].min() > 0 and not near[33:, 33:].any()
