"""What a density model looks like: samples beside data, completions, and how its moments compare with the data's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.binary import BinaryData


def of_model(model: Any, data: BinaryData, seed: int) -> dict[str, Figure]:
    """What can be drawn: `moments` of any data; of pictures `samples`, `completions` and, with labels, `classes`."""
    rows = data.split("valid" if "valid" in data.splits else "train")
    drawn = model.split(model.sample(min(1000, 4 * max(100, len(rows))), seed))[0].cpu()
    figures = {"moments": moments(drawn, rows[:1000])}
    if data.shape:
        figures["samples"] = samples(rows, drawn, data.shape, model.name)
        if model.classes:
            figures["classes"] = classes(model, data.shape, seed)
        figures["completions"] = completions(model, rows[:8], data.shape, seed)
    return figures


def grid(x: Tensor, shape: tuple[int, int], columns: int, gap: int = 1) -> np.ndarray:
    """Vectors (b, h·w) as one picture of rows of `columns`, ink black on white, gaps grey; float (H, W) in [0, 1]."""
    h, w = shape
    rows = -(-len(x) // columns)
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), 0.82)
    for i, v in enumerate(x):
        r, c = divmod(i, columns)
        canvas[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w] = 1 - v.reshape(h, w).numpy()
    return canvas


def save_grid(path: Any, x: Tensor, shape: tuple[int, int], columns: int = 8) -> None:
    """Write a grid of pictures as PNG, enlarged by a whole factor to at most 600 pixels across."""
    from PIL import Image

    canvas = (grid(x.float().cpu(), shape, columns) * 255).round().astype(np.uint8)
    scale = max(1, 600 // canvas.shape[1])
    Image.fromarray(canvas).resize((canvas.shape[1] * scale, canvas.shape[0] * scale), Image.Resampling.NEAREST).save(
        path
    )


def samples(data: Tensor, drawn: Tensor, shape: tuple[int, int], name: str) -> Figure:
    """64 samples beside 64 data."""
    figure = _figure(9, 4.8)
    for place, x, title in ((1, data[:64], "data"), (2, drawn[:64], f"samples of {name}")):
        axes = figure.add_subplot(1, 2, place)
        axes.imshow(grid(x.float(), shape, 8), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title)
        axes.axis("off")
    return figure


def classes(model: Any, shape: tuple[int, int], seed: int, each: int = 8, most: int = 12) -> Figure:
    """A row of draws from p(x | y) for each class y (the first `most` of them)."""
    C = min(model.classes, most)
    drawn = torch.cat([model.split(model.sample(each, seed + y, y=y))[0].cpu() for y in range(C)])
    figure = _figure(each * 0.6 + 0.6, C * 0.6 + 0.4)
    axes = figure.add_subplot()
    axes.imshow(grid(drawn.float(), shape, each), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([shape[0] / 2 + y * (shape[0] + 1) for y in range(C)], [str(y) for y in range(C)])
    axes.set_xticks([])
    axes.set_ylabel("class")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def completions(model: Any, x: Tensor, shape: tuple[int, int], seed: int) -> Figure:
    """Each row: what is observed (the upper half), four completions of it, and the truth."""
    h, w = shape
    observed = torch.zeros(h, w, dtype=torch.bool)
    observed[: (h + 1) // 2] = True
    mask = observed.flatten()
    z, seen = model.join(x), model.join(mask[None].float())[0].bool()  # the label of a joint model is hidden too
    drawn = [model.split(model.complete(z, seen, seed=seed + k).x)[0].cpu().float() for k in range(4)]
    shown = torch.where(mask, x.float(), 0.25)
    columns = [shown, *drawn, x.float()]
    figure = _figure(6, 1 + len(x))
    axes = figure.add_subplot()
    axes.imshow(grid(torch.stack(columns, 1).flatten(0, 1), shape, len(columns)), cmap="gray", vmin=0, vmax=1)
    centres = [k * (w + 1) + w / 2 for k in range(len(columns))]
    axes.set_xticks(centres, ["observed", "drawn", "drawn", "drawn", "drawn", "truth"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def moments(drawn: Tensor, data: Tensor) -> Figure:
    """Means and pairwise covariances of samples against those of the data: on the diagonal where they agree."""
    figure = _figure(8, 4)
    a, b = data.double(), drawn.double()
    pairs = [(a.mean(0), b.mean(0), "mean of each variable")]
    if a.shape[1] > 1 and len(a) > 1:
        upper = torch.triu_indices(a.shape[1], a.shape[1], 1)
        pick = slice(None, None, max(1, upper.shape[1] // 4000))
        cov = [torch.cov(v.t())[upper[0], upper[1]][pick] for v in (a, b)]
        pairs.append((cov[0], cov[1], "covariance of each pair"))
    for place, (p, q, title) in enumerate(pairs, 1):
        axes = figure.add_subplot(1, len(pairs), place)
        low, high = float(min(p.min(), q.min())), float(max(p.max(), q.max()))
        axes.plot([low, high], [low, high], color="0.7", linewidth=1)
        axes.scatter(p, q, s=6, alpha=0.4)
        axes.set_xlabel("data")
        axes.set_ylabel("samples")
        axes.set_title(title)
    figure.tight_layout()
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))
