r"""What one output of any network reads of its input: by the sizes of its layers, and by the gradient.

A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.

By the sizes (`trace`), layer after layer as they are called, with K, J and R of `dilation`, eqs. (2) and (3),

    R_i = R_{i−1} + (K_i − 1) J_i,        J_{i+1} = J_i s_i                                                       (1)

which is right where each layer reads the one before, and nothing of residual or parallel branches. By the gradient
(`read`), right for any network,

    reads(p) = [ ∂y_q / ∂x_p ≠ 0 ]        for the network with positive weights                                 (2)

Positive weights, without biases, make every path add to the gradient, and no ReLU shuts one; they are drawn at random,
so that branches that are subtracted do not cancel. Maxima over places become means, which read the same places; batch
norm becomes the identity, as it reads no other place in use. Statistics that a layer takes over places as it runs
(instance or group norm, squeeze and excitation) do read the whole picture. What is called as a function stays as it is:
a maximum shows its largest alone, and a ReLU of what is negated nothing.

What may be read is not what tells: `effective`, eq. (3), is the gradient of a network as it has learned.

| symbol | shape | here |
|---|---|---|
| x | (1, C, H, W) | input |
| y | (1, D, h, w) | output, of which q is one place |
| reads | (H, W) | whether a pixel is read |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ptheta.engine.errors import UsageError
from ptheta.segmentation.dilation import effective_kernel

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d)
ADAPTIVE = {nn.AdaptiveMaxPool1d: nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool2d: nn.AdaptiveAvgPool2d}
MEANS = (nn.AvgPool1d, nn.AvgPool2d)
POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.PReLU,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One layer of `trace`: its numbers along the last side, and R and J after it."""

    name: str
    kernel: int
    rate: int
    stride: int
    effective: int
    field: int
    jump: int


def trace(net: nn.Module, shape: tuple[int, ...]) -> list[Row]:
    """Eq. (1) for the convolutions and poolings of a chain, in the order in which they are called on zeros of `shape`,
    (C, H, W) or (C, N). The network is not changed. Raises UsageError for transposed convolutions."""
    rows: list[Row] = []

    def after(name: str) -> Any:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            k, r, s = (along(getattr(layer, a, 1)) for a in ("kernel_size", "dilation", "stride"))
            R, J = (rows[-1].field, rows[-1].jump) if rows else (1, 1)
            K = effective_kernel(k, r)
            rows.append(Row(name, k, r, s, K, R + (K - 1) * J, J * s))

        return hook

    net = copy.deepcopy(net).eval()
    for name, layer in net.named_modules():
        if isinstance(layer, TRANSPOSED):
            raise UsageError(f"{name} is a transposed convolution, of which eq. (1) knows nothing; allowed: `read`.")
        if isinstance(layer, CONVOLUTIONS + MAXIMA + MEANS):
            layer.register_forward_hook(after(name or type(layer).__name__))
    with torch.no_grad():
        net(torch.zeros(1, *shape, dtype=dtype_of(net)))
    return rows


def along(value: Any) -> int:
    """Of a layer's size, the last side's."""
    return int(value[-1] if isinstance(value, (tuple, list)) else value)


def dtype_of(net: nn.Module) -> torch.dtype:
    """Of the network's parameters; float32 if it has none."""
    return next((p.dtype for p in net.parameters()), torch.float32)


@dataclass(frozen=True)
class Read:
    """What one output reads."""

    pixels: Bool[Tensor, "H W"]
    """Eq. (2)."""
    place: tuple[int, ...]
    """q, which output."""

    @property
    def field(self) -> tuple[int, ...]:
        """Height and width from the first pixel that is read to the last; (0, 0) if none is."""
        at = self.pixels.nonzero()
        return tuple((at.max(0).values - at.min(0).values + 1).tolist()) if len(at) else (0,) * self.pixels.dim()

    @property
    def share(self) -> float:
        """Of the pixels in that box that are read."""
        h = 1
        for side in self.field:
            h *= side
        return self.pixels.sum().item() / h if h else 0.0


