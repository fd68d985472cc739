r"""PixelCNN: gated convolutions that see only the pixels before.

A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves and K. Kavukcuoglu, "Conditional Image Generation
with PixelCNN Decoders", NIPS 2016 (the gated PixelCNN); A. van den Oord, N. Kalchbrenner and K. Kavukcuoglu, "Pixel
Recurrent Neural Networks", ICML 2016 (its masks A and B).

Pixels are visited row by row. One pass gives all conditionals

    \log p(x) = \sum_{ij} \log p(x_{ij} | rows above i, pixels left of j in row i)                  (1)

from two stacks of convolutions. The vertical stack v sees all rows above, the horizontal stack h the pixels to the
left and, through v, the rows above; one stack of masked squares would leave a blind spot to the right. With the gate

    g(a) = \tanh(a_f / 2) ⊙ σ(a_g) = (2 σ(a_f) − 1) ⊙ σ(a_g)    (a_f, a_g: the halves of a)          (2)

layer l of L is, for k = 2m + 1 and v^0 = h^0 = 2x − 1 inside the picture and 0 outside,

    a^l = N^l ∗ v^{l−1} + n^l,                      v^l = v^{l−1} + g(a^l)                          (3)
    c^l = R^l ∗ h^{l−1} + r^l + S^l a^l,            h^l = h^{l−1} + O^l g(c^l) + o^l                (4)
    logit = B ReLU(A ReLU(h^L) + a) + b                                                             (5)

N holds the taps of rows −m..0 and columns −m..m, R those of columns −m..0 (mask B). In layer 1, where k = 7 and nothing
is added to v^0 or h^0, the row of the pixel itself is left out of N and the pixel itself out of R (mask A), and n and r
are maps, one bias for each pixel. Taps that a mask would set to zero do not exist. Pixel (i, j) thus sees just what
comes before it within r = 3 + m(L − 1) rows and columns.

The joint of a picture and its class y of C (label = "first") has a prior and adds a bias to every gate, the paper's
eq. (4) with h the one-hot y:

    \log p(x, y) = \log softmax(π)_y + \log p(x | y),      a^l += V^l_y,    c^l += U^l_y             (6)

With the class after its picture (label = "last") no gate knows it, and one convolution without a mask, which sees all
of the picture, is averaged over the cells of a grid G of 4 × 4, or fewer where there are fewer pixels:

    \log p(x, y) = \log p(x) + \log softmax(π + F \, vec G[ ReLU(E ∗ [ReLU(h^L); v^0] + e) ])_y      (7)

Sampling takes one pass per pixel in the paper. Here a row of v is computed once, when the rows above it are drawn, and
h once for each pixel, from the last m columns that each layer keeps: a sample costs one pass in all.

| symbol | shape | here |
|---|---|---|
| x | (b, H·W) | pictures, row by row; with labels (b, C + H·W), the one-hot y first or last |
| v, h | (b, p, H, W) | the two stacks, p channels |
| a, c | (b, 2p, H, W) | pre-activations of the gates |
| N, R | (2p, p, m + 1, k), (2p, p, 1, m + 1) | taps above, taps to the left; layer 1: (2p, 1, 3, 7), (2p, 1, 1, 3) |
| S, O, A, B | (2p, 2p), (p, p), (p, p), (1, p) | 1 × 1 convolutions |
| U, V, π | (C, 2p), (C, 2p), (C,) | biases of the classes, and their prior |
| E, F | (2p, p + 1, 5, 5), (C, 2p·|G|) | what a class is told by, label last |
| b | (H·W,) | output bias of each pixel |

Differs from the paper: two values a pixel and so one logit; tanh(a_f / 2) in place of tanh(a_f), so that one sigmoid
serves both halves (W_f is the paper's twice); residual connections in the vertical stack too, which the paper tried
and left out; biases for each pixel in the first layer and at the output; no skip connections, whose sum h^L already
is; dropout, of whole channels, off unless asked for; Adam with weight averaging in place of RMSProp; eq. (7).

Expected: validation −log p of `binarized_mnist` 84.0 nats with 64 channels after some fifty minutes of one core, by the
command of benchmarks/figures.py; test −log p of the digits 17.3 after half a minute (docs/density.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, linear, log_softmax, one_hot, pad, relu

from ptheta.data.order import generator
from ptheta.density.autoregressive import Autoregressive, draw, log_bernoulli
from ptheta.density.joint import draw_class
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.errors import UsageError, unknown
from ptheta.engine.method import Between

FIRST = 7  # width of the first layer's field
LAST = 5  # width of E in eq. (7)
GRID = 4  # cells of G a side
AT_ONCE = 100  # pictures in one pass that needs no gradient


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of PixelCNN and of its training."""

    channels: Annotated[int, Between(1, 4096)] = 32
    """Channels p of either stack; multiples of 16 are fast."""
    layers: Annotated[int, Between(1, 256)] = 7
    """Layers L; a pixel sees 3 + (kernel − 1)/2 · (L − 1) rows and columns."""
    kernel: Literal[3, 5, 7] = 5
    """Width k of the convolutions after the first, whose width is 7."""
    dropout: Annotated[float, Between(0, 0.99)] = 0.0
    """Share of channels dropped in training, each for a whole picture."""


