r"""Pre-norm transformer blocks, with a cache of keys and values for generation.

A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (attention).
A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2: norm before each branch, a last
norm, and the initial weights).
J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021 (rotary attention).

Attention of queries Q over keys K and values V, in each of H heads of d = w/H columns:

    Attention(Q, K, V) = softmax(Q K^T / \sqrt d + M) V,     M_{ts} = 0 if s ≤ t, else −∞      (1)

(M is left out where attention is not causal). A block has two branches that are added to the stream h:

    h ← h + W_o Attention(W_q z, W_k z, W_v z),    z = LayerNorm(h)                            (2)
    h ← h + W_2 GELU(W_1 z + b_1) + b_2,           z = LayerNorm(h)                            (3)

and LayerNorm is applied once more after the L blocks. At the start biases are zero and weights

    N(0, 0.02²),     of W_o and W_2  N(0, 0.02²/2L)                                            (4)

so that the 2L branches together add no more to the stream's variance when there are more of them.

Where tokens have places, attention can be told how far apart they are. Column i of the first half of a query and
column i of its second half are turned by the angle a_i of its place, and keys likewise by theirs,

    (q_i, q_{i+d/2}) ← (q_i \cos a_i − q_{i+d/2} \sin a_i,  q_i \sin a_i + q_{i+d/2} \cos a_i)    (5)

so that QK^T depends on differences of angles alone: with a_i = ω_i · place, on offsets. Place may be a row and a
column: half of the frequencies ω_i then belong to either.

When tokens come one by one, keys and values of those before are kept, and a token costs O(t) and not O(t²).

| symbol | shape | here |
|---|---|---|
| h | (b, t, w) | the stream: b sequences of t tokens, width w |
| Q, K, V | (b, H, t, d) | queries, keys and values by head |
| W_q, W_k, W_v | (3w, w) | one matrix `W_qkv`; biases b_q, b_v |
| W_1, W_2 | (4w, w), (w, 4w) | the two layers of eq. (3) |
| cache | (L, b, H, length, d) | keys, and values, of the tokens seen so far |

Differs from the papers: dropout is keyed by seed and step and falls on the branches (and on what the caller passes
through it), never inside of eq. (1); GELU is the tanh form, as GPT-2 computes it; keys have no bias unless they are
turned: it would change nothing (the softmax cancels it), so that its gradient would be rounding noise, which Adam
scales up. With eq. (5) the biases b_q and b_k are what lets a head look at one offset, whatever the tokens hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError

STD = 0.02  # of initial weights, eq. (4)
SHORT = 256  # tokens up to which attention is written out where that is quicker

Turns = Float[Tensor, "2 *b 1 t d2"]  # cosine and sine of the d/2 angles of each token, the same for every head


def normal(g: torch.Generator, *shape: int, std: float = STD) -> nn.Parameter:
    """A parameter of the given shape, drawn from N(0, std²) by the generator g."""
    return nn.Parameter(std * torch.randn(*shape, generator=g))


@dataclass(frozen=True)
class Dropout:
    """Dropout of training step `step`: which entries fall is a function of (seed, step, stream) alone.

    The draw is made for the batch of all `world` processes, of which process `rank` has an equal slice.
    """

    rate: float
    seed: int
    step: int
    rank: int = 0
    world: int = 1

    def __call__(self, h: Float[Tensor, "b *rest"], stream: str) -> Float[Tensor, "b *rest"]:
        """h with a share `rate` of its entries at zero and the others scaled up by 1/(1 − rate)."""
        g, b = generator(self.seed, self.step, f"dropout {stream}", h.device), len(h)
        drawn = torch.rand(b * self.world, *h.shape[1:], generator=g, device=h.device)
        return torch.where(drawn[b * self.rank : b * (self.rank + 1)] >= self.rate, h / (1 - self.rate), 0)


class Cache:
    """Keys and values of the first `position` tokens of b sequences, in memory for `length` of them.

    Memory is allocated once, 2·L·b·H·length·d numbers. `Blocks.cache` makes one that fits.
    """

    def __init__(
        self, layers: int, b: int, heads: int, length: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ):
        self.keys: Float[Tensor, "L b H length d"]
        self.keys = torch.zeros(layers, b, heads, length, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.position = 0

    @property
    def length(self) -> int:
        """Tokens that there is room for."""
        return self.keys.shape[3]

    def reset(self) -> None:
        """Forget all tokens; the memory stays."""
        self.position = 0

    def select(self, rows: Int[Tensor, " c"]) -> Cache:
        """A cache of the sequences `rows` of this one, in that order; a row may come several times or not at all."""
        layers, _, heads, length, d = self.keys.shape
        new = Cache(layers, len(rows), heads, length, d, self.keys.dtype, self.keys.device)
        t = new.position = self.position
        new.keys[:, :, :, :t], new.values[:, :, :, :t] = self.keys[:, rows, :, :t], self.values[:, rows, :, :t]
        return new

    def append(
        self, layer: int, k: Float[Tensor, "b H t d"], v: Float[Tensor, "b H t d"]
    ) -> tuple[Float[Tensor, "b H s d"], Float[Tensor, "b H s d"]]:
        """Write layer `layer` of the next t tokens; keys and values of all s = position + t. `position` stays."""
        start, stop = self.position, self.position + k.shape[2]
        if stop > self.length:
            raise UsageError(f"{stop} tokens do not fit; allowed: the cache's {self.length} (ask for a longer one).")
        self.keys[layer, :, :, start:stop], self.values[layer, :, :, start:stop] = k, v
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]


def attention(
    q: Float[Tensor, "b H t d"], k: Float[Tensor, "b H s d"], v: Float[Tensor, "b H s d"], causal: bool = False
) -> Float[Tensor, "b H t d"]:
    """Eq. (1), with M if causal (then s = t): PyTorch's, but for short sequences in bf16 on a CPU, where the gradient
    of PyTorch's takes up to ten times as long as that of the products written out."""
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and k.shape[2] <= SHORT
    if not slow:
        return scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~causal_mask(k.shape[2], 0, q.device), -math.inf)
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """The branch of eq. (2) without its norm."""

    def __init__(self, width: int, heads: int, layers: int, g: torch.Generator, causal: bool, rotary: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.W_qkv = normal(g, 3 * width, width)
        self.b_q, self.b_v = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.b_k = nn.Parameter(torch.zeros(width)) if rotary else None
        self.W_o = normal(g, width, width, std=STD / math.sqrt(2 * layers))
        self.b_o = nn.Parameter(torch.zeros(width))

    def forward(
        self, z: Float[Tensor, "b t w"], cache: Cache | None = None, layer: int = 0, turns: tuple | None = None
    ) -> Float[Tensor, "b t w"]:
        """Attention of t tokens over themselves and those in the cache, which takes them in as layer `layer`.

        turns: of the queries and of the keys, for eq. (5).
        """
        b, t, w = z.shape
        bias = torch.cat([self.b_q, torch.zeros_like(self.b_q) if self.b_k is None else self.b_k, self.b_v])
        qkv = linear(z, self.W_qkv, bias).view(b, t, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, H, t, d)
        if turns is not None:
            q, k = turned(q, turns[0]), turned(k, turns[1])
        before, dtype = 0, q.dtype
        if cache is not None:  # in the cache's precision, which may be half of the weights'
            before, q = cache.position, q.to(cache.keys.dtype)
            k, v = cache.append(layer, k, v)
        if not self.causal or t == 1:  # one token sees all that there are
            a = attention(q, k, v)
        elif not before:
            a = attention(q, k, v, causal=True)
        else:
            a = scaled_dot_product_attention(q, k, v, causal_mask(t, before, z.device))
        return linear(a.transpose(1, 2).reshape(b, t, w).to(dtype), self.W_o, self.b_o)


class MLP(nn.Module):
    """The branch of eq. (3) without its norm."""

    def __init__(self, width: int, layers: int, g: torch.Generator):
        super().__init__()
        self.W_1, self.b_1 = normal(g, 4 * width, width), nn.Parameter(torch.zeros(4 * width))
        self.W_2 = normal(g, width, 4 * width, std=STD / math.sqrt(2 * layers))
        self.b_2 = nn.Parameter(torch.zeros(width))

    def forward(self, z: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        """Each token by itself."""
        return linear(gelu(linear(z, self.W_1, self.b_1), approximate="tanh"), self.W_2, self.b_2)


class Block(nn.Module):
    """Eqs. (2) and (3)."""

    def __init__(self, width: int, heads: int, layers: int, g: torch.Generator, causal: bool, rotary: bool):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, layers, g, causal, rotary)
        self.mlp = MLP(width, layers, g)

    def forward(
        self, h: Float[Tensor, "b t w"], layer: int, cache: Cache | None = None, dropout: Dropout | None = None,
        turns: tuple | None = None,
    ) -> Float[Tensor, "b t w"]:  # fmt: skip
        """Block number `layer`, which names its place in the cache and its streams of dropout."""
        a = self.attention(self.norm_1(h), cache, layer, turns)
        h = h + (dropout(a, f"attention {layer}") if dropout else a)
        m = self.mlp(self.norm_2(h))
        return h + (dropout(m, f"mlp {layer}") if dropout else m)


class Blocks(nn.Module):
    """L = `depth` blocks and the last norm: from a stream (b, t, w) to a stream (b, t, w).

    What goes in (embeddings of tokens and positions) and what is read off (heads) is the caller's. Initial weights are
    drawn from the generator g, eq. (4). With rotary = True every call names the angles of eq. (5). Raises UsageError if
    `heads` does not divide `width`, or if a head's columns are to be turned in pairs and are odd in number.
    """

    def __init__(
        self, width: int, depth: int, heads: int, g: torch.Generator, causal: bool = True, rotary: bool = False
    ):
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise UsageError(f"{name} = {value} is impossible; allowed: at least 1.")
        if width % heads:
            raise UsageError(f"width = {width} cannot be shared by heads = {heads}; choose a multiple of {heads}.")
        if rotary and width // heads % 2:
            raise UsageError(f"{width // heads} columns a head cannot be turned in pairs; choose an even width/heads.")
        self.width, self.heads, self.causal, self.rotary = width, heads, causal, rotary
        self.layers = nn.ModuleList(Block(width, heads, depth, g, causal, rotary) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, h: Float[Tensor, "b t w"], cache: Cache | None = None, dropout: Dropout | None = None,
        angles: tuple[Float[Tensor, "*b t d2"], Float[Tensor, "*b t d2"]] | None = None,
    ) -> Float[Tensor, "b t w"]:  # fmt: skip
        """All blocks and the last norm. With a cache, h holds the tokens after those in it, and they are added to it.

        angles: those of eq. (5) for the t queries and keys, d2 = d/2 of them a token; given if and only if rotary.
        Raises UsageError if they do not fit into the cache, or if attention is not causal: then there is no cache.
        """
        if (angles is None) == self.rotary:
            got, allowed = ("no angles", "angles") if self.rotary else ("angles", "none")
            raise UsageError(f"{got} given with rotary = {self.rotary}; allowed: {allowed}.")
        if cache is not None and not self.causal:
            raise UsageError("a cache is given but attention is not causal; allowed: causal = True, or no cache.")
        turns = None if angles is None else tuple(torch.stack([a.cos(), a.sin()]).unsqueeze(-3) for a in angles)
        for l, block in enumerate(self.layers):
            h = block(h, l, cache, dropout, turns)
        if cache is not None:
            cache.position += h.shape[1]
        return self.norm(h)

    def cache(self, b: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for b sequences of up to `length` tokens, in the weights' dtype unless another is named."""
        p = self.norm.weight
        d = self.width // self.heads
        return Cache(len(self.layers), b, self.heads, length, d, dtype or p.dtype, p.device)


def turned(q: Float[Tensor, "b H t d"], turns: Turns) -> Float[Tensor, "b H t d"]:
    """Eq. (5)."""
    cos, sin = turns.to(q.dtype)
    first, second = q.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def causal_mask(t: int, before: int, device: torch.device) -> Bool[Tensor, "t s"]:
    """True where one of t tokens may look, s ≤ t of eq. (1): the `before` tokens ahead of them, and up to itself."""
    return torch.ones(t, before + t, dtype=torch.bool, device=device).tril(before)