def read(net: nn.Module, shape: tuple[int, ...], place: tuple[int, ...] | None = None) -> Read:
    """Eq. (2) for an input of `shape` = (C, H, W) or (C, N) and one place of the output, the middle one if None. The
    network is not changed. Raises UsageError for a network that gives no map, or a place that is not in it."""
    net = positive(net)
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    y = first_tensor(net(x))
    if y is None or y.dim() != x.dim():
        raise UsageError(
            f"the network gives {'no tensor' if y is None else tuple(y.shape)} for {tuple(x.shape)}; allowed: a map "
            "of as many sides as the input's."
        )
    sides = y.shape[2:]
    q = tuple(n // 2 for n in sides) if place is None else place
    if len(q) != len(sides) or any(not 0 <= i < n for i, n in zip(q, sides)):
        raise UsageError(f"place = {q} is not in the output of {tuple(sides)}; allowed: from 0 to one below each side.")
    channels = torch.rand(y.shape[1], generator=torch.Generator().manual_seed(1), dtype=y.dtype) + 0.5
    (gradient,) = torch.autograd.grad((channels * y[(0, slice(None), *q)]).sum(), x, allow_unused=True)
    pixels = torch.zeros(shape[1:], dtype=torch.bool) if gradient is None else (gradient[0] != 0).any(0)
    return Read(pixels, q)


def effective(
    scores: Callable[[Tensor], Tensor], x: Float[Tensor, "c H W"], place: tuple[int, int], channel: int
) -> Float[Tensor, "H W"]:
    r"""How much each pixel of the picture x tells in one score, of a network as it is.

    W. Luo, Y. Li, R. Urtasun and R. Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", NeurIPS 2016.

        e(p) = Σ_c | ∂y_{channel, q} / ∂x_{c, p} |                                                                 (3)

    scores: Maps of scores (1, D, h, w) of pictures (1, C, H, W).
    """
    x = x[None].detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scores(x)[(0, channel, *place)], x)
    return gradient[0].abs().sum(0)


def first_tensor(y: Any) -> Tensor | None:
    """The output, or the first tensor of a dictionary or sequence of them."""
    if isinstance(y, Tensor):
        return y
    values = list(y.values()) if isinstance(y, dict) else list(y) if isinstance(y, (tuple, list)) else []
    return next((v for v in values if isinstance(v, Tensor)), None)


def positive(net: nn.Module) -> nn.Module:
    """A copy in float64 whose output grows with every input that it reads: see eq. (2)."""
    net = nn.Sequential(copy.deepcopy(net)).eval().requires_grad_(False)
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, MAXIMA):
                if along(layer.dilation) != 1:
                    raise UsageError(f"a maximum at rate {layer.dilation} has no mean of the same; allowed: rate 1.")
                mean: Any = nn.AvgPool2d if isinstance(layer, nn.MaxPool2d) else nn.AvgPool1d
                setattr(parent, name, mean(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode))
            elif type(layer) in ADAPTIVE:
                setattr(parent, name, ADAPTIVE[type(layer)](layer.output_size))
            elif isinstance(layer, POINTWISE) or is_batch_norm(layer):
                setattr(parent, name, nn.Identity())
    net, g = net.double(), torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        n = p[0].numel() if p.dim() > 1 else 1  # weights add up to about 1 over a unit's inputs, however deep
        drawn = (torch.rand(p.shape, generator=g, dtype=torch.float64) + 0.5) / n
        p.data = torch.zeros_like(p) if p.dim() == 1 and name.endswith("bias") else drawn
    return net


def is_batch_norm(layer: nn.Module) -> bool:
    """Whether a layer, in use, subtracts and divides by stored numbers."""
    return getattr(layer, "running_mean", None) is not None
