"""What a run's figures did while it trained: one panel a figure, training and held-out splits together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
COLOURS = {"train": "tab:blue", "valid": "tab:orange", "test": "tab:green"}


def curves(metrics: list[dict[str, Any]]) -> Figure:
    """The measurements of metrics.jsonl against the step, with a band of one standard error where there is one.

    A figure that was measured once is left out.
    """
    from matplotlib.figure import Figure

    lines: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for m in metrics:
        for name, value in m.items():
            if name not in ("step", "split") and not name.endswith("_se"):
                line = lines.setdefault(name, {}).setdefault(m["split"], [])
                line.append((m["step"], value, m.get(f"{name}_se", 0.0)))
    panels = {name: by for name, by in lines.items() if max(map(len, by.values())) > 1}
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = Figure(figsize=(4 * min(COLUMNS, max(1, len(panels))), 2.6 * rows))
    for place, (name, by_split) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, min(COLUMNS, len(panels)), place)
        for split, line in by_split.items():
            step, value, error = (list(column) for column in zip(*line))
            axes.plot(step, value, color=COLOURS.get(split), linewidth=1.2, label=split)
            if any(error):
                low, high = [v - e for v, e in zip(value, error)], [v + e for v, e in zip(value, error)]
                axes.fill_between(step, low, high, color=COLOURS.get(split), alpha=0.2, linewidth=0)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        if len(by_split) > 1:
            axes.legend(fontsize=8, frameon=False)
    figure.supxlabel("step", fontsize=9)
    figure.tight_layout()
    return figure
