r"""The ladder that leads to NADE: four ways to write the conditionals of p(x) = \prod_d p(x_d | x_{<d}).

| rung | conditional p(x_d = 1 | x_{<d}) | parameters |
|---|---|---|
| tables | one number for each of the 2^{d−1} pasts | 2^n − 1 |
| fvsbn | σ(b_d + W_d x_{<d}) | n(n + 1)/2 |
| mlps | σ(b_d + V_d · σ(c_d + W^{(d)} x_{<d})), one net for each d | ≈ h n²/2 + 2hn + n |
| nade | the same with one W and one c for all d | 2hn + h + n |

Each rung but the first is trained by maximum likelihood with the same optimiser; the tables are fitted by counting,
with one count of each value added (Laplace 1774). A past that was never seen gets 1/2: that is why the tables lose as
soon as n is more than a dozen. They are kept as counts of the pasts that occur, so that they can be tried on any n.

Source of the argument: Larochelle & Murray 2011, sections 1 and 2; Bengio & Bengio 2000 (one network per conditional).
"""

from __future__ import annotations

import json as json_module
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from ptheta.data.order import generator, minibatches
from ptheta.density.autoregressive import log_bernoulli
from ptheta.density.fvsbn import FVSBN
from ptheta.density.likelihood import log_odds
from ptheta.density.nade import NADE
from ptheta.engine.errors import UsageError
from ptheta.engine.method import Estimate


class Tables:
    """Full conditional tables, as counts of the pasts that occur in the data."""

    def __init__(self, x: Tensor):
        """Count x, (N, n) of 0/1."""
        self.n = x.shape[1]
        self.counts: list[dict[bytes, tuple[int, int]]] = []
        rows = x.to(torch.uint8).numpy()
        for d in range(self.n):
            table: dict[bytes, tuple[int, int]] = {}
            for row in rows:
                past = row[:d].tobytes()
                zeros, ones = table.get(past, (0, 0))
                table[past] = (zeros + (row[d] == 0), ones + (row[d] == 1))
            self.counts.append(table)

    @property
    def parameters(self) -> int:
        """2^n − 1: one for each past of each variable, seen or not."""
        return 2**self.n - 1

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        """log p(x) in nats, (b,): p(x_d | past) = (count + 1)/(total + 2)."""
        out = torch.zeros(len(x), dtype=torch.float64)
        for i, row in enumerate(x.to(torch.uint8).numpy()):
            for d, table in enumerate(self.counts):
                zeros, ones = table.get(row[:d].tobytes(), (0, 0))
                out[i] += math.log(((ones if row[d] else zeros) + 1) / (zeros + ones + 2))
        return out


