r"""Masks: what of a picture is hidden, and how much of it a model gives back.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell and A. A. Efros, "Context Encoders: Feature Learning by Inpainting",
CVPR 2016, section 3.3 (a region, and blocks all over the picture).

With m_{ij} = 1 where a pixel is hidden, the error of x̂ is that of the hidden part alone,

    ℓ(x̂, x, m) = \frac{\sum_{ij} m_{ij} \sum_c (x̂_{cij} − x_{cij})²}{C \sum_{ij} m_{ij}}                     (1)

a mean over each picture, so that equal shares of a batch weigh alike, and a model is compared with what could be said
without one, x̄: the training set's mean picture, or what was left of x. Over N pictures

    recovered = 1 − \frac{\sum_n e_n}{\sum_n b_n},   e_n = \sum m (x̂ − x)²,   b_n = \sum m (x̄ − x)²          (2)

in [0, 1] of brightness: 1 where all is right, 0 where the model knows no more than x̄. Its standard error is that of a
ratio, s(e_n − R b_n) \sqrt N / \sum_n b_n with R = 1 − recovered.

| symbol | shape | here |
|---|---|---|
| x, x̂, x̄ | (b, C, H, W) | pictures, reconstructions, what needs no model |
| m | (b, 1, H, W) | `hidden` |
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Estimate
from ptheta.selfsup.pretraining import AT_ONCE, HELD_OUT, Encoder, Pretraining
from ptheta.selfsup.views import Preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

BLOCKS = 8  # in a picture that is hidden by blocks
ASPECT = 2.0  # of a rectangle, at most
MEASURED = 1000  # pictures of a split on which eq. (2) is taken
GREY = 0.5  # what stands for a hidden pixel in what people are shown


# ---------------------------------------------------------------- which part


def rectangles(
    b: int, h: int, w: int, low: float, high: float, g: torch.Generator, device: torch.device | str = "cpu"
) -> Bool[Tensor, "b 1 h w"]:
    """One rectangle a picture, True inside, of a share `low` to `high` of the area, anywhere.

    At least one pixel is inside, and at least one column (or, where there is but one, row) is left outside.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, generator=g, device=device)

    area, ratio = uniform(low, high) * h * w, uniform(-math.log(ASPECT), math.log(ASPECT)).exp()
    most = h if w > 1 else max(1, h - 1)
    rows = (area * ratio * h / w).sqrt().round().clamp(1, most)
    columns = (area / rows).round().clamp(1, max(1, w - 1))
    top, left = (uniform(0, 1) * (h - rows + 1)).floor(), (uniform(0, 1) * (w - columns + 1)).floor()
    i, j = torch.arange(h, device=device), torch.arange(w, device=device)
    down = (i >= top[:, None]) & (i < (top + rows)[:, None])
    across = (j >= left[:, None]) & (j < (left + columns)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def drawn(
    b: int, h: int, w: int, hide: float, g: torch.Generator, device: torch.device | str = "cpu"
) -> Bool[Tensor, "b 1 h w"]:
    """What is hidden in b pictures: in half of them one rectangle, in the others blocks that may overlap.

    Either hides about a quarter of `hide` to all of `hide` of the area, at least one pixel, and never all of them.
    Raises UsageError for pictures of one pixel.
    """
    if h * w < 2:
        raise UsageError("pictures of one pixel have no part to hide; allowed: 2 pixels and more (option --size).")
    one = rectangles(b, h, w, hide / 4, hide, g, device)
    blocks = torch.zeros_like(one)
    for _ in range(BLOCKS):
        blocks |= rectangles(b, h, w, hide / 4 / BLOCKS, hide / BLOCKS, g, device)
    blocks[..., 0, 0] &= ~blocks.flatten(1).all(1, keepdim=True)  # blocks of one pixel can cover the smallest pictures
    return torch.where(torch.rand(b, 1, 1, 1, generator=g, device=device) < 0.5, one, blocks)


def observed_pixels(observed: Any, x: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b 1 h w"]:
    """What a user says is observed in pictures x, from bool (H, W) or (b, H, W).

    Raises InputError for another shape or type, UsageError where nothing of a picture is observed.
    """
    b, _, h, w = x.shape
    try:
        seen = torch.as_tensor(observed, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"observed is no array ({error}); allowed: bool ({h}, {w}) or ({b}, {h}, {w}).") from error
    if seen.dtype != torch.bool or tuple(seen.shape) not in ((h, w), (b, h, w)):
        kind = str(seen.dtype).removeprefix("torch.")
        raise InputError(f"observed is {kind} {tuple(seen.shape)}; allowed: bool ({h}, {w}) or ({b}, {h}, {w}).")
    seen = seen.expand(b, h, w)[:, None]
    if len(blind := (~seen.flatten(1).any(1)).nonzero()):
        raise UsageError(f"nothing is observed of picture {blind[0].item()}; allowed: at least one pixel of each.")
    return seen


# ---------------------------------------------------------------- how well


def hidden_error(
    guess: Float[Tensor, "b *n"], x: Float[Tensor, "b *n"], hidden: Bool[Tensor, "b *m"]
) -> Float[Tensor, " b"]:
    """Eq. (1). `hidden` has the dimensions of x, with 1 where all entries along one are alike."""
    m = hidden.expand_as(x).flatten(1)
    return ((guess - x).square().flatten(1) * m).sum(1) / m.sum(1)


def recovered(error: Float[Tensor, " n"], baseline: Float[Tensor, " n"]) -> Estimate:
    """Eq. (2) from e_n and b_n."""
    e, b = error.double(), baseline.double()
    total = b.sum().clamp(min=1e-12)
    R, n = e.sum() / total, len(e)
    spread = (e - R * b).std() * math.sqrt(n) / total if n > 1 else torch.tensor(math.nan)
    return Estimate(1 - R.item(), spread.item(), n)


# ---------------------------------------------------------------- models and methods that give back


def geometry(p: Preset) -> Preset:
    """A preset without all that changes a pixel's colour: crops, flips and turns are left."""
    return dataclasses.replace(p, colour=0.0, grey=0.0, blur=0.0, solarise=0.0, erase=0.0)


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of pictures x of which it sees a part; all in [0, 1]."""

    x: Float[Tensor, "b c h w"]
    shown: Float[Tensor, "b c h w"]
    """What is left of x, as a person would be shown it."""
    guess: Float[Tensor, "b c h w"]
    hidden: Bool[Tensor, "b 1 h w"]
    """Where the guess counts."""


class Restorer(Encoder):
    """Base of the models that reconstruct pixels: views without changes of colour, and pixels back to [0, 1]."""

    def set_up(self, shape, seed: int, data: str, **encoder) -> torch.Generator:
        """As Encoder's."""
        g = super().set_up(shape, seed, data, **encoder)
        self.views = geometry(self.views)
        self.uses_views = encoder["views"] != "none"
        return g

    def look(self, x: UInt8[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """One view of each picture, normalised; the picture itself where there are no views."""
        return self.view(x, step, "view") if self.uses_views else self.normalised(x)

    def unit(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalised pictures back in [0, 1]."""
        return (v.to(self.mean.dtype) * self.deviation[:, None, None] + self.mean[:, None, None]).clamp(0, 1)

    def values(self, x: Tensor) -> Float[Tensor, "b c h w"]:
        """Pictures of bytes or of [0, 1] as numbers in [0, 1]."""
        return (x.float() / 255 if x.dtype == torch.uint8 else x).to(self.mean.dtype)

    def reconstruct(self, x: UInt8[Tensor, "b c h w"], step: int) -> Reconstruction:
        """Pictures, a part of them hidden as in training step `step`, and what the model makes of the rest."""
        raise NotImplementedError


class Restoring(Pretraining):
    """The method of a Restorer: `recovered`, eq. (2), among its figures and `reconstructions` among its pictures."""

    model: Any

    @cached_property
    def average(self) -> Float[Tensor, "c h w"]:
        """The training set's mean picture, in [0, 1]."""
        total = torch.stack([part.sum(0, dtype=torch.float64) for part in self.x.split(AT_ONCE)]).sum(0)
        return (total / (255 * len(self.x))).to(self.model.mean.dtype)

    def untaught(self, seen: Reconstruction) -> Float[Tensor, "*b c h w"]:
        """x̄ of eq. (2)."""
        return self.average

    def evaluate(self, data: PictureData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """Those of every method, and recovered: eq. (2) on whole pictures, with masks that never change."""
        found = super().evaluate(data, split, limit)
        x = data.split(split)[:limit][:MEASURED].to(self.hardware.device)
        return {**found, "recovered": self.recovered(x)}

    @torch.no_grad()
    def recovered(self, x: UInt8[Tensor, "n c h w"]) -> Estimate:
        """Eq. (2) of pictures."""
        model, errors = self.still(), []
        for i, part in enumerate(x.split(AT_ONCE)):
            seen = model.reconstruct(part, HELD_OUT + i)
            for guess in (seen.guess, self.untaught(seen)):
                errors.append(((guess - seen.x).square() * seen.hidden).flatten(1).sum(1).cpu())
        return recovered(torch.cat(errors[::2]), torch.cat(errors[1::2]))

    @torch.no_grad()
    def pictures(self) -> dict[str, Figure]:
        from ptheta.selfsup.pictures import grid

        x = self.data.split("valid" if "valid" in self.data.splits else "train")[:8]
        seen = self.still().reconstruct(x.to(self.hardware.device), HELD_OUT)
        rows = [list(row) for row in zip(seen.x, seen.shown, seen.guess)]
        return {**super().pictures(), "reconstructions": grid(rows, ["picture", "seen", "guess"])}

    def still(self) -> Any:
        """A copy of the model that measures and draws."""
        model = copy.deepcopy(self.model).eval()
        model.rank, model.world = 0, 1
        return model
