r"""Transformer: an autoregressive model of binary vectors to which the ordering is an input.

A. Pannatier, E. Courdier and F. Fleuret, "σ-GPTs: A New Approach to Autoregressive Models", ECML PKDD 2024.
A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

One token a variable. Token t says which variable was seen last and its value, and which one is asked for now:

    e_t = E[x_{o(t−1)}] + S[o(t−1)] + A[o(t)],          t = 1..n, with a start token for o(0)       (1)
    h_1, …, h_n = Blocks(e_1, …, e_n)                   causal: h_t sees e_1, …, e_t                (2)
    p(x_{o(t)} = 1 | x_{o(<t)}, o) = σ(w·h_t + b_{o(t)})                                            (3)
    \log p(x | o) = \sum_t \log p(x_{o(t)} | x_{o(<t)}, o)                                          (4)

As position and question are both in the token, any ordering o is read off the same weights. With ordering = "any" each
training vector gets an ordering of its own at each step, and the density is the mixture of K fixed ones:

    \min_θ  E_x E_o[−\log p(x | o)],                    o uniform over all n! orderings             (5)
    p(x) = \frac{1}{K} \sum_{k=1}^{K} p(x | o_k)                                                    (6)

Missing variables are then drawn exactly, whatever is observed: visit what is observed first,

    x_M ~ p(x_M | x_O, o),                              o = (O, M), each in the order of o_k        (7)

In a joint model of x and a class y, y is one more variable with one token: its values have rows of E, and

    p(y = c | x_{o(<t)}, o) = softmax_c(U h_t + b_y)    where o(t) = y                              (8)

XLNet (Yang et al. 2019) learns with all orderings too, but by two streams: one holds values, the other asks and sees
the first. That is twice the work; here a token does both, at the price that its state serves one question alone.

| symbol | shape | here |
|---|---|---|
| x | (b, n) | vectors of 0/1; in a joint model C of the columns are the one-hot y, the others x |
| v | (b, m) | values by variable: 0, 1, or 2 + y; m = n, or n − C + 1 in a joint model, where variable m − 1 is y |
| o | (m,) or (b, m) | ordering of all rows, or one a row |
| E, S, A | (3 + C, w), (m + 1, w), (m, w) | embeddings: values, variables seen, variables asked; last of E, S: start |
| w, U | (w,), (C, w) | output weights (`W_x`, `W_y`) |
| b | (n,) | output biases, by column: those of eq. (3), and b_y |

Where x is a picture, attention is rotary (eq. (5) of `nets/transformer.py`): a query is turned by row and column of the
variable asked, a key by those of the variable seen, so that heads tell near pixels from far ones before they know
anything else. On MNIST that is what makes learning fast: see docs/density.md.

Differs from the paper: values are bits; both positions are learned tables, which only start from sines (those of row
and column, where x is a picture and the ordering any); rotary attention for pictures; no curriculum from a fixed to
random orderings; the figure is an exact mixture, eq. (6), and not that of one ordering.

Expected: validation −log p of the digits 18.1 nats after 15 seconds on one core by
`ptheta train transformer --data digits --width 48 --depth 2 --batch-size 32 --learning-rate 0.006 --steps 500`;
of `binarized_mnist` 83.5 after an hour and a half of one core by the command of benchmarks/figures.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, logsigmoid, one_hot, pad

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive
from ptheta.density.joint import draw_class, label_columns
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.errors import UsageError, unknown
from ptheta.engine.method import Between
from ptheta.nets.transformer import Blocks, Cache, Dropout, normal

EMBEDDING = 0.1  # standard deviation of the three embeddings at the start; GPT-2's 0.02 learns small sets later
AT_ONCE = 2**21  # numbers in one activation (rows · tokens · width) of a pass without gradients
CACHED = 2**26  # numbers in the cache of keys and values while sampling


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of the transformer and of its training."""

    width: Annotated[int, Between(1, 2**16)] = 128
    """Width w of the stream; a multiple of `heads`."""
    depth: Annotated[int, Between(1, 1024)] = 6
    """Blocks."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Heads of attention, of width/heads columns each."""
    ordering: Literal["natural", "random", "any"] = "natural"
    """One order for all vectors, natural or drawn from the seed; any: a new one for each vector and step, eq. (5)."""
    orderings: Annotated[int, Between(1, 1024)] = 1
    """With ordering = any: orderings K over which the density is mixed, eq. (6)."""
    dropout: Annotated[float, Between(0, 0.99)] = 0.0
    """Share of entries dropped in training, of the embeddings and of each branch."""