class MLPs(nn.Module):
    """One network of h hidden units for every conditional, all computed in one batched product."""

    def __init__(self, n: int, h: int, seed: int):
        super().__init__()
        g = generator(seed, 0, "mlps")
        bound = math.sqrt(6 / (n + h))
        self.W = nn.Parameter((2 * torch.rand(n, n, h, generator=g) - 1) * bound)  # W[d, j]: from x_j in net d
        self.c = nn.Parameter(torch.zeros(n, h))
        self.V = nn.Parameter((2 * torch.rand(n, h, generator=g) - 1) * bound)
        self.b = nn.Parameter(torch.zeros(n))
        self.past: Tensor
        self.register_buffer("past", torch.ones(n, n).tril(-1))

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x) in nats."""
        seen = self.past[:, None] * x  # (n, b, n): what each net may see
        h = torch.sigmoid(torch.baddbmm(self.c[:, None], seen, self.W))
        return -log_bernoulli((h @ self.V[:, :, None])[:, :, 0].t() + self.b, x)

    def count(self) -> int:
        """Parameters that matter: W[d, j] with j < d, and the rest."""
        n, h = self.V.shape
        return h * n * (n - 1) // 2 + 2 * n * h + n


@dataclass(frozen=True)
class Rung:
    """One row of the ladder: parameters, mean nats with standard error, and the seconds to fit and measure it."""

    name: str
    parameters: int
    nats: float
    nats_se: float
    seconds: float


def climb(data: Any, hidden: int, steps: int, rate: float, seed: int, split: str) -> list[Rung]:
    """Fit every rung on the training split; nats are of `split`, at the parameters that were best on validation."""
    train, held = data.split("train"), data.split(split)
    valid = data.split("valid") if "valid" in data.splits else held
    began = time.perf_counter()
    tables = Tables(train)
    nats = -tables.log_prob(held)
    rungs = [_rung("tables", tables.parameters, nats, began)]
    fvsbn, mlps, nade = FVSBN(data.n, seed=seed), MLPs(data.n, hidden, seed), NADE(data.n, hidden, seed=seed)
    sizes = {
        "fvsbn": data.n * (data.n + 1) // 2,
        "mlps": mlps.count(),
        "nade": sum(p.numel() for p in nade.parameters()),
    }
    for name, model in (("fvsbn", fvsbn), ("mlps", mlps), ("nade", nade)):
        began = time.perf_counter()
        model.b.data.copy_(log_odds(train))
        _maximise(model, train, valid, steps, rate, seed)
        with torch.no_grad():
            nats = torch.cat([model(rows.float()) for rows in held.split(500)])
        rungs.append(_rung(name, sizes[name], nats, began))
    return rungs


def _maximise(model: nn.Module, train: Tensor, valid: Tensor, steps: int, rate: float, seed: int) -> None:
    """Adam on the mean of −log p; keeps the parameters that were best on the validation split."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    best, kept = math.inf, {k: v.clone() for k, v in model.state_dict().items()}
    for step, rows in enumerate(minibatches(len(train), 100, seed), 1):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        loss = model(train[rows].float()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 20) == 0 or step == steps:
            with torch.no_grad():
                value = torch.cat([model(part.float()) for part in valid.split(500)]).mean().item()
            if value < best:
                best, kept = value, {k: v.clone() for k, v in model.state_dict().items()}
        if step == steps:
            break
    model.load_state_dict(kept)


def _rung(name: str, parameters: int, nats: Tensor, began: float) -> Rung:
    figure = Estimate.of(nats)
    return Rung(name, parameters, figure.mean, figure.standard_error, time.perf_counter() - began)


def ladder(
    data: str = "debd:nltcs", hidden: int = 64, steps: int = 3000, learning_rate: float = 0.01, seed: int = 0,
    split: str = "test", json: bool = False,
) -> list[Rung]:  # fmt: skip
    """Climb from full tables to NADE on one data set.

    Args:
        data: As in `ptheta train`.
        hidden: Hidden units h of the networks.
        steps: Updates of each rung.
        learning_rate: Of Adam, falling to zero.
        seed: Of initial weights and data order.
        split: Where the nats are measured.
        json: Print one JSON object.
    """
    from ptheta.data.binary import load

    for name, value in (("hidden", hidden), ("steps", steps), ("learning-rate", learning_rate)):
        if not 0 < value < math.inf:
            raise UsageError(f"{name} = {value} is impossible; allowed: above 0 and finite (option --{name}).")
    observations = load(data)
    weights = observations.n**2 * hidden
    if weights > 2**28:
        raise UsageError(
            f"one MLP a conditional would take {weights:,} weights; allowed: {2**28:,}. Choose fewer --hidden."
        )
    rungs = climb(observations, hidden, steps, learning_rate, seed, split)
    if json:
        known = [{k: v for k, v in r.__dict__.items() if v == v} for r in rungs]  # one row has no standard error
        rows = [r | ({"parameters": f"2^{observations.n}-1"} if r["name"] == "tables" else {}) for r in known]
        print(json_module.dumps({"data": data, "split": split, "hidden": hidden, "rungs": rows}))
        return rungs
    print(f"{data}, {observations.n} variables, {split} split, h = {hidden}, seed {seed}")
    print(f"{'':8} {'parameters':>14} {'nats':>10} {'± s.e.':>8} {'seconds':>8}")
    for r in rungs:
        count = f"2^{observations.n} - 1" if r.name == "tables" and r.parameters > 10**9 else f"{r.parameters:,}"
        print(f"{r.name:8} {count:>14} {r.nats:10.3f} {r.nats_se:8.3f} {r.seconds:8.1f}")
    return rungs


def command(argv: list[str]) -> int:
    """`ptheta ladder [options]`."""
    tyro.cli(ladder, args=argv, prog="ptheta ladder", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
