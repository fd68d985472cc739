"""docs/pictures/trust-region.png: a Gaussian policy on a plain function, by the gradient and by a trust region.

    python benchmarks/trust_region.py

One number a is drawn from N(μ, σ²) and pays f(a), one hill that is far away. J(μ, σ) is an
integral, here a sum over a fine grid, so that its gradient, the Fisher matrix diag(1 / σ², 2) of (μ, log σ) and the
divergence are exact. Left: where steps lead, by the gradient with three step sizes, and by the natural gradient within
KL ≤ δ, whose region at the start is drawn. Right: what J becomes. Steps end where σ is 0.1.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ptheta.control.natural import conjugate_gradient, fisher_product, flat, gradient, longest, put
from ptheta.control.policies import Gaussian

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "trust-region.png"
A = torch.linspace(-8, 12, 4001, dtype=torch.float64)
F = torch.exp(-((A - 5) ** 2) / 2)
DELTA, STEPS, START = 0.05, 60, (-1.5, math.log(1.5))
RATES = (1.0, 10.0, 100.0)


def J(mu: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """E f(a)."""
    density = torch.exp(-(((A - mu) / log_sigma.exp()) ** 2) / 2) / (log_sigma.exp() * math.sqrt(2 * math.pi))
    return (density * F).sum() * (A[1] - A[0])


class Plain(torch.nn.Module):
    """A policy of (μ, log σ) themselves."""

    def __init__(self, mu: float, log_sigma: float):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.tensor(mu, dtype=torch.float64))
        self.log_sigma = torch.nn.Parameter(torch.tensor(log_sigma, dtype=torch.float64))

    def given(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mu.view(1, 1), self.log_sigma.view(1, 1)


def climbed(rate: float | None) -> tuple[list[float], list[tuple[float, float]]]:
    """J and (μ, log σ) over steps: by the gradient with a step size, or within KL ≤ δ."""
    pi = Plain(*START)
    parameters = list(pi.parameters())
    values, path = [J(*parameters).item()], [START]
    for _ in range(STEPS):
        if pi.log_sigma < math.log(0.1) or not math.isfinite(values[-1]):
            values.append(values[-1])
            continue
        g = gradient(J(*parameters), parameters)
        theta = flat(p.detach() for p in parameters)
        if rate is not None:
            put(parameters, theta + rate * g)
        else:
            old = tuple(x.detach() for x in pi.given())
            product = fisher_product(Gaussian.kl(pi, old, pi.given()).mean(), parameters)  # type: ignore[arg-type]
            x = conjugate_gradient(product, g)
            step = longest(product, x, DELTA) * x
            for k in range(10):
                put(parameters, theta + 0.8**k * step)
                divergence = Gaussian.kl(pi, old, pi.given()).mean()  # type: ignore[arg-type]
                if divergence <= DELTA and J(*parameters) > values[-1]:
                    break
            else:
                put(parameters, theta)
        values.append(J(*parameters).item())
        path.append((pi.mu.item(), pi.log_sigma.item()))
    return values, path


def main() -> None:
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    mu, log_sigma = torch.linspace(-4, 8, 121, dtype=torch.float64), torch.linspace(-2.5, 1.8, 87, dtype=torch.float64)
    surface = torch.stack([torch.stack([J(m, s) for m in mu]) for s in log_sigma])
    left.contourf(mu, log_sigma, surface, levels=24, cmap="YlGnBu")
    pi = Plain(*START)
    g = gradient(J(*pi.parameters()), list(pi.parameters()))
    m, s = torch.meshgrid(mu, log_sigma, indexing="xy")
    kl = s - START[1] + (math.exp(2 * START[1]) + (m - START[0]) ** 2) / (2 * (2 * s).exp()) - 0.5
    left.contour(mu, log_sigma, kl, levels=[DELTA], colors="C3")
    for rate, colour in zip(RATES, ("0.55", "0.3", "0.0")):
        _, path = climbed(rate)
        left.plot(*zip(*path), ".-", color=colour, linewidth=1, markersize=3, label=f"gradient, step size {rate:g}")
        right.plot(climbed(rate)[0], color=colour, label=f"gradient, step size {rate:g}")
    values, path = climbed(None)
    left.plot(*zip(*path), ".-", color="C3", linewidth=1.4, markersize=4, label=f"trust region, KL ≤ {DELTA}")
    right.plot(values, color="C3", label=f"trust region, KL ≤ {DELTA}")
    left.plot(*START, "o", color="C1", markersize=7)
    left.set_xlim(mu[0], mu[-1])
    left.set_ylim(log_sigma[0], log_sigma[-1])
    left.set_xlabel("μ")
    left.set_ylabel("log σ")
    left.set_title(f"J(μ, log σ), and where steps lead; at the start |∇J| = {g.norm():.3f}", fontsize=10)
    right.set_xlabel("step")
    right.set_ylabel("J")
    right.legend(fontsize=8, frameon=False)
    right.set_title("what it is worth", fontsize=10)
    figure.savefig(OUT, dpi=110)
    for rate in (*RATES, None):
        values, _ = climbed(rate)
        name = f"gradient, step size {rate:g}" if rate else f"trust region, KL <= {DELTA}"
        print(
            f"{name:28} J at the start {values[0]:.4f}, after {STEPS} steps {values[-1]:.4f}, least {min(values):.4f}"
        )


if __name__ == "__main__":
    main()
