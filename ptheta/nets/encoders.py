r"""Encoders: from a picture of any size, grey or colour, to a vector and to a map of vectors.

K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (ResNet).
A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (ViT).
S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015.

A residual block of two 3 × 3 convolutions with s = 2 in the first block of every stage but the first,

    y = ReLU(BN(W_2 ∗ ReLU(BN(W_1 ∗_s x))) + P x),    P = BN(W_p ∗_s x) where shape changes, else x      (1)

    BN(x) = γ (x − \bar x) / \sqrt{var(x) + ε} + β,    mean and variance over batch and places            (2)

Stages have p, 2p, 4p, 8p channels. Before them, convolutions of 4 × 4 with stride 2 halve the picture until its
longer side is at most 20 (or its shorter side below 4): pictures of 28 pixels enter the first stage with 14, those of
224 with 14. Halving first is what makes this net quick on a CPU; a picture of 8 pixels is not halved.

The ViT cuts a picture into patches of P × P, maps each to a token, adds learned places, and reads a class token or the
mean of the tokens after `transformer.Blocks`.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, normalised |
| map | (b, c, h, w) | the last stage, or the tokens at their places |
| z | (b, c) | its mean over the places, the features |

In training with several processes the statistics (2) are those of all of them together, with gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, relu

from ptheta.engine.errors import UsageError, unknown
from ptheta.nets.transformer import Blocks, normal

SMALL = 20  # the longest side that enters the first stage
EPSILON, MOMENTUM = 1e-5, 0.1


class BatchNorm(nn.Module):
    """Eq. (2) over the batch, and over the places of a map; of all processes together where there are several."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        """Batch statistics in training, running ones otherwise. A batch of one vector has no variance: UsageError."""
        if self.training and x.numel() * processes() == x.shape[1]:
            raise UsageError("batch normalisation wants at least 2 vectors in a batch, got 1; raise --batch-size.")
        if self.training and processes() > 1:
            return self._of_all_processes(x)
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, MOMENTUM, EPSILON
        )

    def _of_all_processes(self, x: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce

        over = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.to(self.running_mean.dtype)
        mean = all_reduce(wide.mean(over)) / processes()  # equal shares: the mean of means
        var = all_reduce((wide - mean.view(shape)).square().mean(over)) / processes()
        with torch.no_grad():
            count = processes() * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(var * count / (count - 1), MOMENTUM)
        out = (wide - mean.view(shape)) * (var + EPSILON).rsqrt().view(shape)
        if self.weight is not None and self.bias is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


def processes() -> int:
    """How many processes train together."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def he(g: torch.Generator, *shape: int) -> nn.Parameter:
    """Weights of a layer before a ReLU: N(0, 2 / inputs)."""
    return nn.Parameter(torch.randn(*shape, generator=g) * math.sqrt(2 / math.prod(shape[1:])))


class Convolution(nn.Module):
    """BN(W ∗_r x) with stride s and rate (dilation) r, without the ReLU."""

    def __init__(self, g: torch.Generator, before: int, after: int, kernel: int, stride: int = 1, rate: int = 1):
        super().__init__()
        self.W, self.stride, self.rate = he(g, after, before, kernel, kernel), stride, rate
        self.padding = rate * (kernel - 1) // 2
        self.norm = BatchNorm(after)

    def forward(self, x: Float[Tensor, "b p h w"]) -> Float[Tensor, "b q h2 w2"]:
        if self.W.shape[2] == 1 and self.stride > 1:
            # The places that are read, taken first: oneDNN's gradient of a strided kernel of one place writes past its
            # memory for fewer than 8 channels on CPUs with AVX2 alone (PyTorch 2.13).
            return self.norm(conv2d(x[:, :, :: self.stride, :: self.stride], self.W))
        return self.norm(conv2d(x, self.W, None, self.stride, self.padding, self.rate))


class Block(nn.Module):
    """Eq. (1), both of its 3 × 3 convolutions with rate r."""

    def __init__(self, g: torch.Generator, before: int, after: int, stride: int, rate: int = 1):
        super().__init__()
        self.first = Convolution(g, before, after, 3, stride, rate)
        self.second = Convolution(g, after, after, 3, 1, rate)
        same = before == after and stride == 1
        self.project = None if same else Convolution(g, before, after, 1, stride)

    def forward(self, x: Float[Tensor, "b p h w"]) -> Float[Tensor, "b q h2 w2"]:
        kept = x if self.project is None else self.project(x)
        return relu(self.second(relu(self.first(x))) + kept)


