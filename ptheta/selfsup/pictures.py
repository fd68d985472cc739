"""What an encoder looks like: the neighbours it finds, and a map of what it tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

COLOURS = "tab10"


def of_model(model: Any, data: PictureData, seed: int) -> dict[str, Figure]:
    """`views` of some pictures, `neighbours` among the training pictures, and a `map` of the features in the plane."""
    held = "valid" if "valid" in data.splits else "train"
    bank, asked = data.split("train")[:5000], data.split(held)[:1000]
    z, z_bank = model.embed(asked).cpu(), model.embed(bank).cpu()
    y = data.labels(held)
    figures = {
        "neighbours": neighbours(asked[:8], nearest(z[:8], z_bank, 7, skip_self=held == "train"), bank, data.shape),
        "map": map_of(z, None if y is None else y[: len(z)], data.classes),
    }
    if model.uses_views:
        figures["views"] = views(model, bank[:8].to(model.mean.device))
    return figures


def nearest(
    asked: Float[Tensor, "b f"], bank: Float[Tensor, "n f"], k: int, skip_self: bool = False
) -> Int[Tensor, "b k"]:
    """Rows of the bank by falling cosine similarity; without itself, where row i of the bank is the asked one i."""
    similarity = normalize(asked) @ normalize(bank).t()
    if skip_self:
        similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(min(k, len(bank) - skip_self), 1).indices


def shown(x: Tensor) -> np.ndarray:
    """Pictures (C, H, W), of bytes or of [0, 1], as matplotlib draws them: (H, W) or (H, W, 3) in [0, 1]."""
    values = x.float().cpu() / (255 if x.dtype == torch.uint8 else 1)
    return values.clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()


def grid(rows: list[list[Tensor]], titles: list[str], width: float = 0.9) -> Figure:
    """Rows of pictures, with a title over each column."""
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(width * columns + 0.2, width * len(rows) + 0.4))
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, r * columns + c + 1)
            axes.imshow(shown(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
            if r == 0 and c < len(titles) and titles[c]:
                axes.set_title(titles[c], fontsize=9)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 0.35 / (width * len(rows) + 0.4), wspace=0.06, hspace=0.06
    )
    return figure


def neighbours(asked: Tensor, found: Int[Tensor, "b k"], bank: Tensor, shape) -> Figure:
    """Each row: a picture, and its nearest in the bank."""
    rows = [[x, *(bank[i] for i in near.tolist())] for x, near in zip(asked, found)]
    return grid(rows, ["asked", *(str(k + 1) for k in range(found.shape[1]))])


def views(model: Any, x: Tensor, each: int = 6) -> Figure:
    """Each row: a picture, and views of it as they are drawn in training."""
    drawn = [
        model.view(x, step, "shown") * model.deviation[:, None, None] + model.mean[:, None, None]
        for step in range(each)
    ]
    return grid([[picture, *(d[i] for d in drawn)] for i, picture in enumerate(x)], ["picture", *["view"] * each])


def map_of(z: Float[Tensor, "n f"], y: Int[Tensor, " n"] | None, classes: tuple[str, ...]) -> Figure:
    """Features in the plane of their two principal directions, after each was brought to length 1."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    unit = normalize(z.double())
    unit = unit - unit.mean(0)
    at = unit @ torch.linalg.svd(unit, full_matrices=False).Vh[:2].t() if min(unit.shape) > 1 else unit[:, [0, 0]]
    figure = Figure(figsize=(7.5, 5))
    axes = figure.add_subplot()
    if y is None:
        axes.scatter(at[:, 0], at[:, 1], s=6, color="tab:blue", alpha=0.6)
    else:
        for c in y.unique().tolist():
            name = classes[c] if c < len(classes) else str(c)
            axes.scatter(*at[y == c].t(), s=8, color=colormaps[COLOURS](c % 10), label=name, alpha=0.7)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_title("features in the plane")
    axes.set_xticks([])
    axes.set_yticks([])
    figure.tight_layout()
    return figure
