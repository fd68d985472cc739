r"""SAM's mask decoder: tokens and a picture's map look at each other twice, and tokens become masks.

A. Kirillov et al., "Segment Anything", ICCV 2023 (the box "mask decoder" of figure 4; figure 14).

The tokens t are one that will tell how good the masks are, four that will become masks, and those of the prompt. With
z the picture's map, to which the prompt's map is added, and γ its places, a layer is

    t ← LN(t + Attention(t + t_0, t + t_0, t))          (in the first layer Attention(t, t, t), and nothing is added)
    t ← LN(t + Attention(t + t_0, z + γ, z))            tokens look at the map
    t ← LN(t + W_2 ReLU(W_1 t))
    z ← LN(z + Attention(z + γ, t + t_0, t))            the map looks at tokens                                  (1)

with t_0 the tokens as they came. After two layers tokens look at the map once more,

    t ← LN(t + Attention(t + t_0, z + γ, z))                                                                     (2)

and with U the map at four times its side, by two transposed convolutions, mask i and what its IoU will be are

    m_i = ⟨MLP_i(t_i), U⟩,    (s_0, …, s_3) = MLP(t_{IoU})                                                       (3)

Mask 0 is for prompts that leave no doubt, masks 1 to 3 for those that do. With `scoring` s is told what masks look
like, too.

The tokens are few and the map's places many, so that projections of the map are not made. With head h of a query
q = W_q t, of length e, and of keys W_k (z + γ),

    ⟨q_h, (W_k (z + γ))_h⟩ = ⟨W_{k,h}^T q_h, z⟩ + ⟨W_{k,h}^T q_h, γ⟩        (b_k adds the same to all, and is left out)
    \sum_s p_s (W_v z_s + b_v)_h = W_{v,h} \sum_s p_s z_s + b_{v,h}                                             (4)

where tokens look at the map, and where the map looks at tokens, likewise

    ⟨(W_q (z + γ) + b_q)_h, k_h⟩ = ⟨W_{q,h}^T k_h, z + γ⟩ + ⟨b_{q,h}, k_h⟩
    W_o \bigoplus_h \sum_s p_s v_{s,h} + b_o = \sum_{h,s} p_{h,s} (W_{o,h} v_{s,h} + b_o / H)                    (5)

A transposed convolution of stride and side 2 is one product, W^T z at each cell, whose 4 outputs are the cell's four
quarters. All that comes after looks at one place at a time: it is done for a few places after the other, whose quarters
are put beside each other only in the masks.

| symbol | shape | here |
|---|---|---|
| t | (b, 5 + n, c) | c = 256 |
| z | (b, L, c), or (1, L, c) while it is the same for all prompts | L = h w |
| U | (b, L, 4, 4, c / 8) | quarters of quarters, cell by cell |
| m | (b, k, 4 h, 4 w) | logits |
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, scaled_dot_product_attention

from ptheta.sam.fine import at_place, wide
from ptheta.sam.image_encoder import LayerNorm2d
from ptheta.sam.propagation import propagated
from ptheta.sam.scoring import Scoring

MASKS = 4
PLACES = 1024  # of maps that are upscaled at a time


class Attention(nn.Module):
    """Of H heads; `narrower`: by what queries, keys and values are narrower than tokens."""

    def __init__(self, width: int, heads: int, narrower: int = 1):
        super().__init__()
        inner, self.heads = width // narrower, heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)
        self.root = (inner // heads) ** 0.5

    def of_heads(self, project: nn.Linear, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t H e"]:
        """W x + b, by head."""
        return project(x).unflatten(2, (self.heads, -1))

    def forward(self, q: Float[Tensor, "b t c"], k: Float[Tensor, "b t c"], v: Float[Tensor, "b t c"]) -> Tensor:
        """Among tokens."""
        parts = ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        q, k, v = (self.of_heads(project, x).transpose(1, 2) for project, x in parts)
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def of_map(self, t: Float[Tensor, "b t c"], z: Float[Tensor, "b L c"], gamma: Float[Tensor, "L c"]) -> Tensor:
        """Tokens look at a map: eq. (4), (b, t, c)."""
        b, n, _ = t.shape
        W_k, W_v = (project.weight.unflatten(0, (self.heads, -1)) for project in (self.k_proj, self.v_proj))
        q = torch.einsum("btHe,Hec->bHtc", self.of_heads(self.q_proj, t) / self.root, W_k).flatten(1, 2)
        p = products(q, z, gamma).softmax(2)
        seen = (p @ z).unflatten(1, (self.heads, n))  # (b, H, t, c)
        out = torch.einsum("bHtc,Hec->btHe", seen, W_v).flatten(2) + self.v_proj.bias
        return self.out_proj(out)

    def of_tokens(
        self, z: Float[Tensor, "b L c"], gamma: Float[Tensor, "L c"], at: Float[Tensor, "b t c"],
        t: Float[Tensor, "b t c"],
    ) -> Float[Tensor, "b L c"]:  # fmt: skip
        """z and what a map sees when it looks at tokens t that are at `at`: eq. (5)."""
        W_q = self.q_proj.weight.unflatten(0, (self.heads, -1))
        W_o = self.out_proj.weight.unflatten(1, (self.heads, -1))
        k = self.of_heads(self.k_proj, at) / self.root
        v = torch.einsum("btHe,cHe->bHtc", self.of_heads(self.v_proj, t), W_o) + self.out_proj.bias / self.heads
        s = products(torch.einsum("btHe,Hec->bHtc", k, W_q).flatten(1, 2), z, gamma).unflatten(1, (self.heads, -1))
        own = torch.einsum("btHe,He->bHt", k, self.q_proj.bias.unflatten(0, (self.heads, -1)))
        p = (s + own[..., None]).softmax(2).flatten(1, 2)  # (b, H t, L), one for each head and place
        return torch.baddbmm(z.expand(len(t), -1, -1), p.mT, v.flatten(1, 2))


def products(
    q: Float[Tensor, "b n c"], z: Float[Tensor, "b L c"], gamma: Float[Tensor, "L c"]
) -> Float[Tensor, "b n L"]:
    """⟨q, z + γ⟩."""
    if len(z) == 1:
        return q @ (z[0] + gamma).T
    return torch.baddbmm(q @ gamma.T, q, z.mT)


class TokenMLP(nn.Module):
    """W_2 ReLU(W_1 t)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, t: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return self.lin2(relu(self.lin1(t)))


