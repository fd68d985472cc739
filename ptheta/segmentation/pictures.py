"""Pictures of label maps: the colours of classes, and what a network says beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ptheta.data.label_maps import IGNORED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

SHOWN = 6


def palette() -> np.ndarray:
    """Colours (256, 3) of labels, those of PASCAL VOC: bits 0, 1, 2 of a label are the highest bits of red, green and
    blue, bits 3, 4, 5 the next ones, and so on; 255, which is no class, is white."""
    colours = np.zeros((256, 3), np.uint8)
    for label in range(255):
        for bit in range(8):
            colours[label, bit % 3] |= ((label >> bit) & 1) << (7 - bit // 3)
    colours[255] = 255
    return colours


def overlay(x: np.ndarray, y: np.ndarray, share: float = 0.5) -> np.ndarray:
    """A picture (H, W, 3) of bytes with the colours of its labels (H, W) laid over it; class 0, often what is behind
    everything, and what is no class stay as they are."""
    over = (1 - share) * x + share * palette()[y]
    return np.where(((y == 0) | (y == IGNORED))[..., None], x, over.round()).astype(np.uint8)


def of_model(model: Any, data: PictureData) -> dict[str, Figure]:
    """Pictures of the validation split, or of the training one, beside the truth and what the model says."""
    split = "valid" if "valid" in data.splits else "train"
    x, y = data.split(split)[:SHOWN], data.maps(split)
    assert y is not None
    said = model.predict(x.to(model.mean.device)).cpu()
    return {"predictions": side_by_side(x, y[:SHOWN], said, model.classes)}


def side_by_side(x: torch.Tensor, y: torch.Tensor, said: torch.Tensor, classes: list[str]) -> Figure:
    """One row a picture: it, its truth, what was said; the classes' colours below."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    h, w = x.shape[2:]
    columns = 3 * (1 if w > 1.2 * h or len(x) < 4 else 2)  # two pictures a row where they are not wide
    rows = -(-3 * len(x) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.1 * rows * h / w + 0.9), layout="constrained")
    axes = np.atleast_2d(figure.subplots(rows, columns))
    for one in axes.flat:
        one.axis("off")
    for k in range(len(x)):
        picture = x[k].permute(1, 2, 0).expand(-1, -1, 3).numpy()
        shown = (picture, palette()[y[k].numpy()], palette()[said[k].numpy()])
        for j, (image, title) in enumerate(zip(shown, ("picture", "truth", "prediction"))):
            at = axes.flat[3 * k + j]
            at.imshow(image, interpolation="nearest")
            if 3 * k + j < columns:
                at.set_title(title, fontsize=9)
    there = [c for c in torch.cat([y.unique(), said.unique()]).unique().tolist() if c != IGNORED][:24]
    patches = [Patch(facecolor=tuple(palette()[c] / 255), edgecolor="grey", label=classes[c]) for c in there]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(8, len(there)), fontsize=8, frameon=False)
    return figure
