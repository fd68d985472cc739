"""PixelCNN by its equations: masks multiplied, classes one after another, a full pass for each pixel."""

import math

import torch
from torch.nn.functional import conv2d

from ptheta.data.order import generator
from ptheta.density.pixelcnn import PixelCNN


def build(shape, classes=0, seed=0, dtype=torch.float64, spread=1.0, channels=6, layers=3, label="first", **more):
    """A model with random weights and biases, so that the initial zeros hide nothing; in eval mode."""
    n, label = math.prod(shape) + classes, label if classes else "none"
    more = {"channels": channels, "layers": layers, "kernel": 3, "label": label, "classes": classes, **more}
    model, g = PixelCNN(n, shape=shape, seed=seed, **more), generator(seed, 0, "weights")
    for p in model.parameters():
        inputs = math.prod(p.shape[1:]) if p.dim() == 4 or p.shape[-1] > 4 * channels else 4
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * (2 * spread / inputs**0.5)
    return model.to(dtype).eval()


def with_class(x: torch.Tensor, classes: int, label: str = "first") -> torch.Tensor:
    """Every vector with every class before or after it."""
    return put(x.repeat(classes, 1), torch.eye(classes, dtype=x.dtype).repeat_interleave(len(x), 0), label)


def put(x: torch.Tensor, y: torch.Tensor, label: str) -> torch.Tensor:
    """x and the one-hot y as one vector."""
    return torch.cat([y, x] if label == "first" else [x, y], 1)


def pixels_and_label(model: PixelCNN, z: torch.Tensor):
    """x and the one-hot y, which is None where no gate knows it."""
    if model.label == "last":
        return z[:, : -model.classes], None
    return z[:, model.classes :], z[:, : model.classes] if model.classes else None


def masked_pass(model: PixelCNN, x: torch.Tensor, y: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits, and p(y | x) of a label that is last, with whole squares of weights that a mask is multiplied into."""
    v = h = (2 * x - 1).view(-1, 1, *model.shape)
    for l, layer in enumerate(model.layers):
        m = 3 if l == 0 else layer.R.shape[-1] - 1
        size = 2 * m + 1
        down, right = torch.ones(2, size, size, dtype=x.dtype)
        down[m + (l > 0) :] = 0  # rows below the pixel's; in the first layer its own too
        right[:m] = right[m + 1 :] = right[:, m + 1 :] = 0
        if l == 0:
            right[m, m] = 0
        N, R = (torch.full((*W.shape[:2], size, size), 9.0, dtype=x.dtype) for W in (layer.N, layer.R))
        N[:, :, : layer.N.shape[2]] = layer.N
        R[:, :, m, : layer.R.shape[3]] = layer.R[:, :, 0]
        n, r = (b.permute(2, 0, 1) if l == 0 else b[:, None, None] for b in (layer.n, layer.r))
        a = conv2d(v, N * down, padding=m) + n
        if y is not None:
            a = a + (y @ layer.V)[:, :, None, None]
        c = conv2d(h, R * right, padding=m) + torch.einsum("dc,bchw->bdhw", layer.S[:, :, 0, 0], a) + r
        if y is not None:
            c = c + (y @ layer.U)[:, :, None, None]
        p = model.channels
        down, right = (torch.tanh(t[:, :p] / 2) / (1 + (-t[:, p:]).exp()) for t in (a, c))
        right = torch.einsum("dc,bchw->bdhw", layer.O[:, :, 0, 0], right) + layer.o[:, None, None]
        v, h = (down, right) if l == 0 else (v + down, h + right)
    hidden = torch.einsum("dc,bchw->bhwd", model.A[:, :, 0, 0], h.clamp(min=0)) + model.a
    logits = (hidden.clamp(min=0) @ model.B[0, :, 0, 0]).flatten(1) + model.b
    return logits, (told(model, x, h) if model.label == "last" else None)


def told(model: PixelCNN, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """p(y | x) of eq. (7), cell by cell."""
    (H, W), out = model.shape, []
    seen = torch.cat([h.clamp(min=0), (2 * x - 1).view(-1, 1, H, W)], 1)
    units = conv2d(seen, model.E, padding=2) + model.e[:, None, None]
    rows, columns = min(4, H), min(4, W)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * H // rows, -(-(i + 1) * H // rows)
            left, right = j * W // columns, -(-(j + 1) * W // columns)
            out.append(units.clamp(min=0)[:, :, top:bottom, left:right].mean((2, 3)))
    odds = (torch.stack(out, 2).flatten(1) @ model.F.T + model.prior).exp()
    return odds / odds.sum(1, keepdim=True)


@torch.no_grad()
def walk(model: PixelCNN, z, observed, u):
    """Clamped ancestral sampling by one full pass for each pixel."""
    C, log_w, first = model.classes, torch.zeros(len(z), dtype=torch.float64), model.label != "last"
    z = torch.where(observed, z, 0)
    at = 0 if first else model.n - C

    def draw_class(p):
        for row in range(len(z) if C else 0):
            if observed[row, at]:
                y = z[row, at : at + C]
                log_w[row] += (y @ p[row]).log() if y.sum() == 1 else -math.inf
            else:
                below = [sum(p[row, :c]) for c in range(C)]
                z[row, at + max(c for c in range(C) if below[c] <= u[row, at])] = 1

    if C and first:
        draw_class(model.prior.softmax(0).expand(len(z), -1))
    for d in range(model.n - C):
        c = C + d if first else d
        p = masked_pass(model, *pixels_and_label(model, z))[0][:, d].sigmoid()
        z[:, c] = torch.where(observed[:, c], z[:, c], (u[:, c] < p).to(z.dtype))
        log_w += torch.where(observed[:, c], torch.where(z[:, c] == 1, p, 1 - p).log(), 0.0)
    if C and not first:
        draw_class(masked_pass(model, *pixels_and_label(model, z))[1])
    return z, log_w