class Transformer(Autoregressive):
    """p(x) of eqs. (1)–(8)."""

    name = "transformer"

    def __init__(
        self, n: int, width: int = 128, depth: int = 6, heads: int = 4, ordering: str = "natural", orderings: int = 1,
        dropout: float = 0.0, seed: int = 0, shape=None, label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "n": n, "width": width, "depth": depth, "heads": heads, "ordering": ordering, "orderings": orderings,
            "dropout": dropout, "seed": seed, "shape": shape, "label": label, "classes": classes,
        }  # fmt: skip
        self.n, self.shape, self.components = n, tuple(shape) if shape else None, orderings
        self.dropout, self.seed, self.label, self.classes = dropout, seed, label, classes
        check_label(n, label, classes)
        self.block = label_columns(n, classes, label)
        self.pixels = slice(classes, n) if label == "first" else slice(0, n - classes)
        m = self.m = self.n_x + (label != "none")
        g = generator(seed, 0, "transformer")
        self.any_order = ordering == "any"
        self.orders: Tensor
        self.angles: Tensor
        self.register_buffer("orders", draw_orders(self.n_x, label, ordering, orderings, seed))
        self.E = normal(g, 3 + classes, width, std=EMBEDDING)
        self.S, self.A = normal(g, m + 1, width, std=EMBEDDING), normal(g, m, width, std=EMBEDDING)
        if self.any_order and self.shape:
            F = waves(*self.shape)
            for table in (self.S, self.A):
                table.data[: len(F)] = F @ normal(g, F.shape[1], width, std=EMBEDDING / math.sqrt(F.shape[1])).data
        self.blocks = Blocks(width, depth, heads, g, rotary=self.shape is not None)
        if self.shape:
            self.register_buffer("angles", angles(*self.shape, m, width // heads // 2), persistent=False)
        self.W_x = normal(g, width)
        self.W_y = normal(g, classes, width) if classes else None
        self.b = nn.Parameter(torch.zeros(n))

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        """The columns in the order in which component k visits them; those of the label stand together."""
        column = torch.arange(self.n, device=self.device)
        x, y = column[self.pixels], column[self.block]
        return torch.cat([x[v : v + 1] if v < len(x) else y for v in self.variable_order(k).tolist()])

    def variable_order(self, k: int) -> Int[Tensor, " m"]:
        """o_k. With ordering = "any", `components` may be set higher than `orderings`: there is one for every k."""
        return self.orders[k] if k < len(self.orders) else any_order(self.m, self.seed, k).to(self.device)

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Output biases at the log-odds of the data; of the label, at the log of the same shares."""
        self.b.data.copy_(log_odds)
        self.b.data[self.block] = logsigmoid(log_odds[self.block])

    def values(self, x: Float[Tensor, "b n"]) -> tuple[Int[Tensor, "b m"], Bool[Tensor, " b"]]:
        """v: the value of each variable, and whether the label is one-hot (true where there is none)."""
        v, y = x[:, self.pixels].long(), x[:, self.block]
        if not self.classes:
            return v, torch.ones(len(x), dtype=torch.bool, device=x.device)
        return torch.cat([v, 2 + y.argmax(1, keepdim=True)], 1), y.sum(1) == 1

    def tokens(self, v: Int[Tensor, "b m"], o: Int[Tensor, "*b m"]) -> tuple[Tensor, Tensor, Tensor]:
        """The three indices of each token of eq. (1): value and variable seen last, variable asked. v goes along o."""
        return pad(v[:, :-1], (1, 0), value=2 + self.classes), pad(o[..., :-1], (1, 0), value=self.m), o

    def hidden(
        self, value: Int[Tensor, "b t"], seen: Int[Tensor, "*b t"], asked: Int[Tensor, "*b t"],
        cache: Cache | None = None, step: int | None = None,
    ) -> Float[Tensor, "b t w"]:  # fmt: skip
        """Eqs. (1) and (2) for t tokens that follow those in the cache; `step` keys the dropout of training."""
        dropout = None
        if self.training and self.dropout and step is not None:
            dropout = Dropout(self.dropout, self.seed, step, self.rank, self.world)
        e = embedding(value, self.E) + (embedding(seen, self.S) + embedding(asked, self.A))
        places = tuple(self.angles.to(self.dtype)[v] for v in (asked, seen)) if self.shape else None
        return self.blocks(dropout(e, "embedding") if dropout else e, cache, dropout, places)

    def conditionals(
        self, h: Float[Tensor, "b t w"], asked: Int[Tensor, "*b t"]
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t C"]]:
        """Logits of eq. (3) and log-probabilities of eq. (8) at each token; `asked` decides which of them counts."""
        bias = pad(self.b[self.pixels], (0, self.m - self.n_x))  # none for the label
        logit = (h @ self.W_x).to(self.dtype) + bias[asked]
        if self.W_y is None:
            return logit, logit.new_zeros(*logit.shape, 0)
        return logit, ((h @ self.W_y.t()).to(self.dtype) + self.b[self.block]).log_softmax(-1)

    def terms(
        self, h: Float[Tensor, "b t w"], asked: Int[Tensor, "*b t"], v: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t"]:
        """The terms of eq. (4): log p of the values v of the variables asked."""
        logit, log_class = self.conditionals(h, asked)
        term = logsigmoid(torch.where(v == 1, logit, -logit))
        if not self.classes:
            return term
        label = log_class.gather(-1, (v - 2).clamp(min=0)[..., None])[..., 0]
        return torch.where(asked == self.m - 1, label, term)

    def log_p(self, x: Float[Tensor, "b n"], o: Int[Tensor, "*b m"], step: int | None = None) -> Float[Tensor, " b"]:
        """log p(x | o), eq. (4); −∞ where the label is not one-hot."""
        v, possible = self.values(x)
        v = v.gather(1, o.expand(len(x), -1))
        log_p = self.terms(self.hidden(*self.tokens(v, o), step=step), o, v).sum(1)
        return torch.where(possible, log_p, -math.inf)

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x | o) in nats: with ordering = "any", of a new ordering for each row, keyed by seed and step."""
        o = self.fresh_orders(x, step) if self.any_order else self.orders[0]
        return -self.log_p(x, o, step)

    def fresh_orders(self, x: Float[Tensor, "b n"], step: int) -> Int[Tensor, "b m"]:
        """A uniform ordering for each row, keyed by seed and step.

        Neighbours that differ in the label alone share one: where the label of x is unknown, training sums p(x, y | o)
        over y, which is a density of x only under one o.
        """
        b = len(x)  # drawn for the batch of all processes, of which this one has an equal slice
        drawn = torch.rand(b * self.world, self.m, generator=generator(self.seed, step, "ordering"))
        row = torch.arange(b, device=x.device)
        if self.classes:
            same = (x[1:, self.pixels] == x[:-1, self.pixels]).all(1)
            row[1:].masked_fill_(same, 0)
            row = row.cummax(0).values  # the first of the rows with this x
        return drawn[b * self.rank : b * (self.rank + 1)].argsort(1).to(x.device)[row]

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, " b"]:
        rows = max(1, AT_ONCE // (self.m * self.blocks.width))
        return torch.cat([self.log_p(part, self.variable_order(k)) for part in x.split(rows)])

    def logits(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, "b n"]:
        """Eq. (3) for every column at once, given those before it in ordering k; in the label's: log p of eq. (8)."""
        o = self.variable_order(k)
        v = self.values(x)[0].gather(1, o.expand(len(x), -1))
        logit, log_class = self.conditionals(self.hidden(*self.tokens(v, o)), o)
        out = torch.empty_like(x)
        out[:, self.pixels] = logit[:, o.argsort()][:, : self.n_x]
        out[:, self.block] = log_class[:, int(o.argmax())]  # the label is the last of the variables
        return out

    # ------------------------------------------------------------ sampling

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """One token after another along ordering k, with cached keys and values; the label by the first of its u.

        With ordering = "any", what is observed comes first, eq. (7).
        """
        o = self.variable_order(k).expand(len(x), -1)
        if self.any_order:
            missing = ~self.by_variable(observed).gather(1, o)
            o = o.gather(1, missing.long().argsort(dim=1, stable=True))
        return self.walk(x, observed, u, o)

    @torch.no_grad()
    def walk(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], o: Int[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Clamped ancestral sampling in an ordering for each row: (x, log w) of eq. (3) of `autoregressive.py`."""
        rows = max(1, CACHED // (2 * len(self.blocks.layers) * self.m * self.blocks.width))
        parts = [self._walk(*part) for part in zip(*(each.split(rows) for each in (x, observed, u, o)), strict=True)]
        out, log_w = (torch.cat(each) for each in zip(*parts, strict=True)) if parts else (x, x.new_zeros(0))
        return out, log_w

    def _walk(self, x: Tensor, observed: Tensor, u: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        """`walk` for as many rows as one cache holds."""
        v, possible = self.values(x)
        v, known, u = v.gather(1, o), self.by_variable(observed).gather(1, o), self.by_variable(u).gather(1, o)
        first = int(known.all(0).long().cumprod(0).sum())  # what every row knows at the start is passed at once
        cache, log_w = self.blocks.cache(len(x), self.m), x.new_zeros(len(x))
        value, seen, asked = self.tokens(v, o)
        t = slice(0, min(first + 1, self.m))
        h = self.hidden(value[:, t], seen[:, t], asked[:, t], cache)
        log_w += self.terms(h, asked[:, t], v[:, t])[:, :first].sum(1)
        for d in range(first, self.m):
            if d > first:
                h = self.hidden(v[:, d - 1 : d], o[:, d - 1 : d], o[:, d : d + 1], cache)
            new = torch.where(known[:, d], v[:, d], self.draw(h[:, -1:], o[:, d : d + 1], u[:, d]))
            log_w += torch.where(known[:, d], self.terms(h[:, -1:], o[:, d : d + 1], new[:, None])[:, 0], 0)
            v[:, d] = new
        v = torch.empty_like(v).scatter_(1, o, v)
        new = torch.empty_like(x)
        new[:, self.pixels] = v[:, : self.n_x].to(x.dtype)
        if self.classes:
            new[:, self.block] = one_hot(v[:, -1] - 2, self.classes).to(x.dtype)
            impossible = observed[:, self.block].any(1) & ~possible
            log_w = torch.where(impossible, -math.inf, log_w)
        return torch.where(observed, x, new), log_w

    def by_variable(self, columns: Tensor) -> Tensor:
        """(b, n) by column -> (b, m) by variable: the label's first column stands for all of them."""
        return torch.cat([columns[:, self.pixels], columns[:, self.block][:, :1]], 1)

    def draw(self, h: Float[Tensor, "b 1 w"], asked: Int[Tensor, "b 1"], u: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The value of the variable asked: 1 if u < σ(logit), eq. (3); for the label the least y with u < P(Y ≤ y)."""
        logit, log_class = self.conditionals(h, asked)
        v = (u < logit[:, 0].sigmoid()).long()
        if not self.classes:
            return v
        return torch.where(asked[:, 0] == self.m - 1, 2 + draw_class(log_class[:, 0].exp(), u), v)

    @torch.no_grad()
    def embed(self, x: Any) -> Float[Tensor, "b w"]:
        """The mean over tokens of the last hidden layer, eq. (2), in the first ordering.

        The last variable of that ordering is asked for and never seen: the features do not depend on it.
        """
        x, o = self.check(x), self.orders[0]
        rows = max(1, AT_ONCE // (self.m * self.blocks.width))
        v = self.values(x)[0].gather(1, o.expand(len(x), -1))
        parts = [self.hidden(*self.tokens(part, o)).mean(1) for part in v.split(rows)]
        return torch.cat(parts)


def waves(height: int, width: int, count: int = 8) -> Float[Tensor, "n_x 4*count"]:
    """Sines and cosines (variance 1) of row and column of each pixel, of `count` wavelengths from 3 to 96 pixels.

    Positions that start as random images of them are alike where pixels are near: without, learning in any order
    stays for long at the model of independent variables.
    """
    row, col = torch.cartesian_prod(torch.arange(height), torch.arange(width)).t()
    frequency = 2 * math.pi / wavelengths(count)
    angle = torch.cat([row[:, None] * frequency, col[:, None] * frequency], 1)
    return math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], 1)


def angles(height: int, width: int, m: int, pairs: int) -> Float[Tensor, "m+1 pairs"]:
    """Angles ω · row and ω · column of each pixel, of wavelengths 2π/ω from 3 to 96 pixels; 0 for label and start."""
    row, col = torch.cartesian_prod(torch.arange(height), torch.arange(width)).t().double()
    of_row, of_col = (2 * math.pi / wavelengths(p) for p in (pairs - pairs // 2, pairs // 2))
    angle = torch.cat([row[:, None] * of_row, col[:, None] * of_col], 1)
    return pad(angle, (0, 0, 0, m + 1 - len(angle))).float()


def wavelengths(count: int) -> Float[Tensor, " count"]:
    """In pixels, evenly spaced in their logarithm."""
    return torch.logspace(math.log10(3), math.log10(96), count)


def check_label(n: int, label: str, classes: int) -> None:
    """Raises UsageError for a label that cannot be."""
    if label not in ("none", "first", "last"):
        raise unknown("label", label, ["none", "first", "last"])
    if classes < 0 or (label == "none") != (classes == 0):
        allowed = "0" if label == "none" else "at least 1"
        raise UsageError(f"classes = {classes} with label = {label} is impossible; allowed: {allowed}.")
    if n <= classes:
        raise UsageError(f"n = {n} columns, {classes} of them a label's, leave none for x; allowed: above {classes}.")


def any_order(m: int, seed: int, k: int) -> Int[Tensor, " m"]:
    """The k-th of the orderings of m variables that the seed gives."""
    return torch.randperm(m, generator=generator(seed, k, "transformer ordering"))


def draw_orders(n_x: int, label: str, ordering: str, orderings: int, seed: int) -> Int[Tensor, "K m"]:
    """The orderings o_k of the m variables. The label, variable n_x, is where it is wanted, or anywhere in "any"."""
    if ordering not in ("natural", "random", "any"):
        raise unknown("ordering", ordering, ["natural", "random", "any"])
    if orderings < 1 or (orderings > 1 and ordering != "any"):
        fix = "at least 1" if orderings < 1 else "1, or ordering = any"
        raise UsageError(f"orderings = {orderings} with ordering = {ordering} is impossible; allowed: {fix}.")
    if ordering == "any":
        return torch.stack([any_order(n_x + (label != "none"), seed, k) for k in range(orderings)])
    o, y = torch.arange(n_x) if ordering == "natural" else any_order(n_x, seed, 0), torch.tensor([n_x])
    return torch.cat({"none": [o], "first": [y, o], "last": [o, y]}[label])[None]


Model = Transformer


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x | o), eqs. (4) and (5), over the training vectors."""

    Config, Model = Config, Transformer
    steps = 10_000
