"""What a run has measured of one figure: when, how long it had trained by then, how good it became."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptheta.engine.errors import InputError
from ptheta.engine.run import Run

LAST = 10  # evaluations that the last figure is a mean of


@dataclass(frozen=True)
class Measured:
    """What one run measured of one figure."""

    run: Run
    better: Literal["lower", "higher"]
    steps: np.ndarray
    """(k,), integers that rise."""
    values: np.ndarray
    """(k,)."""
    minutes: np.ndarray
    """(k,), of training until then."""

    @property
    def best_at(self) -> int:
        """Which evaluation is the best: the first of them."""
        return int(self.values.argmax() if self.better == "higher" else self.values.argmin())

    def figures(self) -> dict[str, float]:
        """Best, last, and mean of the last ten."""
        values = self.values
        return {
            "best": float(values[self.best_at]),
            "last": float(values[-1]),
            "last_ten": float(values[-LAST:].mean()),
        }

    def reached(self, threshold: float) -> int | None:
        """The first evaluation that is as good as the threshold."""
        good = self.values >= threshold if self.better == "higher" else self.values <= threshold
        return int(good.argmax()) if good.any() else None


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that is not whole, of a run that goes on or was killed, is left out.
    Raises InputError for what is no JSON."""
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n") if path.exists() else ("", "", "")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def minutes(run: Run) -> list[float]:
    """Of training until each line of the metrics; pauses between a stop and --resume are left out: every session has a
    file of events, whose name tells when it began to log."""
    starts = [int(p.name.rpartition(".")[2]) / 1e9 for p in run.path.glob("events.out.tfevents.*")]
    total, before, out = 0.0, -math.inf, []
    for line in lines(run.path / "times.jsonl"):
        now = line["time"]
        since = max([before, *(start for start in starts if start <= now)])
        total += max(0.0, now - since) if since > -math.inf else 0.0
        before = now
        out.append(total / 60)
    return out


def measurements(run: Run, figure: str, better: Literal["lower", "higher"], split: str) -> Measured | None:
    """What a run measured of a figure on a split; None for nothing. What is not finite is left out."""
    rows = [
        (line["step"], float(line[figure]), spent)
        for line, spent in zip(lines(run.path / "metrics.jsonl"), minutes(run))
        if line["split"] == split and math.isfinite(line.get(figure, math.nan))
    ]
    if not rows:
        return None
    steps, values, spent = zip(*rows)
    return Measured(run, better, np.array(steps), np.array(values), np.array(spent))


def number(value: float) -> str:
    """Four digits, or all those before the point: 0.8123, 88.12, 12,345."""
    size = abs(value)
    if 0 < size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 4 - len(str(int(size))))}f}" if size >= 1 else f"{value:.4f}"
