r"""What a model that is too simple learns under each divergence: one Gaussian is fitted to a mixture of two.

No θ makes d(p_data, p_θ) zero here, so that d decides what is given up. On a grid x_1 … x_m all are finite sums:

    p_data(x_i) = \sum_k π_k p_k(x_i),    p_k(x_i) ∝ \exp(−(x_i − m_k)²/2 s_k²)                   (1)
    p_θ(x_i) ∝ \exp(−(x_i − μ)²/2σ²),     θ = (μ, \log σ)                                         (2)
    \min_θ d(p_data, p_θ)   from several starts, of which the best counts                         (3)
    mass of mode k covered = \sum_i p_k(x_i) 1[|x_i − μ| ≤ 2σ]                                    (4)

for the nine d of `divergences.py`, by descent along gradients corrected for curvature (L-BFGS, Liu & Nocedal 1989); the
kernel of MMD² is Gaussian, as wide as the median distance of two draws from p_data.

KL(p‖q), maximum likelihood, pays for every x that the model misses and covers both modes; KL(q‖p), which variational
inference minimises, pays for what the model makes up and takes one (Minka 2005). What the bounded ones do (JS, TV, H²)
hangs on the weights: H² takes one mode as long as that leaves out less than spreading over both. TV is nearly flat
around its minimum.

| symbol | shape | here |
|---|---|---|
| x | (m,) | the grid, 401 points from −10 to 10 |
| log_p | (m,) | \log p_data |
| μ, σ | () | mean and width of the model |

Expected, from `ptheta divergences`: σ = 2.53 under KL(p‖q), whose moments are those of p_data; σ = 0.50 under KL(q‖p),
which is then 0.51 = −\log 0.6 nats, of the weight of the mode that it takes. There χ²(p‖q) is 10^94; without the ends
of the grid it were infinite, as the other mode has heavier tails than the model.
"""

from __future__ import annotations

