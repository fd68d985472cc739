r"""Jigsaw: the tiles of a picture come in another order, and the network says in which.

M. Noroozi and P. Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV 2016.

A picture is divided into T = n × n cells, and from a random place inside each a tile x^{(t)} is cut, smaller than the
cell, so that edges do not run on from tile to tile. Each tile is brought to mean 0 and deviation 1 by itself,

    \tilde x^{(t)} = \frac{x^{(t)} − \bar x^{(t)}}{\sqrt{var x^{(t)} + ε}}                    (1)

(brightness would tell neighbours). With π_1 … π_P permutations, p drawn for each picture, f the encoder, the same for
all tiles, and F a small network on all their features together,

    L = −\log softmax_p F( f(\tilde x^{(π_p(1))}), …, f(\tilde x^{(π_p(T))}) )                (2)

which is \ln P where nothing can be told. Permutations that are alike would be told apart by two tiles. They are chosen
one by one, each as far as can be from the nearest of those before, in the number of places where they differ:

    π_{p+1} = \arg\max_π \min_{q ≤ p} d(π, π_q),        d(π, π') = \#\{t : π(t) ≠ π'(t)\}     (3)

The first, and which one where several are as far, follow from the seed.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, or wide crops of them with other colours |
| x^{(t)} | (b, T, C, h, w) | tiles, row by row |
| π | (P, T) | `permutations`, a buffer |
| F | (b, P) | logits |

Differs from the paper: tiles of a few pixels in place of 64; AdamW in place of SGD; (3) takes the greatest least
distance, as the paper's text asks, where its algorithm takes the greatest mean.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig
from ptheta.selfsup.views import Preset

CELL = 4  # pixels, the smallest side of a cell
EPSILON = 1e-2  # of eq. (1): a tile of one colour stays one, and its noise is not blown up


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of the puzzle and of its training."""

    encoder: Literal["resnet"] = "resnet"
    """The encoder that is learned. It takes tiles and whole pictures, which a ViT, with its fixed places, does not."""
    grid: Annotated[int, Between(2, 3)] = 3
    """n of the n × n cells."""
    gap: Annotated[float, Between(0, 0.5)] = 0.15
    """Share of a cell's sides by which its tile is smaller."""
    permutations: Annotated[int, Between(2, 10_000)] = 24
    """P, at most the number of orders there are: 24 for a grid of 2, 362,880 for one of 3."""
    hidden: Annotated[int, Between(1, 2**16)] = 256
    """Hidden units of F."""


def orders(n: int) -> Int[Tensor, "f n"]:
    """All n! permutations of 0 … n−1: n−1 put at each place of those of the others."""
    found = torch.zeros(1, 0, dtype=torch.int8)
    for new in range(n):
        at = torch.full((len(found), 1), new, dtype=torch.int8)
        found = torch.cat([torch.cat([found[:, :i], at, found[:, i:]], 1) for i in range(new + 1)])
    return found


@functools.lru_cache(maxsize=8)
def far_apart(tiles: int, count: int, seed: int) -> Int[Tensor, "p t"]:
    """π of eq. (3): `count` permutations of `tiles` things. Raises UsageError where there are fewer."""
    if not 2 <= count <= math.factorial(tiles):
        raise UsageError(
            f"permutations = {count} is impossible for {tiles} tiles; allowed: 2 to {math.factorial(tiles):,}, as many "
            "orders as there are (options --permutations, --grid)."
        )
    every = orders(tiles)
    every = every[torch.randperm(len(every), generator=generator(seed, 0, "jigsaw permutations"))]
    chosen, least = [0], torch.full((len(every),), tiles + 1)
    while len(chosen) < count:
        least = torch.minimum(least, (every != every[chosen[-1]]).sum(1))
        chosen.append(int(least.argmax()))  # the first of the farthest; a chosen one has least 0
    return every[chosen].long()


