r"""MAE: three quarters of a picture's patches are hidden, and their pixels are told from the others.

K. He, X. Chen, S. Xie, Y. Li, P. Dollár and R. Girshick, "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.

A picture is cut into L patches p_l of n = C P² numbers. A random set V of k of them is kept,

    k = \max(1, round(L (1 − r)))                                                            (1)

The encoder f sees the patches of V alone; the decoder d, which is small and thrown away afterwards, sees its tokens
at their places and one learned token e at each place that is hidden:

    h = d(u + places),    u_l = W f(p_V)_l for l ∈ V, else e                                 (2)

What it says of the hidden patches is compared with their pixels, or with these normalised patch by patch:

    L = \frac{1}{L − k} \sum_{l ∉ V} \frac 1 n ‖ŷ_l − y_l‖²,    ŷ = A h                      (3)

    y_l = p_l,   or   y_l = (p_l − μ_l) / \sqrt{σ_l² + 10^{-6}}                              (4)

with μ_l the mean and σ_l² the unbiased variance (n − 1) of the patch's numbers. The 10^{-6} is inside of the root: a
constant patch has the target 0, and one that is nearly constant is blown up to variance 1 like every other, its noise
with it. `--target pixels` does not do that.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes; normalised before they are cut |
| r | | `hide` |
| order | (b, L) | the patches in random order; V are the first k |
| f(p_V) | (b, k, w) | `width`, `depth`, `patch` |
| h | (b, L, w_d) | `decoder_width`, `decoder_depth` |
| ŷ, y | (b, L, n) | |

Differs from the paper: places are learned; there is no class token, features are the mean of the tokens of the whole
picture; views are none unless asked for with `--views`, and then crops, flips and turns alone. The
default of (4) is pixels, where the paper's features are best with normalised patches: those lose what a person needs to
see a patch, its mean and deviation. Two further numbers a patch are then read off h by a linear map, with the squared
error of both added to (3), and no gradient into h, so that f and d are what (3) makes of them; as h need not hold these
two, completions are worse. It is the deviation and not its logarithm, which would be about −7 for every black patch.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import linear

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.encoders import patchify, unpatchify
from ptheta.nets.transformer import Blocks, normal
from ptheta.selfsup.masks import GREY, Reconstruction, Restorer, Restoring, hidden_error, observed_pixels
from ptheta.selfsup.pretraining import AT_ONCE, PretrainingConfig

EPSILON = 1e-6  # of eq. (4)


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the masked autoencoder and of its training."""

    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """AdamW's step size at its highest."""
    weight_decay: Annotated[float, Between(0)] = 0.05
    """Decoupled weight decay, of matrices alone."""
    encoder: Literal["vit"] = "vit"
    """The encoder that is learned: one that can do without patches."""
    width: Annotated[int, Between(1, 4096)] = 128
    """Width of the encoder's tokens."""
    depth: Annotated[int, Between(1, 64)] = 4
    """Blocks of the encoder."""
    views: Literal["auto", "digits", "handwriting", "clothes", "photographs", "none"] = "none"
    """Crops, flips and turns of the pictures before patches are hidden, as a preset has them; none: whole pictures."""
    hide: Annotated[float, Between(0, 1, open=True)] = 0.75
    """r of eq. (1), the share of patches that is hidden; below 1."""
    target: Literal["normalised", "pixels"] = "pixels"
    """y of eq. (4): a patch's pixels, from which pictures are completed best, or each patch normalised by itself."""
    decoder_width: Annotated[int, Between(1, 4096)] = 64
    """Width of the decoder's tokens."""
    decoder_depth: Annotated[int, Between(1, 64)] = 2
    """Blocks of the decoder."""


def kept_patches(patches: int, hide: float) -> int:
    """k of eq. (1). Raises UsageError for a share that keeps none of the patches, or hides none."""
    kept = max(1, round(patches * (1 - hide)))
    if 0 < hide < 1 and kept < patches:
        return kept
    if patches < 2:
        raise UsageError("a picture of one patch has none to hide; allowed: 2 patches and more (option --patch).")
    what = "keeps none" if hide >= 1 else "hides none"
    raise UsageError(
        f"hide = {hide:g} {what} of {patches} patches; allowed: from {1 / patches:.3g} (one is hidden) to "
        f"{1 - 1 / patches:.3g} (one is kept) (option --hide)."
    )


def normalised_patches(
    p: Float[Tensor, "b l n"],
) -> tuple[Float[Tensor, "b l n"], Float[Tensor, "b l 1"], Float[Tensor, "b l 1"]]:
    """y of eq. (4), with μ and the root that it is divided by."""
    mean = p.mean(-1, keepdim=True)
    root = (p.var(-1, keepdim=True, correction=1) + EPSILON).sqrt()
    return (p - mean) / root, mean, root