def gate(a: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b p *hw"]:
    """Eq. (2). On a CPU a sigmoid takes a sixth of the time of a tanh, and one of all channels no copies."""
    f, g = a.sigmoid().chunk(2, 1)
    return (2 * f - 1) * g


class Layer(nn.Module):
    """Parameters of layer l, and the two convolutions of eqs. (3) and (4) on inputs with their margins."""

    def __init__(self, l: int, channels: int, kernel: int, classes: int, shape: tuple[int, int], g: torch.Generator):
        super().__init__()
        self.first = l == 1
        p, seen = channels, 1 if self.first else channels
        self.m = (FIRST if self.first else kernel) // 2
        taps = self.m if self.first else self.m + 1
        biases = (*shape, 2 * p) if self.first else (2 * p,)
        self.N = _weights(g, 2, 2 * p, seen, taps, 2 * self.m + 1)
        self.n = nn.Parameter(torch.zeros(biases))
        self.R = _weights(g, 2, 2 * p, seen, 1, taps)
        self.r = nn.Parameter(torch.zeros(biases))
        self.S = _weights(g, 2, 2 * p, 2 * p, 1, 1)
        self.O = _weights(g, 1, p, p, 1, 1)
        self.o = nn.Parameter(torch.zeros(p))
        self.V = nn.Parameter(torch.zeros(classes, 2 * p)) if classes else None
        self.U = nn.Parameter(torch.zeros(classes, 2 * p)) if classes else None

    def above(self, v: Float[Tensor, "b p h w"]) -> Float[Tensor, "b p hm wm"]:
        """v with the margins of N: what a pixel of the vertical stack sees begins at its own place."""
        return pad(v, (self.m, self.m, self.m, -1 if self.first else 0))

    def left(self, h: Float[Tensor, "b p h w"]) -> Float[Tensor, "b p h wm"]:
        """h with the margin of R."""
        return pad(h, (self.m, -1 if self.first else 0, 0, 0))

    def vertical(self, above: Tensor, y: Tensor | None, row: slice = slice(None)) -> Float[Tensor, "b c h w"]:
        """a of eqs. (3) and (6), of all rows or of one."""
        return self._convolved(above, self.N, self.n, self.V, y, row)

    def from_above(self, a: Tensor, y: Tensor | None, row: slice = slice(None)) -> Float[Tensor, "b c h w"]:
        """c of eqs. (4) and (6) but for R ∗ h, of all rows or of one."""
        return self._convolved(a, self.S, self.r, self.U, y, row)

    def _convolved(self, t: Tensor, W: Tensor, bias: Tensor, of_class, y: Tensor | None, row: slice) -> Tensor:
        out = conv2d(t, W, None if self.first else bias)
        out = out + bias[row].permute(2, 0, 1).to(out.dtype) if self.first else out
        return out if y is None else out + (y @ of_class)[:, :, None, None]


class PixelCNN(Autoregressive):
    """p(x) of eqs. (1)–(5), or p(x, y) of eq. (6) or (7)."""

    name = "pixelcnn"
    components = 1

    def __init__(
        self, n: int, channels: int = 32, layers: int = 7, kernel: int = 5, dropout: float = 0.0, seed: int = 0,
        shape=None, label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.label, self.classes = label, classes if label != "none" else 0
        self.takes_unlabelled = self.label_in_one_pass = label == "last"
        self.shape = self.size = height, width = _picture(n, shape, label, self.classes, kernel)
        self.n, self.channels, self.dropout, self.seed = n, channels, dropout, seed
        self.arguments = {
            "n": n, "channels": channels, "layers": layers, "kernel": kernel, "dropout": dropout, "seed": seed,
            "shape": [height, width], "label": label, "classes": classes,
        }  # fmt: skip
        g = generator(seed, 0, "pixelcnn")
        self.layers: Any = nn.ModuleList(
            Layer(l, channels, kernel, classes if label == "first" else 0, self.size, g) for l in range(1, layers + 1)
        )
        self.A = _weights(g, 1, channels, channels, 1, 1)
        self.a = nn.Parameter(torch.zeros(channels))
        self.B = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(height * width))
        self.prior = nn.Parameter(torch.zeros(self.classes)) if self.classes else None
        if label == "last":
            self.grid = min(GRID, height), min(GRID, width)
            self.E, self.e = (
                _weights(g, 1, 2 * channels, channels + 1, LAST, LAST),
                nn.Parameter(torch.zeros(2 * channels)),
            )
            self.F = nn.Parameter(torch.zeros(self.classes, 2 * channels * math.prod(self.grid)))

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        return torch.arange(self.n, device=self.device)

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Output biases at the log-odds of the pixels, the prior at the frequencies of the classes."""
        of_pixels, of_classes = self.split(log_odds[None])
        self.b.data.copy_(of_pixels[0])
        if self.prior is not None:
            self.prior.data.copy_(of_classes[0].sigmoid().log().log_softmax(0))

    # ------------------------------------------------------------ one pass

    def features(
        self, x: Float[Tensor, "b hw"], y: Float[Tensor, "b classes"] | None = None, step: int | None = None
    ) -> Float[Tensor, "b p h w"]:
        """h^L of eqs. (3) and (4) of pictures x alone, given y; `step` keys the dropout of training."""
        v = h = (2 * x - 1).view(-1, *self.size, 1).permute(0, 3, 1, 2)  # channels last, as everything after
        for l, layer in enumerate(self.layers, 1):
            a = layer.vertical(layer.above(v), y)
            c = conv2d(layer.left(h), layer.R) + layer.from_above(a, y)
            down, right = gate(a), gate(c)
            if self.training and self.dropout and step is not None:
                down, right = (t * keep for t, keep in zip((down, right), self._kept(down, l, step), strict=True))
            right = conv2d(right, layer.O, layer.o)
            v, h = (down, right) if layer.first else (v + down, h + right)
        return h

    def logits(
        self, x: Float[Tensor, "b hw"], y: Float[Tensor, "b classes"] | None = None, step: int | None = None
    ) -> Float[Tensor, "b hw"]:
        """Eq. (5) for every pixel at once."""
        return self.output(self.features(x, y, step)).to(x.dtype) + self.b

    def output(self, h: Float[Tensor, "b p h w"]) -> Float[Tensor, "b hw"]:
        """Eq. (5) from h^L, but for the biases of the pixels."""
        return conv2d(relu(conv2d(relu(h), self.A, self.a)), self.B).flatten(1)

    def told(self, x: Float[Tensor, "b hw"], h: Float[Tensor, "b p h w"]) -> Float[Tensor, "b classes"]:
        """log p(y | x) of eq. (7) for every class, from pictures and their h^L."""
        assert self.prior is not None
        every = torch.cat([relu(h), (2 * x - 1).view(-1, 1, *self.size).to(h.dtype)], 1)
        cells = adaptive_avg_pool2d(relu(conv2d(every, self.E, self.e, padding=LAST // 2)), self.grid).flatten(1)
        return (linear(cells, self.F).to(x.dtype) + self.prior).log_softmax(1)

    def log_prior(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b classes"]:
        """log p(y) of eq. (6) for every class, the same in every row."""
        assert self.prior is not None
        return log_softmax(self.prior.to(z.dtype), 0).expand(len(z), -1)

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x) or −log p(x, y) in nats, eqs. (1), (6), (7); −log p(x) if the label is last and no class is on."""
        log_x, log_class = self._terms(x, step)
        if self.label == "last":
            log_class = torch.where(self.split(x)[1].sum(1) == 0, 0.0, log_class)
        return -(log_x + log_class)

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, " b"]:
        return torch.cat([sum(self._terms(rows), torch.zeros(())) for rows in x.split(AT_ONCE)])

    def _terms(self, z: Float[Tensor, "b n"], step: int | None = None) -> tuple[Tensor, Tensor]:
        """log p of the pixels, and log p of the class y that z holds: given them, or they given it."""
        x, y = self.split(z)
        h = self.features(x, y if self.label == "first" else None, step)
        log_x = log_bernoulli(self.output(h).to(x.dtype) + self.b, x)
        if self.label == "none":
            return log_x, torch.zeros_like(log_x)
        return log_x, of_class(self.log_prior(z) if self.label == "first" else self.told(x, h), y)

    def log_x(self, z: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """log p(x) of eq. (7), whatever the class."""
        return torch.cat([log_bernoulli(self.logits(x), x) for x in self.split(z)[0].split(AT_ONCE)])

    def log_class(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b C"]:
        """log p(y | x) of eq. (7)."""
        return torch.cat([self.told(x, self.features(x)) for x in self.split(z)[0].split(AT_ONCE)])

    def _kept(self, like: Tensor, l: int, step: int) -> Float[Tensor, "2 b p 1 1"]:
        """Factors of the channels of v and h; drawn for the batch of all processes, of which this has a slice."""
        g = generator(self.seed, step, f"dropout{l}", like.device)
        b, p = like.shape[:2]
        drawn = torch.rand(b * self.world, 2, p, generator=g, device=like.device)
        keep = drawn[b * self.rank : b * (self.rank + 1)] >= self.dropout
        return (keep.to(like.dtype) / (1 - self.dropout)).transpose(0, 1)[..., None, None]

    # ------------------------------------------------------------ one pixel after another

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Eqs. (3)–(7), each row of v and each pixel of h once. A class is drawn whole, by the u of its first column;
        label columns are observed all or none."""
        parts = [self._clamped(*rows) for rows in zip(x.split(AT_ONCE), observed.split(AT_ONCE), u.split(AT_ONCE))]
        return torch.cat([z for z, _ in parts]), torch.cat([log_w for _, log_w in parts])

    def _clamped(self, z: Tensor, observed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        log_w, u = z.new_zeros(len(z)), u.to(z.dtype)
        y_given, y_seen, y_u = (self.split(t)[1] for t in (z, observed, u))
        y = self._class(self.log_prior(z), y_given, y_seen, y_u, log_w) if self.label == "first" else None
        x, ut, seen = (self.split(t)[0] for t in (z, u, observed))
        xt, ut, seen = (t.t().contiguous() for t in (x, ut, seen))  # (hw, b)
        (height, width), b, p = self.size, len(x), self.channels
        above = [x.new_zeros(b, l.N.shape[1], l.N.shape[2], width + 2 * l.m) for l in self.layers]  # what N sees
        left = [x.new_zeros(b, (width + l.m) * l.R.shape[1]) for l in self.layers]  # h^{l−1} of a row and its margin
        R = [l.R.permute(3, 1, 2, 0).flatten(0, 2).contiguous() for l in self.layers]  # (taps · p, 2p), as in `left`
        O, A, B = [l.O[:, :, 0, 0].t() for l in self.layers], self.A[:, :, 0, 0].t(), self.B[0, :, 0, 0]
        for i in range(height):
            c, h = self._row(i, above, y), x.new_zeros(0)
            for j in range(width):
                for l, layer in enumerate(self.layers):
                    size, m = layer.R.shape[1], layer.m
                    if not layer.first:
                        left[l][:, (j + m) * p : (j + m + 1) * p] = h
                    near = left[l][:, j * size : (j + layer.R.shape[3]) * size]
                    new = torch.addmm(layer.o, gate(torch.addmm(c[l][j], near, R[l])), O[l])
                    h = new if layer.first else h + new
                d = i * width + j
                logit = relu(torch.addmm(self.a, relu(h), A)) @ B + self.b[d]
                xt[d] = draw(logit, ut[d], xt[d], seen[d], log_w)
                left[0][:, j + FIRST // 2] = 2 * xt[d] - 1
            _push(above[0], 2 * xt[i * width : (i + 1) * width].t() - 1)
        x = xt.t().contiguous()
        if self.label == "last":
            y = self._class(self.log_class(self.join(x)), y_given, y_seen, y_u, log_w)
            return torch.cat([x, y], 1), log_w
        return (x if y is None else torch.cat([y, x], 1)), log_w

    def _row(self, i: int, above: list[Tensor], y: Tensor | None) -> list[Float[Tensor, "w b c"]]:
        """c of eq. (4) but for R ∗ h, of row i in every layer; v^{l−1} of the row is added to what N^l sees."""
        v, out, row = torch.empty(0), [], slice(i, i + 1)
        for rows, layer in zip(above, self.layers, strict=True):
            if not layer.first:
                _push(rows, v[:, :, 0])
            a = layer.vertical(rows, y, row)  # (b, 2p, 1, w)
            v = gate(a) if layer.first else v + gate(a)
            out.append(layer.from_above(a, y, row)[:, :, 0].permute(2, 0, 1).contiguous())
        return out

    def _class(
        self, log_q: Float[Tensor, "b C"], y: Float[Tensor, "b C"], observed: Tensor, u: Tensor, log_w: Tensor
    ) -> Float[Tensor, "b C"]:
        """Observed classes, whose log q is added to log_w in place, and others drawn by the inverse of the CDF."""
        drawn = draw_class(log_q.double().exp(), u[:, 0].double())
        log_w += torch.where(observed[:, 0], of_class(log_q, y), 0.0)
        return torch.where(observed, y, one_hot(drawn, self.classes).to(y.dtype))

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b p"]:
        """The mean of h^L over the pixels, of a picture or of a picture and its class."""
        pairs = [self.split(rows) for rows in self.check(x).split(AT_ONCE)]
        return torch.cat([self.features(x, y if self.label == "first" else None).mean((2, 3)) for x, y in pairs])


def of_class(log_q: Float[Tensor, "b C"], y: Float[Tensor, "b C"]) -> Float[Tensor, " b"]:
    """log q of the class that y is; −∞ for what is no class."""
    return torch.where(y.sum(1) == 1, (y * log_q).sum(1), -math.inf)


def _push(rows: Float[Tensor, "b p m wm"], new: Float[Tensor, "b p w"] | Float[Tensor, "b w"]) -> None:
    """The rows move up by one, and a new one comes last, between its margins."""
    rows[:, :, :-1] = rows[:, :, 1:].clone()
    margin = (rows.shape[3] - new.shape[-1]) // 2
    rows[:, :, -1, margin : margin + new.shape[-1]] = new if new.dim() == 3 else new[:, None]


def _weights(g: torch.Generator, gain: float, *size: int) -> nn.Parameter:
    """Uniform with standard deviation gain / √(inputs of an output)."""
    bound = gain * math.sqrt(3 / math.prod(size[1:]))
    return nn.Parameter((2 * torch.rand(*size, generator=g) - 1) * bound)


def _picture(n: int, shape, label: str, classes: int, kernel: int) -> tuple[int, int]:
    """(height, width) of the pictures, or UsageError for what PixelCNN has no equation for."""
    if label not in ("none", "first", "last"):
        raise unknown("label", label, ["none", "first", "last"])
    if label == "none" and classes or label != "none" and not 1 <= classes < n:
        raise UsageError(f"classes = {classes} is impossible; allowed: 1 to {n - 1} label columns of the {n}.")
    if kernel < 3 or kernel % 2 == 0:
        raise UsageError(f"kernel = {kernel} is impossible; allowed: odd numbers from 3 (option --kernel).")
    if not shape:
        fix = "allowed: data with a shape (height, width), such as binarized_mnist. For other vectors use made or nade."
        raise UsageError(f"pixelcnn wants pictures, and these vectors of {n} columns have no shape; {fix}")
    height, width = (int(side) for side in shape)
    if height < 1 or width < 1 or height * width != n - classes:
        columns = f"{n - classes} columns" + (f" beside the {classes} of the label" if classes else "")
        raise UsageError(f"shape = {height} x {width} is impossible for {columns}; allowed: height · width of them.")
    return height, width


Model = PixelCNN


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x), eq. (1), or of −log p_θ(x, y), eq. (6), over the training vectors."""

    Config, Model = Config, PixelCNN
    steps = 20_000