import json as json_module
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ptheta.data.order import generator
from ptheta.density.divergences import EXACT, exact_mmd2, exact_wasserstein
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.results import save_whole, target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS, MEANS, WIDTHS = (0.6, 0.4), (-2.5, 2.5), (0.5, 0.8)  # π, m, s of eq. (1)
STARTS, STEPS = 10, 60  # of eq. (3), and the most steps from each
MISSES, COVERS = "#c4472b", "#1f6f9e"  # a mode is missed (red), both are covered (blue)
SYMBOLS = {
    "forward_kl": "KL(p‖q)", "reverse_kl": "KL(q‖p)", "jensen_shannon": "JS", "total_variation": "TV",
    "squared_hellinger": "H²", "chi_squared": "χ²(p‖q)", "mmd2": "MMD²", "w1": "W₁", "w2_squared": "W₂²",
}  # fmt: skip
NAMES = {
    "forward_kl": "maximum likelihood", "reverse_kl": "reverse KL", "jensen_shannon": "Jensen–Shannon",
    "total_variation": "total variation", "squared_hellinger": "Hellinger", "chi_squared": "chi-squared",
    "mmd2": "maximum mean discrepancy", "w1": "Wasserstein-1", "w2_squared": "Wasserstein-2",
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """One row of the study: what was minimised, the θ found, eq. (4) of each mode, and every divergence there."""

    minimised: str
    mean: float
    width: float
    covered: tuple[float, ...]
    values: dict[str, float]


def grid() -> Float[Tensor, " m"]:
    """x_1 … x_m."""
    return torch.linspace(-10, 10, 401, dtype=torch.float64)


def gaussian(x: Float[Tensor, " m"], mean: Tensor | float, width: Tensor | float) -> Float[Tensor, " m"]:
    """log of eq. (2): a Gaussian on the grid."""
    return (-(((x - mean) / width) ** 2) / 2).log_softmax(0)


def modes(x: Float[Tensor, " m"]) -> Float[Tensor, "2 m"]:
    """log p_k of eq. (1)."""
    return torch.stack([gaussian(x, m, s) for m, s in zip(MEANS, WIDTHS, strict=True)])


def data(x: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """log p_data of eq. (1)."""
    return (modes(x) + torch.tensor(WEIGHTS, dtype=x.dtype).log()[:, None]).logsumexp(0)


def measures(x: Float[Tensor, " m"], log_p: Float[Tensor, " m"]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The nine divergences, functions of (log p, log q) on the grid."""
    distances = (x[:, None] - x).abs()
    sort = distances.flatten().sort()
    below = (log_p[:, None] + log_p).exp().flatten()[sort.indices].cumsum(0)
    median = sort.values[(below < 0.5).sum()]
    K = (-((distances / median) ** 2) / 2).exp()
    return {
        **EXACT,
        "mmd2": lambda p, q: exact_mmd2(p, q, K),
        "w1": lambda p, q: exact_wasserstein(p, q, x, 1),
        "w2_squared": lambda p, q: exact_wasserstein(p, q, x, 2),
    }


def starts(x: Float[Tensor, " m"], log_p: Float[Tensor, " m"], seed: int) -> Float[Tensor, "starts 2"]:
    """θ = (μ, log σ) from which to descend: the moments of p_data, each of its modes, and random ones."""
    mean = (log_p.exp() * x).sum().item()
    width = (log_p.exp() * (x - mean) ** 2).sum().sqrt().item()
    known = torch.tensor([(mean, width), *zip(MEANS, WIDTHS, strict=True)], dtype=x.dtype)
    u = torch.rand(STARTS - len(known), 2, generator=generator(seed, 0, "starts"), dtype=x.dtype)
    drawn = torch.stack([10 * u[:, 0] - 5, 0.3 + 3 * u[:, 1]], 1)
    mu, sigma = torch.cat([known, drawn]).unbind(1)
    return torch.stack([mu, sigma.log()], 1)


def descend(loss: Callable[[Tensor], Tensor], theta: Float[Tensor, " 2"]) -> tuple[float, Float[Tensor, " 2"]]:
    """Eq. (3) from one start: the loss reached, infinite if the search ran off to no distribution, and the θ there."""
    theta = theta.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    try:
        optimizer.step(closure)  # type: ignore[arg-type]
        return loss(theta).item(), theta.detach()
    except InputError:  # the probabilities of q are no longer numbers
        return math.inf, theta.detach()


def study(seed: int) -> list[Fit]:
    """Eq. (3) for each of the nine divergences, in the order of `SYMBOLS`."""
    x = grid()
    log_p, every = data(x), measures(x, data(x))
    fits = []
    for name in SYMBOLS:

        def loss(theta: Tensor, d=every[name]) -> Tensor:
            return d(log_p, gaussian(x, theta[0], theta[1].exp()))

        _, theta = min((descend(loss, theta) for theta in starts(x, log_p, seed)), key=lambda end: end[0])
        mean, width = theta[0].item(), theta[1].exp().item()
        inside = (x - mean).abs() <= 2 * width
        covered = tuple(m.exp()[inside].sum().item() for m in modes(x))
        values = {k: d(log_p, gaussian(x, mean, width)).item() for k, d in every.items()}
        fits.append(Fit(name, mean, width, covered, values))
    return fits


def picture(fits: list[Fit]) -> Figure:
    """The fits over what they were fitted to, from the narrowest to the widest; red where a mode is missed."""
    from matplotlib.figure import Figure

    x = grid()
    step = (x[1] - x[0]).item()
    p = data(x).exp() / step
    figure = Figure(figsize=(10.5, 8.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.09, w_pad=0.16)  # type: ignore[union-attr]
    figure.suptitle("One Gaussian learns two modes: what is given up depends on the divergence", fontsize=15)
    every = figure.subplots(3, 3, sharex=True, sharey=True).flat
    for axes, fit in zip(every, sorted(fits, key=lambda f: f.width), strict=True):
        colour = MISSES if min(fit.covered) < 0.5 else COVERS
        q = gaussian(x, fit.mean, fit.width).exp() / step
        axes.fill_between(x, p, color="0.86", linewidth=0)
        axes.plot(x, p, color="0.6", linewidth=1)
        axes.fill_between(x, q, color=colour, alpha=0.22, linewidth=0)
        axes.plot(x, q, color=colour, linewidth=2.2)
        axes.set_title(f"min {SYMBOLS[fit.minimised]}", fontsize=13, loc="left", color=colour, fontweight="bold")
        axes.set_title(NAMES[fit.minimised], fontsize=9.5, loc="right", color="0.35")
        found = f"μ = {fit.mean:.2f}\nσ = {fit.width:.2f}".replace("-", "−")
        axes.text(0.985, 0.95, found, transform=axes.transAxes, ha="right", va="top")
        for mean, share in zip(MEANS, fit.covered, strict=True):
            axes.text(mean, -0.05, f"{share:.0%}", ha="center", va="top", color=colour if share > 0.5 else "0.55")
        axes.set_xlim(-7, 7)
        axes.set_ylim(-0.13, 0.9)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
    data_is = f"grey: the data, modes of weight {WEIGHTS[0]} and {WEIGHTS[1]}"
    rest = "red: a mode is missed.  blue: both are covered.  per cent: mass of the mode within μ ± 2σ"
    figure.supxlabel(f"{data_is}.  {rest}", fontsize=10, color="0.35")
    return figure


def divergences(out: Path | None = None, seed: int = 0, json: bool = False) -> list[Fit]:
    """Fit one Gaussian to two modes under nine divergences; a table, and a picture of the fits.

    Args:
        out: Picture to write, ending in .png (default: divergences.png, numbered when it exists).
        seed: Of the random starts.
        json: Print one JSON object.
    """
    if out is not None and out.suffix != ".png":
        raise UsageError(f"--out {out} is no picture's name; allowed: a name that ends in .png.")
    path = target(".", out, "divergences")
    fits = study(seed)
    figure = picture(fits)
    save_whole(path, {".png": lambda p: figure.savefig(p, format="png", dpi=130)}, say=False)
    path = path.with_name(path.name + ".png")
    if json:
        about = {"seed": seed, "data": {"weights": WEIGHTS, "means": MEANS, "widths": WIDTHS}, "picture": str(path)}
        print(json_module.dumps({**about, "fits": [asdict(f) for f in fits]}))
        return fits
    print(f"one Gaussian fitted to {' + '.join(f'{w} N({m}, {s}²)' for w, m, s in zip(WEIGHTS, MEANS, WIDTHS))}")
    print("rows: what was minimised; columns: every divergence there (KL, JS in nats), the least starred\n")
    print(f"{'':9}{'mean':>6} {'width':>5} {'covered':>10} " + " ".join(f"{s:>9}" for s in SYMBOLS.values()))
    for fit in fits:
        shares = " ".join(f"{c:4.0%}" for c in fit.covered)
        least = {k: min(f.values[k] for f in fits) for k in SYMBOLS}
        cells = "".join(f"{fit.values[k]:9.3g}{'*' if fit.values[k] == least[k] else ' '}" for k in SYMBOLS)
        print(f"{SYMBOLS[fit.minimised]:9}{fit.mean:6.2f} {fit.width:5.2f} {shares:>10} {cells}".rstrip())
    print(f"\n{path}")
    return fits


def command(argv: list[str]) -> int:
    """`ptheta divergences [options]`."""
    tyro.cli(divergences, args=argv, prog="ptheta divergences", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