class MAE(Restorer):
    """f, d and eq. (3)."""

    name = "mae"

    def __init__(
        self, shape, seed: int = 0, data: str = "", hide: float = 0.75, target: str = "pixels",
        decoder_width: int = 64, decoder_depth: int = 2, **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "hide": hide, "target": target,
            "decoder_width": decoder_width, "decoder_depth": decoder_depth, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        width, self.patch, self.target = self.encoder.features, self.encoder.patch, target
        self.L = self.encoder.grid[0] * self.encoder.grid[1]
        self.kept = kept_patches(self.L, hide)
        n = shape[0] * self.patch**2
        if target == "normalised" and n < 2:
            raise UsageError("a patch of one number has no deviation; allowed: --patch from 2 on, or --target pixels.")
        self.W, self.b = normal(g, decoder_width, width), nn.Parameter(torch.zeros(decoder_width))
        self.e, self.places = normal(g, decoder_width), normal(g, self.L, decoder_width)
        heads = next(h for h in range(max(1, decoder_width // 32), 0, -1) if decoder_width % h == 0)
        self.decoder = Blocks(decoder_width, decoder_depth, heads, g, causal=False)
        self.A, self.a = normal(g, n, decoder_width), nn.Parameter(torch.zeros(n))
        if target == "normalised":
            self.S, self.s = normal(g, 2, decoder_width), nn.Parameter(torch.zeros(2))

    def order(self, b: int, step: int) -> Int[Tensor, "b l"]:
        """The patches of this process's pictures in random order."""
        device = self.mean.device
        g = generator(self.seed, step, "hidden patches", device)
        return self.mine(torch.rand(b * self.world, self.L, generator=g, device=device).argsort(1))

    def decoded(self, v: Float[Tensor, "b c h w"], order: Int[Tensor, "b l"], kept: int) -> Float[Tensor, "b l w"]:
        """h of eq. (2), for the first `kept` patches of the order."""
        seen = order[:, :kept, None].expand(-1, -1, self.encoder.features)
        z = self.encoder.blocks(self.encoder.tokens(v).gather(1, seen))  # (b, k, w)
        u = linear(z, self.W, self.b)
        u = torch.cat([u, self.e.to(u.dtype).expand(len(u), self.L - kept, -1)], 1)
        back = order.argsort(1)[:, :, None].expand_as(u)  # where in the order a patch is
        return self.decoder(u.gather(1, back) + self.places)

    def predicted(self, h: Float[Tensor, "b l w"]) -> tuple[Float[Tensor, "b l n"], Float[Tensor, "b l s"] | None]:
        """ŷ of eq. (3), and what is said of the patches' means and deviations (s = 2) where (4) has taken them out."""
        y = linear(h, self.A, self.a).to(self.mean.dtype)
        of_patch = linear(h.detach(), self.S, self.s).to(self.mean.dtype) if self.target == "normalised" else None
        return y, of_patch

    def hidden(self, order: Int[Tensor, "b l"], kept: int) -> Bool[Tensor, "b l"]:
        """True for the patches that are not among the first `kept` of the order."""
        return torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :kept], False)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. (3) of each picture, and with it the error of what is said of means and deviations."""
        v, order = self.look(x, step), self.order(len(x), step)
        said, of_patch = self.predicted(self.decoded(v, order, self.kept))
        return self.compared(said, of_patch, patchify(v, self.patch), self.hidden(order, self.kept))

    def compared(
        self, said: Float[Tensor, "b l n"], of_patch: Float[Tensor, "b l s"] | None, p: Float[Tensor, "b l n"],
        hidden: Bool[Tensor, "b l"],
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:  # fmt: skip
        """Eq. (3) of predictions for patches p."""
        m = hidden[:, :, None]
        if of_patch is None:
            return hidden_error(said, p, m), {}
        y, mean, root = normalised_patches(p)
        error = hidden_error(said, y, m)
        return error + hidden_error(of_patch, torch.cat([mean, root], 2), m), {"normalised": error.mean()}

    def guess(self, v: Float[Tensor, "b c h w"], order: Int[Tensor, "b l"], kept: int) -> Float[Tensor, "b c h w"]:
        """Pictures in [0, 1] of which all patches are the decoder's."""
        y, of_patch = self.predicted(self.decoded(v, order, kept))
        if of_patch is not None:
            y = of_patch[..., :1] + of_patch[..., 1:].clamp(min=0) * y
        return self.unit(unpatchify(y, self.shape, self.patch))

    @torch.no_grad()
    def reconstruct(self, x: UInt8[Tensor, "b c h w"], step: int) -> Reconstruction:
        """Pictures with patches hidden as in training, and all of them filled in."""
        order, pixels = self.order(len(x), step), self.values(x)
        guess = self.guess(self.normalised(x), order, self.kept)
        rows, columns = self.encoder.grid
        hidden = self.hidden(order, self.kept).view(-1, 1, rows, columns)
        hidden = hidden.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return Reconstruction(pixels, pixels.where(~hidden, GREY), guess.where(hidden, pixels), hidden)

    @torch.no_grad()
    def complete(self, x: Any, observed: Any) -> Float[Tensor, "b c h w"]:
        """Pictures x (b, C, H, W) in [0, 1] with what is not observed, bool (H, W) or (b, H, W), filled in.

        The encoder sees the patches that are observed as a whole; what is observed of others is kept as it is. Raises
        InputError for other shapes, UsageError where no patch of a picture is whole.
        """
        pixels = self.values(self.check(x))
        seen = observed_pixels(observed, pixels)
        whole = patchify(seen, self.patch).all(2)  # (b, L)
        count = whole.sum(1)
        if len(blind := (count == 0).nonzero()):
            raise UsageError(
                f"no patch of picture {blind[0].item()} is observed as a whole; allowed: at least one of its {self.L} "
                f"patches of {self.patch}x{self.patch} pixels."
            )
        out, order = pixels.clone(), (~whole).int().argsort(dim=1, stable=True)
        for kept in count[count < self.L].unique().tolist():  # pictures of which as much is seen go together
            for rows in (count == kept).nonzero()[:, 0].split(AT_ONCE):
                guess = self.guess(self.normalised(pixels[rows]), order[rows], kept)
                out[rows] = pixels[rows].where(seen[rows], guess)
        return out


Model = MAE


class Method(Restoring):
    """min over θ of the mean of L, eq. (3)."""

    Config, Model = Config, MAE
    steps = 10_000
