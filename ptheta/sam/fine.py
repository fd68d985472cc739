r"""What is too small for patches: convolutions beside the ViT of `tiny` and `small`, on its way in and on its way out.

T. Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021 (a convolutional stem).
T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017 (the way down).
N. Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025 (high-resolution maps for the mask decoder).

Patches of 16 pixels suit pictures of 1,024; of 256 pixels, a part of a thing is a patch or less. With x the picture, ↓
a convolution of side and stride two (of side four and stride two from x), and ∗ one of side three,

    f_2 = GELU(W ∗ LN(↓ x)),    f_4 = GELU(W ∗ LN(↓ f_2)),    f_8 = GELU(W ∗ LN(↓ f_4))                          (1)

the tokens of patches get ↓ f_8 too. With z_{16} what the ViT makes of them and ↑ each place four times, the map that
prompts look at has twice the side of the ViT's, and finer ones are made that are told of it,

    z_8 = LN(h + W ∗ GELU(h)),    h = W ∗ LN(↑ z_{16} + W f_8)                                                   (2)

    g_4 = W ∗ GELU(LN(W f_4 + ↑ W z_8)),    g_2 = W ∗ f,    f = GELU(LN(W f_2 + ↑ W g_4))                        (3)

Where the mask decoder doubles the side of its map (`mask_decoder`, U), the first time g_4 is added, before LN, and g_2
the second; from f come the kernels K by which answers follow edges (`propagation`). They belong to the picture: prompts
come later, and a picture's convolutions are made once.

Places of a finer map are put behind the channels of the coarse one, quarter by quarter: (b, c, h, w) becomes
(b, c + 4 · c / 4 + 16 · (c / 8 + 27), h, w), so that what a picture is for the decoder stays one map. At a point they
tell a prompt what is there (`prompt_encoder`, eq. (3)).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from ptheta.sam.propagation import KERNELS, Kernels

STEM = (32, 64, 96)  # channels of f_2, f_4 and f_8


class Fine(nn.Module):
    """Eqs. (1) to (3). width: Of tokens. channels: c. norm: LN over the channels of a map."""

    def __init__(self, width: int, channels: int, norm: type[nn.Module]):
        super().__init__()
        c2, c4, c8 = STEM
        self.cut = nn.ModuleList([nn.Conv2d(3, c2, 4, 2, 1), nn.Conv2d(c2, c4, 2, 2), nn.Conv2d(c4, c8, 2, 2)])
        self.norm = nn.ModuleList(norm(c) for c in STEM)
        self.near = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in STEM)
        self.cut16 = nn.Conv2d(c8, width, 2, 2)
        self.to8, self.norm8 = nn.Conv2d(c8, channels, 1), norm(channels)
        self.first8, self.second8 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.last8 = norm(channels)
        self.to4, self.down4 = nn.Conv2d(c4, channels // 4, 1), nn.Conv2d(channels, channels // 4, 1)
        self.norm4, self.near4 = norm(channels // 4), nn.Conv2d(channels // 4, channels // 4, 3, padding=1)
        self.to2, self.down2 = nn.Conv2d(c2, channels // 8, 1), nn.Conv2d(channels // 4, channels // 8, 1)
        self.norm2, self.near2 = norm(channels // 8), nn.Conv2d(channels // 8, channels // 8, 3, padding=1)
        self.kernels = Kernels(channels // 8)

    def up(self, x: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b h w C"], list[Tensor]]:
        """Eq. (1): what tokens get, and f_2, f_4, f_8."""
        f, found = x.contiguous(memory_format=torch.channels_last), []
        for cut, norm, near in zip(self.cut, self.norm, self.near):
            f = gelu(near(norm(cut(f))))
            found.append(f)
        return self.cut16(f).permute(0, 2, 3, 1), found

    def down(self, z: Float[Tensor, "b c h w"], found: list[Tensor]) -> Float[Tensor, "b e h2 w2"]:
        """Eqs. (2) and (3): z_8 and behind it g_4, g_2 and K."""
        f2, f4, f8 = found
        h = self.first8(self.norm8(doubled(z) + self.to8(f8)))
        z = self.last8(h + self.second8(gelu(h)))
        g4 = self.near4(gelu(self.norm4(self.to4(f4) + doubled(self.down4(z)))))
        f = gelu(self.norm2(self.to2(f2) + doubled(self.down2(g4))))
        return torch.cat([z, behind(g4, 1), behind(self.near2(f), 2), behind(self.kernels(f), 2)], 1)


def doubled(z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2h 2w"]:
    """↑."""
    return interpolate(z, scale_factor=2, mode="nearest")


def wide(c: int) -> tuple[int, int, int, int]:
    """How many channels z_8, g_4, g_2 and K have in the one map."""
    return c, 4 * (c // 4), 16 * (c // 8), 16 * KERNELS


def at_place(f: Float[Tensor, "b e h w"], times: int) -> Float[Tensor, "b c H W"]:
    """The inverse of `behind`."""
    (b, e, h, w), side = f.shape, 2**times
    f = f.view(b, *[2] * (2 * times), e // side**2, h, w)
    rows, columns = range(1, 1 + 2 * times, 2), range(2, 2 + 2 * times, 2)
    c = 1 + 2 * times
    return f.permute(0, c, c + 1, *rows, c + 2, *columns).reshape(b, -1, side * h, side * w)


def behind(f: Float[Tensor, "b c H W"], times: int) -> Float[Tensor, "b e h w"]:
    """A map of 2^times the side as channels of the coarse one: quarters, quarters of these, channels."""
    b, c, H, W = f.shape
    side = 2**times
    f = f.view(b, c, H // side, *[2] * times, W // side, *[2] * times)
    rows, columns = range(3, 3 + times), range(4 + times, 4 + 2 * times)
    pairs = [axis for pair in zip(rows, columns) for axis in pair]
    return f.permute(0, *pairs, 1, 2, 3 + times).reshape(b, -1, H // side, W // side)