def cut(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b t2 2"], grid: int, gap: float) -> Float[Tensor, "b t c h2 w2"]:
    """x^{(t)}, row by row. u, in [0, 1): where a tile lies in its cell, and in the last row where the grid lies.

    A grid that does not fill the picture is moved by what is left over.
    """
    b, c, H, W = x.shape
    cell, tile = sides(H, W, grid, gap)
    at = torch.arange(grid, device=x.device)

    def places(axis: int, side: int) -> Int[Tensor, "b t"]:
        first = at.repeat_interleave(grid) if axis == 0 else at.repeat(grid)
        whole = (u[:, -1:, axis] * (side - grid * cell[axis] + 1)).long()
        return whole + first * cell[axis] + (u[:, :-1, axis] * (cell[axis] - tile[axis] + 1)).long()

    rows = places(0, H)[:, :, None] + torch.arange(tile[0], device=x.device)  # (b, t, h2)
    columns = places(1, W)[:, :, None] + torch.arange(tile[1], device=x.device)
    of = torch.arange(b, device=x.device)[:, None, None, None]
    return x[of, :, rows[:, :, :, None], columns[:, :, None, :]].permute(0, 1, 4, 2, 3)


def sides(height: int, width: int, grid: int, gap: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a cell, and of a tile, in pixels."""
    cell = height // grid, width // grid
    return cell, (cell[0] - round(gap * cell[0]), cell[1] - round(gap * cell[1]))


def levelled(tiles: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """Eq. (1), over all the pixels and channels of a tile."""
    over = (2, 3, 4)
    var, mean = torch.var_mean(tiles, over, correction=0, keepdim=True)
    return (tiles - mean) / (var + EPSILON).sqrt()


def light(p: Preset) -> Preset:
    """Views that leave most of a picture there: wide crops, mirrors and colours, at times none."""
    return dataclasses.replace(p, crop=(max(p.crop[0], 0.6), 1.0), blur=0.0, erase=0.0, solarise=0.0)


class Jigsaw(Encoder):
    """f, F and eq. (2). Raises UsageError for pictures too small for the grid, and for more orders than there are."""

    name = "jigsaw"
    permutations: Tensor

    def __init__(
        self, shape, seed: int = 0, data: str = "", grid: int = 3, gap: float = 0.15, permutations: int = 24,
        hidden: int = 256, **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "grid": grid, "gap": gap, "permutations": permutations,
            "hidden": hidden, **encoder,
        }  # fmt: skip
        _, height, width = shape
        if min(height, width) < CELL * grid:
            smaller = f", or --grid 2 (from {2 * CELL} on)" if grid > 2 and min(height, width) >= 2 * CELL else ""
            raise UsageError(
                f"pictures of {height}x{width} are too small for {grid}x{grid} tiles; allowed: sides from "
                f"{CELL * grid} on{smaller}."
            )
        if encoder.get("encoder", "resnet") != "resnet":
            raise UsageError("encoder = vit takes pictures of one size alone, and tiles are smaller; allowed: resnet.")
        g = self.set_up(shape, seed, data, **encoder)
        self.views, self.grid, self.gap = light(self.views), grid, gap
        self.register_buffer("permutations", far_apart(grid**2, permutations, seed).clone())
        self.head = MLP(g, grid**2 * self.encoder.features, hidden, permutations)

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """L of eq. (2) of each picture; accuracy: the share of orders that are told."""
        g, b, T = generator(self.seed, step, "tiles", x.device), len(x) * self.world, self.grid**2
        u = self.mine(torch.rand(b, T + 1, 2, generator=g, device=x.device))
        p = self.mine(torch.randint(len(self.permutations), (b,), generator=g, device=x.device))
        tiles = levelled(cut(self.view(x, step, "view"), u, self.grid, self.gap))
        logits = self.logits(tiles.gather(1, self.permutations[p][:, :, None, None, None].expand_as(tiles)))
        return cross_entropy(logits, p, reduction="none"), {"accuracy": (logits.argmax(1) == p).float().mean()}

    def logits(self, tiles: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b p"]:
        """log softmax of eq. (2) + const, of tiles in the order in which they come."""
        z = self.encoder(tiles.flatten(0, 1))
        return self.head(z.view(len(tiles), -1)).float()


Model = Jigsaw


class Method(Pretraining):
    """min over θ of the mean of L, eq. (2)."""

    Config, Model = Config, Jigsaw
    steps = 10_000