class Layer(nn.Module):
    """Eq. (1)."""

    def __init__(self, width: int, heads: int, hidden: int, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, heads)
        self.cross_attn_token_to_image = Attention(width, heads, 2)
        self.cross_attn_image_to_token = Attention(width, heads, 2)
        self.mlp = TokenMLP(width, hidden)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, t: Tensor, z: Tensor, t0: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        t = self.norm1(self.self_attn(t, t, t) if self.first else t + self.self_attn(t + t0, t + t0, t))
        t = self.norm2(t + self.cross_attn_token_to_image.of_map(t + t0, z, gamma))
        t = self.norm3(t + self.mlp(t))
        return t, self.norm4(self.cross_attn_image_to_token.of_tokens(z, gamma, t + t0, t))


class TwoWay(nn.Module):
    """Eqs. (1) and (2)."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, hidden, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, heads, 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def between(self) -> list[Attention]:
        """All attention between tokens and map."""
        layers: list = list(self.layers)
        both = [(layer.cross_attn_token_to_image, layer.cross_attn_image_to_token) for layer in layers]
        return [attention for pair in both for attention in pair] + [self.final_attn_token_to_image]

    def forward(self, t0: Tensor, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        t = t0
        for layer in self.layers:
            t, z = layer(t, z, t0, gamma)
        return self.norm_final_attn(t + self.final_attn_token_to_image.of_map(t + t0, z, gamma)), z


class Head(nn.Module):
    """Three linear maps with ReLU between."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, t: Float[Tensor, "b c"]) -> Float[Tensor, "b k"]:
        first, second, last = self.layers
        return last(relu(second(relu(first(t)))))


