r"""SAM's image encoder: a plain ViT whose attention is local in most blocks and global in four.

A. Kirillov et al., "Segment Anything", ICCV 2023 (the box "image encoder" of figure 4; appendix A).
Y. Li, H. Mao, R. Girshick and K. He, "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022.
Y. Li et al., "MViTv2: Improved Multiscale Vision Transformers for Classification and Detection", CVPR 2022
(decomposed relative positions).

A picture is cut into patches of P × P pixels, each of which becomes a token with a learned place. A block is

    x ← x + W_o Attention(LN(x)),    x ← x + W_2 GELU(W_1 LN(x))                                                 (1)

In windowed blocks tokens attend within windows of m × m of them; where m does not divide, zeros are added after LN,
which attend and are attended to. The attention of a query at (i, j) to a key at (i', j') is

    softmax( q·k / \sqrt d + q·R^h_{i−i'} + q·R^w_{j−j'} )                                                       (2)

with learned rows R^h, R^w for each difference of rows and of columns. The last map goes through a neck of two
convolutions without bias, each followed by LN over channels.

That sum need never be a matrix of L × L numbers beside the products q·k. With e_i the i-th unit vector,

    q·k + b^h_{i'} + b^w_{j'} = (q ⊕ b^h ⊕ b^w) · (k ⊕ e_{i'} ⊕ e_{j'})                                          (3)

is one product of longer queries and keys, which any fast attention takes; b^h and b^w are the query's own, times
\sqrt d as the whole will be divided by it.

| symbol | shape | here |
|---|---|---|
| x | (b, h, w, C) | tokens at their places |
| q, k, v | (n, H, L, d) | of n pictures or windows, H heads, L tokens |
| R^h, R^w | (2 m − 1, d), in global blocks (2 h − 1, d) | `rel_pos_h`, `rel_pos_w` |
| b^h, b^w | (n, H, L, rows), (n, H, L, columns) | |
| map | (b, 256, h, w) | what the mask decoder reads |

Names of parameters are those of the official checkpoints. Source: our own, judged by the official package and by
Hugging Face's on the same weights (`benchmarks/sam.py`, tests/sam).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, pad, scaled_dot_product_attention

from ptheta.sam.fine import Fine

EPSILON = 1e-6  # of every LN of the encoder
QUERIES = 512  # whose products with all keys are in memory at a time, where attention is written out


class LayerNorm2d(nn.Module):
    """LN over the channels of a map, at each place."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def last(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Of maps whose channels come last."""
        return layer_norm(x, self.weight.shape, self.weight, self.bias, EPSILON)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """One token a patch."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w c"]:
        P = self.proj.stride[0]
        b, c, H, W = x.shape
        cut = x.reshape(b, c, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return nn.functional.linear(cut, self.proj.weight.flatten(1), self.proj.bias)


def relative(R: Float[Tensor, "r d"], size: int) -> Float[Tensor, "size size d"]:
    """R_{i − i'} for all i, i' < size: rows of R, between which is interpolated if it was learned for another size."""
    if len(R) != 2 * size - 1:
        R = interpolate(R.T[None], size=2 * size - 1, mode="linear")[0].T
    i = torch.arange(size, device=R.device)
    return R[i[:, None] - i[None, :] + size - 1]


class Attention(nn.Module):
    """Eq. (2) by eq. (3), of all tokens of a map or window of `side` × `side` that it was learned for."""

    def __init__(self, width: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w c"]:
        n, h, w, c = x.shape
        q, k, v = self.qkv(x).view(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        at = q.unflatten(2, (h, w))
        rows = torch.einsum("nHijd,ikd->nHijk", at, relative(self.rel_pos_h, h).to(q.dtype)).flatten(2, 3)
        columns = torch.einsum("nHijd,jkd->nHijk", at, relative(self.rel_pos_w, w).to(q.dtype)).flatten(2, 3)
        plain = q.device.type == "cpu" and q.dtype == torch.float32 and not torch.is_grad_enabled()
        out = (written_out if plain else widened)(q, k, v, rows, columns)
        return self.proj(out.transpose(1, 2).reshape(n, h, w, c))


def widened(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Float[Tensor, "n H L d"]:
    """Eq. (2) by eq. (3). v is made as wide as q, or PyTorch takes no fast way."""
    (n, H, L, d), h, w = q.shape, rows.shape[-1], columns.shape[-1]
    spare = -(d + h + w) % 16
    key = torch.cat([torch.eye(h).repeat_interleave(w, 0), torch.eye(w).repeat(h, 1), torch.zeros(L, spare)], 1)
    key = key.to(q).expand(n, H, -1, -1)
    query = torch.cat([q, d**0.5 * rows, d**0.5 * columns, q.new_zeros(1, 1, 1, 1).expand(n, H, L, spare)], 3)
    wide = torch.cat([v, q.new_zeros(1, 1, 1, 1).expand(n, H, L, h + w + spare)], 3)
    return scaled_dot_product_attention(query, torch.cat([k, key], 3), wide, scale=d**-0.5)[..., :d]


def written_out(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Float[Tensor, "n H L d"]:
    """Eq. (2) as it stands, for so many queries at a time that their row of L products each stays near. In float32 on a
    processor it takes half as long as (3), of which two thirds are products with zeros."""
    (n, H, L, d), h, w = q.shape, rows.shape[-1], columns.shape[-1]
    q, k, v, rows, columns = (x.reshape(n * H, L, -1) for x in (q * d**-0.5, k, v, rows, columns))
    together, step = max(1, QUERIES // L), min(QUERIES, L)
    out, S = torch.empty_like(q), q.new_empty(together, step, L)
    for i in range(0, n * H, together):
        for j in range(0, L, step):
            at = slice(i, i + together), slice(j, j + step)
            part = S[: min(together, n * H - i), : min(step, L - j)]
            torch.add(rows[at][..., None], columns[at][..., None, :], out=part.view(*part.shape[:2], h, w))
            torch.baddbmm(part, q[at], k[at[0]].mT, out=part)
            torch.softmax(part, -1, out=part)
            torch.bmm(part, v[at[0]], out=out[at])
    return out.view(n, H, L, d)


def windows(x: Float[Tensor, "b h w c"], m: int) -> Float[Tensor, "n m m c"]:
    """Windows of m × m, row by row, with zeros below and to the right of what m does not divide."""
    b, h, w, c = x.shape
    x = pad(x, (0, 0, 0, -w % m, 0, -h % m))
    cut = x.view(b, x.shape[1] // m, m, x.shape[2] // m, m, c)
    return cut.transpose(2, 3).reshape(-1, m, m, c)


def whole(x: Float[Tensor, "n m m c"], h: int, w: int) -> Float[Tensor, "b h w c"]:
    """The inverse of `windows`."""
    m, c = x.shape[2:]
    rows, columns = -(-h // m), -(-w // m)
    x = x.view(-1, rows, columns, m, m, c).transpose(2, 3).reshape(-1, rows * m, columns * m, c)
    return x[:, :h, :w]


class MLP(nn.Module):
    """W_2 GELU(W_1 x)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return self.lin2(gelu(self.lin1(x)))


class Block(nn.Module):
    """Eq. (1). window: m, or 0 for global attention in maps of `side` × `side` tokens."""

    def __init__(self, width: int, heads: int, window: int, side: int):
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)
        self.attn, self.mlp = Attention(width, heads, window or side), MLP(width, 4 * width)

    def forward(
        self, x: Float[Tensor, "b h w c"], kept: Float[Tensor, "2 b"] | None = None
    ) -> Float[Tensor, "b h w c"]:
        z = self.norm1(x)
        if self.window:
            z = whole(self.attn(windows(z, self.window)), *x.shape[1:3])
        else:
            z = self.attn(z)
        if kept is None:
            x = x + z
            return x + self.mlp(self.norm2(x))
        attended, thought = kept[..., None, None, None]
        x = x + attended * z
        return x + thought * self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """size: Side of the pictures in pixels. Blocks in `everywhere` attend globally, the others in windows. fine: With
    the convolutions of `fine`, whose finer maps are behind the channels of the map."""

    def __init__(
        self, size: int, width: int, depth: int, heads: int, everywhere: tuple[int, ...], window: int, patch: int = 16,
        channels: int = 256, fine: bool = False,
    ):  # fmt: skip
        super().__init__()
        side = size // patch
        self.fine = Fine(width, channels, LayerNorm2d) if fine else None
        self.patch_embed = PatchEmbed(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, width))
        self.blocks = nn.ModuleList(Block(width, heads, 0 if i in everywhere else window, side) for i in range(depth))
        self.neck: nn.Sequential = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels),
        )  # fmt: skip

    def forward(
        self, x: Float[Tensor, "b 3 H W"], kept: Float[Tensor, "depth 2 b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The map of normalised pictures. kept: By what the two halves of each block are multiplied for each picture,
        if not by one: in training some are left out."""
        z, found = self.patch_embed(x) + self.pos_embed, []
        if self.fine is not None:
            own, found = self.fine.up(x)
            z = z + own
        for i, block in enumerate(self.blocks):
            z = block(z) if kept is None else block(z, kept[i])
        first, norm1, second, norm2 = self.neck
        z = norm1.last(nn.functional.linear(z, first.weight.flatten(1)))  # pyright: ignore
        z = norm2(conv2d(z.permute(0, 3, 1, 2), second.weight, padding=1))  # pyright: ignore
        return z if self.fine is None else self.fine.down(z, found)
