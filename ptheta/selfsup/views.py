r"""Views: other forms of the same picture, drawn for a whole batch at once.

T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020, appendix A (crop, flip, colour, blur).
J.-B. Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, appendix B (solarise).
Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
P. Simard, D. Steinkraus and J. Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis", ICDAR 2003 (bent digits).

A view is told by a few numbers a picture. Its pixel at (u, v) ∈ [−1, 1]² is that of the picture at

    (x, y) = (c_x, c_y) + R(θ) diag(±w, h) (u + t v, v) + δ(u, v),     w = \sqrt{a r},  h = \sqrt{a / r}       (1)

for a crop of a share a of the area (above 1: there is margin around the picture) with aspect r, centre c uniform where
the smaller of crop and picture lies inside the other, turned by θ, measured in pixels, slanted by arctan t, perhaps
mirrored, and bent by δ: displacements N(0, κ²) of 4 × 4 points, bicubic between them; bilinear, one pass for all of
these. Colour then changes by eq. (1) of `colour`. Blur is a normalised Gaussian of deviation s along rows and then
columns,

    x ← K x K^T,        K_{ij} ∝ \exp(−(i − j)² / 2 s²)                                                        (2)

solarising turns p ≥ 1/2 into 1 − p, and erasing sets one rectangle to one grey value.

Which views keep what a picture is of is a matter of the pictures: a mirrored digit is another sign, hue says nothing
where all is grey, and a small crop of a digit is blank. Hence the presets.

Differs from the papers: hue turns in YIQ in place of HSV, colours change in one order and are cut to [0, 1] once; blur
is of any deviation, without a kernel size; δ interpolates few displacements in place of smoothing many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from ptheta.data.colour import coloured
from ptheta.engine.errors import unknown

POINTS = 4


@dataclass(frozen=True)
class Preset:
    """How much views differ. Ranges are of uniform draws; a share is the probability that a picture is changed."""

    crop: tuple[float, float] = (0.2, 1.0)
    """Share of the area. w and h of eq. (1) are cut to 1, or to the root of the greatest share if above 1."""
    aspect: float = 4 / 3
    """Aspect ratios from 1/aspect to aspect, uniform in the logarithm."""
    flip: float = 0.5
    """Share of mirrored pictures."""
    turn: float = 0.0
    """Greatest angle either way, degrees."""
    slant: float = 0.0
    """Greatest slant either way, degrees."""
    bend: float = 0.0
    """κ, in halves of the picture's side."""
    colour: float = 0.8
    """Share of pictures whose colours change."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    """Factors from 1 − value to 1 + value."""
    hue: float = 0.1
    """Greatest turn either way, in full turns."""
    grey: float = 0.2
    """Share of pictures made grey."""
    blur: float = 0.5
    """Share of blurred pictures."""
    deviation: tuple[float, float] = (0.1, 1.0)
    """Of the blur, in pixels for a picture of 32; more for larger ones."""
    solarise: float = 0.0
    """Share of solarised pictures."""
    erase: float = 0.0
    """Share of pictures with an erased rectangle."""
    erased: tuple[float, float] = (0.05, 0.25)
    """Share of the area that is erased."""


PRESETS = {
    "photographs": Preset(),
    "clothes": Preset(crop=(0.7, 1.0), brightness=0.8, contrast=0.8, blur=0.2, solarise=0.2, erase=0.5),
    "digits": Preset(crop=(0.45, 1.0), flip=0.0, turn=15.0, blur=0.2, deviation=(0.1, 0.8), erase=0.2),
    "handwriting": Preset(
        crop=(0.55, 1.35), flip=0.0, turn=15.0, slant=15.0, bend=0.12, blur=0.2, deviation=(0.1, 0.8), erase=0.2
    ),
    "none": Preset(crop=(1.0, 1.0), aspect=1.0, flip=0.0, colour=0.0, grey=0.0, blur=0.0),
}
OF_DATA = {"digits": "digits", "mnist": "handwriting", "fashion_mnist": "clothes"}


def preset(name: str, data: str, channels: int) -> Preset:
    """The preset of a name; "auto" is that of the data set, else photographs. Raises UsageError for an unknown name."""
    chosen = OF_DATA.get(data, "photographs") if name == "auto" else name
    if chosen not in PRESETS:
        raise unknown("views", name, ["auto", *PRESETS])
    return PRESETS[chosen]


@dataclass(frozen=True)
class Drawn:
    """The numbers of eqs. (1) and (2), and of the colours, for b pictures."""

    theta: Float[Tensor, "b 2 3"]
    """Eq. (1) without δ as affine maps."""
    gain: Float[Tensor, "b 4"]
    """Brightness β, contrast γ, saturation σ, and the angle φ of the hue."""
    deviation: Float[Tensor, " b"]
    """Of the blur, as a share of the picture's side; 0: none."""
    solarise: Float[Tensor, " b"]
    """1 where the picture is solarised."""
    box: Float[Tensor, "b 5"]
    """The erased rectangle: top, bottom, left, right as shares of the sides (none if top ≥ bottom), its grey value."""
    bend: Float[Tensor, "b 2 p p"]
    """δ of eq. (1) at p × p points, in x and in y."""

    def rows(self, start: int, stop: int) -> Drawn:
        """Those of the pictures start … stop − 1."""
        return Drawn(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


def draw(p: Preset, b: int, g: torch.Generator, device: torch.device | str = "cpu") -> Drawn:
    """Numbers for b pictures from the generator g, which is on `device`."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, generator=g, device=device)

    def share(of: float) -> Tensor:
        return torch.rand(b, generator=g, device=device) < of

    area, ratio = uniform(*p.crop), uniform(-math.log(p.aspect), math.log(p.aspect)).exp()
    longest = max(1.0, p.crop[1] ** 0.5)
    w, h = (area * ratio).sqrt().clamp(max=longest), (area / ratio).sqrt().clamp(max=longest)
    cx, cy = uniform(-1, 1) * (1 - w), uniform(-1, 1) * (1 - h)
    angle, sign = uniform(-p.turn, p.turn) * math.pi / 180, 1 - 2 * share(p.flip).float()
    cos, sin = angle.cos(), angle.sin()

    changed = share(p.colour)
    factors = [torch.where(changed, uniform(1 - s, 1 + s), 1.0) for s in (p.brightness, p.contrast, p.saturation)]
    turned = torch.where(changed, uniform(-p.hue, p.hue) * 2 * math.pi, 0.0)
    factors[2] = torch.where(share(p.grey), 0.0, factors[2])
    deviation = torch.where(share(p.blur), uniform(*p.deviation) / 32, 0.0)

    size, ratio = uniform(*p.erased), uniform(-0.7, 0.7).exp()
    rows, columns = (size * ratio).sqrt().clamp(max=1), (size / ratio).sqrt().clamp(max=1)
    top, left = uniform(0, 1) * (1 - rows), uniform(0, 1) * (1 - columns)
    none = ~share(p.erase)
    box = torch.stack([top, torch.where(none, top, top + rows), left, left + columns, uniform(0, 1)], 1)
    solarise = share(p.solarise).float()

    a, t = sign * w, (uniform(-p.slant, p.slant) * math.pi / 180).tan()
    theta = torch.stack([cos * a, cos * a * t - sin * h, cx, sin * a, sin * a * t + cos * h, cy], 1).view(b, 2, 3)
    bend = p.bend * torch.randn(b, 2, POINTS, POINTS, generator=g, device=device)
    return Drawn(theta, torch.stack([*factors, turned], 1), deviation, solarise, box, bend)


def view(
    x: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"], d: Drawn, size: int | None = None
) -> Float[Tensor, "b c s s"]:
    """One view of each picture, of bytes or of values in [0, 1]: eq. (1), its colours, eq. (2); values in [0, 1].

    size: height and width of the views; as the pictures', if None.
    """
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    with torch.autocast(x.device.type, enabled=False):  # in bf16 places would be off by a pixel, and values by 1/256
        return _view(x, d, size)


def _view(x: Float[Tensor, "b c h w"], d: Drawn, size: int | None) -> Float[Tensor, "b c s s"]:
    b, c, h, w = x.shape
    shape = [b, c, size or h, size or w]
    edge = "zeros" if c == 1 else "reflection"  # grey sets lie on black
    theta = d.theta.to(x.dtype) * torch.tensor([[1, h / w, 1], [w / h, 1, 1]], dtype=x.dtype, device=x.device)
    places = affine_grid(theta, shape, align_corners=False)
    if d.bend.any():
        bent = interpolate(d.bend.to(x.dtype), shape[2:], mode="bicubic", align_corners=True)
        places = places + bent.permute(0, 2, 3, 1)
    x = grid_sample(x, places, "bilinear", edge, False)
    x = coloured(x, d.gain.to(x.dtype))
    if d.deviation.any():
        x = blurred(x, d.deviation.to(x.dtype))
    if d.solarise.any():
        x = torch.where((d.solarise[:, None, None, None] > 0) & (x >= 0.5), 1 - x, x)
    return erased(x, d.box.to(x.dtype))


def blurred(x: Float[Tensor, "b c h w"], deviation: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Eq. (2), with deviations as a share of the longer side; 0 leaves a picture as it is."""
    h, w = x.shape[2:]
    s = (deviation * max(h, w)).clamp(min=0.05)  # of so small a deviation K is the identity

    def kernel(n: int) -> Float[Tensor, "b n n"]:
        at = torch.arange(n, dtype=x.dtype, device=x.device)
        return (-(at[:, None] - at).square() / (2 * s[:, None, None].square())).softmax(-1)

    out = kernel(h)[:, None] @ x @ kernel(w).transpose(1, 2)[:, None]
    return out.clamp(max=1)  # rows of K add up to 1 with rounding


def erased(x: Float[Tensor, "b c h w"], box: Float[Tensor, "b 5"]) -> Float[Tensor, "b c h w"]:
    """The rectangle of each picture set to its grey value."""
    h, w = x.shape[2:]
    top, bottom, left, right, value = box[:, :, None, None, None].unbind(1)
    if not (bottom > top).any():
        return x
    i = (torch.arange(h, device=x.device)[:, None] + 0.5) / h
    j = (torch.arange(w, device=x.device) + 0.5) / w
    return torch.where((top <= i) & (i < bottom) & (left <= j) & (j < right), value, x)