class MaskDecoder(nn.Module):
    """Eqs. (1) to (3)."""

    def __init__(self, channels: int = 256, heads: int = 8, hidden: int = 2048, depth: int = 2, fine: bool = False):
        super().__init__()
        self.transformer = TwoWay(channels, heads, hidden, depth)
        self.iou_token, self.mask_tokens = nn.Embedding(1, channels), nn.Embedding(MASKS, channels)
        self.output_upscaling: nn.Sequential = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2), LayerNorm2d(channels // 4), nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2), nn.GELU(),
        )  # fmt: skip
        self.output_hypernetworks_mlps = nn.ModuleList(Head(channels, channels // 8) for _ in range(MASKS))
        self.iou_prediction_head = Head(channels, MASKS)
        self.scoring = Scoring() if fine else None

    def forward(
        self, image: Float[Tensor, "i c h w"], gamma: Float[Tensor, "h w c"], tokens: Float[Tensor, "b n c"] | None,
        dense: Float[Tensor, "j c h2 w2"], several: bool = True,
    ) -> tuple[Float[Tensor, "b k H W"], Float[Tensor, "b k"]]:  # fmt: skip
        """m and s: of masks 1 to 3 if `several` are wanted, else of mask 0.

        image: Maps of i pictures, of which each has b / i prompts that follow each other.
        gamma: γ of its places. tokens, dense: What the
        prompts say (`prompt_encoder`)."""
        t, z = self.looked(image, gamma, tokens, dense)
        which = slice(1, MASKS) if several else slice(0, 1)
        m, s = self.masks(t, z, image, which), self.ious(t)[:, which]
        return m, s if self.scoring is None else self.scoring(m, s)

    def looked(self, image: Tensor, gamma: Tensor, tokens: Tensor | None, dense: Tensor) -> tuple[Tensor, Tensor]:
        """t (b, 5 + n, c) and z (b, L, c) after eqs. (1) and (2)."""
        c = self.mask_tokens.weight.shape[1]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        b = max(len(image), len(dense)) if tokens is None else len(tokens)
        z = image[:, :c] if len(image) == 1 else image[:, :c].repeat_interleave(b // len(image), 0)
        z = (z + dense).flatten(2).transpose(1, 2)
        t = own.expand(b, -1, -1) if tokens is None else torch.cat([own.expand(b, -1, -1), tokens], 1)
        return self.transformer(t, z, gamma.flatten(0, 1))

    def ious(self, t: Float[Tensor, "b n c"]) -> Float[Tensor, "b 4"]:
        """s of eq. (3)."""
        return self.iou_prediction_head(t[:, 0])

    def masks(
        self, t: Float[Tensor, "b n c"], z: Float[Tensor, "b L c"], image: Float[Tensor, "i c h w"], which: slice
    ) -> Float[Tensor, "b k H W"]:
        """m of eq. (3), of some of the four; with finer maps they follow edges (`propagation`)."""
        heads = list(self.output_hypernetworks_mlps)[which]
        hyper = torch.stack([head(t[:, 1 + i]) for i, head in zip(range(MASKS)[which], heads)], 1)  # (b, k, c / 8)
        (b, k), (h, w) = hyper.shape[:2], image.shape[2:]
        c, g4, g2, K = wide(z.shape[2])
        fine = image.shape[1] > c
        finer = image[:, c : c + g4 + g2].flatten(2).transpose(1, 2)
        at_once = z.shape[1] if torch.is_grad_enabled() else max(1, PLACES // b)
        parts = zip(z.split(at_once, 1), finer.split(at_once, 1))
        m = torch.cat([hyper @ self.upscaled(part, own).flatten(1, 3).mT for part, own in parts], 2)
        m = m.view(b, k, h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(b, k, 4 * h, 4 * w)
        return propagated(m, at_place(image[:, -K:], 2)) if fine else m

    def upscaled(self, z: Float[Tensor, "b L c"], finer: Float[Tensor, "i L e"]) -> Float[Tensor, "b L 4 4 c8"]:
        """U, to which finer maps of the pictures (`fine`) are added where there are any."""
        up1, norm, _, up2, _ = self.output_upscaling
        c = z.shape[2]
        u = quarters(up1, z)  # pyright: ignore
        if finer.shape[2]:
            u = added(u, finer[..., :c].unflatten(2, (4, -1)))
        u = quarters(up2, gelu(norm.last(u)))  # pyright: ignore
        if finer.shape[2]:  # of so many numbers the gradient of GELU takes as long as all products
            return relu(added(u, finer[..., c:].unflatten(2, (4, 4, -1))))
        return gelu(u)


def added(u: Float[Tensor, "b *q"], finer: Float[Tensor, "i *q"]) -> Float[Tensor, "b *q"]:
    """What belongs to each of i pictures, to what belongs to its b / i prompts."""
    return (u.unflatten(0, (len(finer), -1)) + finer[:, None]).flatten(0, 1)


def quarters(up: nn.ConvTranspose2d, z: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 4 o"]:
    """A transposed convolution of stride and side 2, at each cell: its upper left, upper right, lower left and lower
    right quarter."""
    W = up.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 · 2 · o, c)
    out = linear(z, W, None if up.bias is None else up.bias.repeat(4))
    return out.unflatten(-1, (4, -1))
