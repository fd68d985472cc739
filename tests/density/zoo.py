"""A model of every kind with random weights, and plain ways to compute what it should."""

import math

import pytest
import torch

from ptheta.data.order import generator
from ptheta.density.fvsbn import FVSBN
from ptheta.density.made import MADE
from ptheta.density.masked_linear import mask
from ptheta.density.nade import NADE

KINDS = {
    "fvsbn": (FVSBN, {}),
    "fvsbn random": (FVSBN, {"ordering": "random"}),
    "nade": (NADE, {"hidden": 9}),
    "nade random": (NADE, {"hidden": 9, "ordering": "random"}),
    "made no layer": (MADE, {"hidden": ()}),
    "made 1": (MADE, {"hidden": (40,)}),
    "made 1 random": (MADE, {"hidden": (40,), "ordering": "random"}),
    "made 1 indirect": (MADE, {"hidden": (40,), "direct": False}),
    "made 2": (MADE, {"hidden": (40, 30)}),
    "made 2 indirect random": (MADE, {"hidden": (30, 40), "direct": False, "ordering": "random"}),
    "made 3": (MADE, {"hidden": (30, 30, 30)}),
    "made 3 random": (MADE, {"hidden": (30, 40, 30), "ordering": "random"}),
    "made 1 x3": (MADE, {"hidden": (40,), "masks": 3}),
    "made 2 x3 random": (MADE, {"hidden": (40, 30), "masks": 3, "ordering": "random"}),
    "made 2 x3 sorted": (MADE, {"hidden": (40, 30), "masks": 3, "units": "sorted"}),
    "made 3 x3 indirect random": (
        MADE,
        {"hidden": (40, 30, 30), "masks": 3, "ordering": "random", "direct": False},
    ),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
MADES = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("made")])


def build(kind: str, n: int, seed: int = 0, dtype=torch.float64, spread: float = 0.8, **more):
    """A model of a kind with random weights, in eval mode. `more` replaces arguments; see `scatter` for `spread`."""
    Model, arguments = KINDS[kind]
    return scatter(Model(n, **{**arguments, "seed": seed, **more}), seed, spread).to(dtype).eval()


def scatter(model, seed: int, spread: float = 0.8):
    """Draw every parameter anew, biases too: initial ones are zero and would hide mistakes."""
    g = generator(seed, 0, "zoo")
    for p in model.parameters():
        size = spread * 2.5 / p.shape[-1] ** (0.5 if p.dim() == 2 and p.shape[-1] > 12 else 0)
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype) * size / 1.5
    return model


def everything(n: int, dtype=torch.float64) -> torch.Tensor:
    """All 2^n binary vectors, (2^n, n); row i is i in binary, the first variable the highest digit."""
    return (torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1) & 1).to(dtype)


def number(x: torch.Tensor) -> torch.Tensor:
    """The row of `everything` that each vector is."""
    return (x.long() << torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


def some(b: int, n: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """b random binary vectors."""
    return torch.randint(2, (b, n), generator=generator(seed, 0, "some")).to(dtype)


def uniform(b: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, n, generator=generator(seed, 0, "uniform"), dtype=torch.float64)


def conditionals(model, x: torch.Tensor, k: int) -> torch.Tensor:
    """Logits of component k with column i of variable i, whatever the model's own columns are."""
    if isinstance(model, MADE):
        return model.logits(x, k)
    return torch.empty_like(x).index_copy(1, model.order(k), model.logits(x))


@torch.no_grad()
def clamped(
    model, x: torch.Tensor, observed: torch.Tensor, u: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return model.clamped(x, observed, u, k)


@torch.no_grad()
def walk(model, x: torch.Tensor, observed: torch.Tensor, u: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clamped ancestral sampling by n full passes, and log w by eq. (3): what `clamped` must equal."""
    x, log_w = torch.where(observed, x, 0), torch.zeros(len(x), dtype=torch.float64)
    for i in model.order(k).tolist():
        p = conditionals(model, x, k)[:, i].sigmoid()
        x[:, i] = torch.where(observed[:, i], x[:, i], (u[:, i] < p).to(x.dtype))
        log_w += torch.where(observed[:, i], torch.where(x[:, i] == 1, p, 1 - p).log(), 0.0)
    return x, log_w


def masked_pass(model: MADE, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden units and logits of eqs. (1)–(3) with masks that are written out and multiplied."""
    m = model.degrees(k)
    h = x
    for l, (W, b) in enumerate(model.weights()):
        h = (h @ (W * mask(m[l + 1], m[l], False)).T + b).clamp(min=0)
    logits = h @ (model.V * mask(m[0], m[-1], True)).T + model.b
    return h, logits if model.A is None else logits + x @ (model.A * mask(m[0], m[0], True)).T


def frequencies_fit(counts: torch.Tensor, p: torch.Tensor) -> float:
    """p-value of the χ² test of counts against probabilities; rare cells are taken together."""
    from scipy.stats import chisquare

    expected = p.double() * counts.sum()
    rare = expected < 5
    f = [*counts[~rare].double(), counts[rare].double().sum()]
    e = [*expected[~rare], expected[rare].sum()]
    if e[-1] < 5:  # too rare even together: into the first cell
        f, e = [f[0] + f[-1], *f[1:-1]], [e[0] + e[-1], *e[1:-1]]
    total = float(sum(f) / sum(e))
    assert math.isclose(total, 1, rel_tol=1e-6) and len(f) > 1
    return float(chisquare([float(v) for v in f], [float(v) * total for v in e]).pvalue)


def double(values) -> torch.Tensor:
    """A tensor of float64."""
    return torch.tensor(values, dtype=torch.float64)