class ResNet(nn.Module):
    """A small ResNet: `blocks` blocks in each of the `stages` stages of width p, 2p, 4p, …

    shape: (C, H, W) of the pictures. `features` is the length of z, `grid` the rows and columns of the map.
    """

    def __init__(self, shape, g: torch.Generator, width: int = 32, blocks: int = 1, stages: int = 3):
        super().__init__()
        before, h, w = shape
        stems = []
        while (halve := max(h, w) > SMALL and min(h, w) > 3) or not stems:
            stems.append(Convolution(g, before, width, 4, 2) if halve else Convolution(g, before, width, 3))
            before, h, w = width, h // (1 + halve), w // (1 + halve)
        self.stem: Any = nn.ModuleList(stems)
        layers = []
        for stage in range(stages):
            for block in range(blocks):
                after = width * 2**stage
                layers.append(Block(g, before, after, 2 if stage and not block else 1))
                before = after
        self.layers: Any = nn.ModuleList(layers)
        self.features, self.grid = before, self.grid_of(*shape[1:])

    def grid_of(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of the map of pictures of h × w pixels."""
        for stem in self.stem:
            h, w = h // stem.stride, w // stem.stride
        for layer in self.layers:
            h, w = -(-h // layer.first.stride), -(-w // layer.first.stride)
        return h, w

    def map(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h2 w2"]:
        """The last stage."""
        x = x.contiguous(memory_format=torch.channels_last)  # four times as fast as rows of channels on a CPU
        for stem in self.stem:
            x = relu(stem(x))
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """z: the mean over the places."""
        return self.map(x).mean((2, 3))


class ViT(nn.Module):
    """Tokens of patches; pre-norm blocks. Raises UsageError, naming the sizes that do, if a patch does not divide."""

    def __init__(self, shape, g: torch.Generator, width: int = 128, depth: int = 4, heads: int = 4, patch: int = 4):
        super().__init__()
        self.shape, self.patch, self.features = tuple(shape), patch, width
        self.grid = patches(shape, patch)
        self.W, self.b = normal(g, width, shape[0] * patch**2), nn.Parameter(torch.zeros(width))
        self.places = normal(g, self.grid[0] * self.grid[1], width)
        self.blocks = Blocks(width, depth, heads, g, causal=False)

    def tokens(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l w"]:
        """One token a patch, with its place, before the blocks."""
        return linear(patchify(x, self.patch), self.W, self.b) + self.places

    def map(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h2 w2"]:
        """The tokens after the blocks, at their places."""
        return self.blocks(self.tokens(x)).transpose(1, 2).unflatten(2, self.grid)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """z: the mean of the tokens."""
        return self.blocks(self.tokens(x)).mean(1)


def patches(shape, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of side `patch` in pictures (C, H, W), or UsageError with the sides that divide."""
    _, height, width = shape
    if patch < 1 or height % patch or width % patch:
        common = math.gcd(height, width)
        allowed = ", ".join(str(p) for p in range(1, common + 1) if common % p == 0)
        raise UsageError(
            f"patch = {patch} does not divide pictures of {height}x{width}; allowed: {allowed} (option --patch), or "
            "another --size."
        )
    return height // patch, width // patch


def patchify(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b l cpp"]:
    """Patches row by row, each flattened as (channel, row, column)."""
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: Float[Tensor, "b l cpp"], shape, patch: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `patchify`."""
    c, h, w = shape
    cut = tokens.reshape(len(tokens), h // patch, w // patch, c, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), c, h, w)


def pooled(map: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b f"]:
    """Means over a grid of cells × cells places, flattened: where something is seen counts, not only what."""
    h, w = map.shape[2:]
    return adaptive_avg_pool2d(map, (min(cells, h), min(cells, w))).flatten(1)


class MLP(nn.Module):
    """A head: layers of `sizes[1:]` units on `sizes[0]`, BN and ReLU between, and BN without γ and β after if asked.

    The last layer has a bias b unless BN follows, which would cancel it: its gradient would be rounding noise, which
    Adam scales up.
    """

    def __init__(self, g: torch.Generator, *sizes: int, last_norm: bool = False):
        super().__init__()
        self.W = nn.ParameterList(he(g, after, before) for before, after in zip(sizes, sizes[1:]))
        self.b = None if last_norm else nn.Parameter(torch.zeros(sizes[-1]))
        self.norms = nn.ModuleList(BatchNorm(h) for h in sizes[1:-1])
        self.last = BatchNorm(sizes[-1], affine=False) if last_norm else None

    def forward(self, z: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        for W, norm in zip(list(self.W)[:-1], self.norms):
            z = relu(norm(linear(z, W)))
        z = linear(z, list(self.W)[-1], self.b)
        return z if self.last is None else self.last(z)


def build(kind: str, shape, g: torch.Generator, width: int, depth: int, patch: int = 4) -> ResNet | ViT:
    """The encoder of a Config: "resnet" of `depth` blocks a stage, or "vit" of `depth` blocks, whose heads have 32
    columns, or the next more that divide the width."""
    if kind == "resnet":
        return ResNet(shape, g, width, depth)
    if kind != "vit":
        raise unknown("encoder", kind, ["resnet", "vit"])
    heads = next(h for h in range(max(1, width // 32), 0, -1) if width % h == 0)
    return ViT(shape, g, width, depth, heads, patch)
