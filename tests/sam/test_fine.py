"""Finer maps: where their places are, that they are added where the decoder doubles its map, what a point reads."""

import torch
from torch.nn.functional import gelu, interpolate, layer_norm, relu

from ptheta.sam.fine import at_place, behind
from ptheta.sam.model import SAM
from ptheta.sam.prompt_encoder import there
from ptheta.sam.propagation import propagated


def test_places_are_behind_the_coarse_ones_quarter_by_quarter():
    f = torch.randn(2, 3, 8, 12)
    halves, quarters = behind(f, 1).view(2, 4, 3, 4, 6), behind(f, 2).view(2, 4, 4, 3, 2, 3)
    for q in range(4):
        assert torch.equal(halves[:, q], f[:, :, q // 2 :: 2, q % 2 :: 2])
        for r in range(4):
            assert torch.equal(quarters[:, q, r], f[:, :, 2 * (q // 2) + r // 2 :: 4, 2 * (q % 2) + r % 2 :: 4])
    assert torch.equal(at_place(behind(f, 1), 1), f) and torch.equal(at_place(behind(f, 2), 2), f)


def channels_normed(x, norm):
    """LN over the channels of a map."""
    return layer_norm(x.permute(0, 2, 3, 1), norm.weight.shape, norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)


def by_hand(fine, x, z):
    """z_8, g_4 and g_2 as whole maps."""
    f, found = x, []
    for cut, norm, near in zip(fine.cut, fine.norm, fine.near):
        f = gelu(near(channels_normed(cut(f), norm)))
        found.append(f)
    f2, f4, f8 = found
    h = fine.first8(channels_normed(interpolate(z, scale_factor=2) + fine.to8(f8), fine.norm8))
    z8 = channels_normed(h + fine.second8(gelu(h)), fine.last8)
    g4 = fine.near4(gelu(channels_normed(fine.to4(f4) + interpolate(fine.down4(z8), scale_factor=2), fine.norm4)))
    f = gelu(channels_normed(fine.to2(f2) + interpolate(fine.down2(g4), scale_factor=2), fine.norm2))
    g2 = fine.near2(f)
    return z8, g4, g2, fine.kernels(f)


@torch.no_grad()
def test_masks_are_those_of_maps_of_full_size(tiny):
    """The ways up and down, and the decoder's end written with whole maps: transposed convolutions, then sums."""
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    image = tiny.embed_image(x)
    assert image.shape == (2, tiny.map_channels, 20, 20) == (2, 944, 20, 20) and tiny.side == 80
    decoder, encoder, fine = tiny.mask_decoder, tiny.image_encoder, tiny.image_encoder.fine
    tokens = encoder.patch_embed(x) + encoder.pos_embed + fine.up(x)[0]
    for block in encoder.blocks:
        tokens = block(tokens)
    z8, g4, g2, K = by_hand(fine, x, encoder.neck(tokens.permute(0, 3, 1, 2)))
    torch.testing.assert_close(image[:, :128], z8, rtol=1e-4, atol=1e-4)
    points, labels = torch.tensor([[[40.0, 70.0]], [[9.0, 150.0]]]), torch.ones(2, 1, dtype=torch.long)
    m, _ = tiny.decode(image, points, labels)
    prompts = tiny.prompt_encoder
    prompt = prompts.joined(points, labels, None)
    dense = prompts.map(None, prompt, image)
    t, z = decoder.looked(image, prompts.places(), prompts.tokens(prompt, image), dense)
    up1, norm, _, up2, _ = decoder.output_upscaling
    u = channels_normed(up1(z.transpose(1, 2).reshape(2, 128, 20, 20)) + g4, norm)
    U = relu(up2(gelu(u)) + g2)
    hyper = torch.stack([head(t[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1)[:, 1:]
    torch.testing.assert_close(m, propagated(torch.einsum("bkc,bchw->bkhw", hyper, U), K), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_point_reads_the_maps_at_its_pixel(tiny):
    """Of two pictures, with two prompts each; beyond the edge, what is at the edge."""
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    image = tiny.embed_image(x)
    encoder, fine = tiny.image_encoder, tiny.image_encoder.fine
    tokens = encoder.patch_embed(x) + encoder.pos_embed + fine.up(x)[0]
    for block in encoder.blocks:
        tokens = block(tokens)
    z8, g4, g2, _ = by_hand(fine, x, encoder.neck(tokens.permute(0, 3, 1, 2)))
    at = torch.tensor([[[3.0, 5.0]], [[150.0, 9.0]], [[77.0, 78.0]], [[500.0, -4.0]]])
    got = there(image, at / 160, 128)
    for row, (of, (x, y)) in enumerate(zip((0, 0, 1, 1), [(3, 5), (150, 9), (77, 78), (159, 0)])):
        expected = torch.cat([z8[of, :, y // 8, x // 8], g4[of, :, y // 4, x // 4], g2[of, :, y // 2, x // 2]])
        torch.testing.assert_close(got[row, 0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_prompts_of_several_pictures_at_once_are_those_of_one_after_the_other(tiny):
    g = torch.Generator().manual_seed(2)
    image = tiny.embed_image(torch.randn(2, 3, 160, 160, generator=g))
    points, labels = 160 * torch.rand(6, 2, 2, generator=g), torch.randint(0, 2, (6, 2), generator=g)
    masks = torch.randn(6, 1, 80, 80, generator=g)
    m, s = tiny.decode(image, points, labels, masks=masks)
    for i in range(2):
        of = slice(3 * i, 3 * i + 3)
        alone, expected = tiny.decode(image[i : i + 1], points[of], labels[of], masks=masks[of])
        torch.testing.assert_close(m[of], alone, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(s[of], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_pixel_moves_masks_near_it_and_not_far_away():
    """Without what the ViT says: the finer maps alone see what is near."""
    model = SAM("tiny", 128).eval()
    for block in model.image_encoder.blocks:
        block.attn.proj.weight.zero_(), block.mlp.lin2.weight.zero_()
    model.image_encoder.fine.cut16.weight.zero_()
    model.image_encoder.patch_embed.proj.weight.zero_()
    x = torch.zeros(1, 3, 128, 128)
    y = x.clone()
    y[..., 8:12, 8:12] = 1.0
    change = (model.embed_image(y) - model.embed_image(x)).abs().amax(1, keepdim=True)
    near = interpolate(change, scale_factor=8)[0, 0]
    assert near[:16, :16].min() > 0 and not near[72:, 72:].any()
