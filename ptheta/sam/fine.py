r"""What is too small for patches: a few convolutions beside the ViT of `tiny` and `small`.

T. Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021 (a convolutional stem).
N. Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025 (high-resolution maps for the mask decoder).

Patches of 16 pixels suit pictures of 1,024; of 256 pixels, a part of a thing is a patch or two. With x the picture and
convolutions of stride 4 and 2 that are as wide as they stride,

    f_4 = GELU(W_{3×3} ∗ LN(W_{4×4} ∗ x)),    f_8 = GELU(W_{3×3} ∗ LN(W_{2×2} ∗ f_4))                            (1)

the tokens of patches get W_{2×2} ∗ f_8, and where the mask decoder doubles the side of its map (`mask_decoder`, U), the
first time W_{1×1} f_8 is added, before LN, and W_{1×1} f_4 the second. They belong to the picture: prompts come later.

Places of a finer map are put behind the channels of the coarse one, quarter by quarter: (b, c, h, w) becomes
(b, c + 4 · c / 4 + 16 · c / 8, h, w), so that what a picture is for the decoder stays one map.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

STEM = 32  # channels of f_4; f_8 has twice as many


class Fine(nn.Module):
    """Eq. (1). width: Of tokens. channels: c. norm: LN over the channels of a map."""

    def __init__(self, width: int, channels: int, norm: type[nn.Module]):
        super().__init__()
        self.cut4, self.norm4 = nn.Conv2d(3, STEM, 4, 4), norm(STEM)
        self.near4 = nn.Conv2d(STEM, STEM, 3, padding=1)
        self.cut8, self.norm8 = nn.Conv2d(STEM, 2 * STEM, 2, 2), norm(2 * STEM)
        self.near8 = nn.Conv2d(2 * STEM, 2 * STEM, 3, padding=1)
        self.cut16 = nn.Conv2d(2 * STEM, width, 2, 2)
        self.to8, self.to4 = nn.Conv2d(2 * STEM, channels // 4, 1), nn.Conv2d(STEM, channels // 8, 1)

    def forward(self, x: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b h w C"], Float[Tensor, "b e h w"]]:
        """What tokens get, and the finer maps as channels of the coarse one."""
        x = x.contiguous(memory_format=torch.channels_last)
        f4 = gelu(self.near4(self.norm4(self.cut4(x))))
        f8 = gelu(self.near8(self.norm8(self.cut8(f4))))
        finer = torch.cat([behind(self.to8(f8), 1), behind(self.to4(f4), 2)], 1)
        return self.cut16(f8).permute(0, 2, 3, 1), finer


def behind(f: Float[Tensor, "b c H W"], times: int) -> Float[Tensor, "b e h w"]:
    """A map of 2^times the side as channels of the coarse one: quarters, quarters of these, channels."""
    b, c, H, W = f.shape
    side = 2**times
    f = f.view(b, c, H // side, *[2] * times, W // side, *[2] * times)
    rows, columns = range(3, 3 + times), range(4 + times, 4 + 2 * times)
    pairs = [axis for pair in zip(rows, columns) for axis in pair]
    return f.permute(0, *pairs, 1, 2, 3 + times).reshape(b, -1, H // side, W // side)
