"""The tour's third room: what a click may mean in scenes of things that have parts, and all masks without a click."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptheta import api
from ptheta.data.instances import Example
from ptheta.tour.page import flags, image

# For what is learned in two minutes: small scenes, one turn a conversation, large steps.
ON_SCENES: dict[str, Any] = {"size": 128, "interactions": 1, "learning_rate": 0.01}
ASKED = 24  # scenes, of which the figure is
POINTS, IOU, STABILITY = 16, 0.55, 0.4
CLICK = (
    "A click in a scene that the model has never seen, what it may mean (the truth), and its three answers, each with "
    "the IoU that the model expects of it."
)
EVERYTHING = "All masks of two scenes, by a grid of clicks: what it is surest of after two minutes, none of them twice."


def things(path: Path, steps: int, seed: int) -> str:
    """Learn p(mask | picture, prompt): three answers to one click, and masks of everything."""
    from ptheta.data.instances import load
    from ptheta.sam.evaluation import figures

    about = ON_SCENES | {"steps": steps, "seed": seed}
    command = f"ptheta train sam --data nested --out {path} {flags(about)}"
    run = api.train(
        "sam", data="nested", out=str(path), eval_every=steps, eval_size=4, command=command, **about
    )  # fmt: skip
    model = api.load(run)
    test = load("nested", size=about["size"]).split("test")[:ASKED]
    found = figures(model, test)
    clicked, boxed = (f"{found[k].mean:.2f} ± {found[k].standard_error:.2f}" for k in ("miou_1", "miou_box"))
    return f"""
<h2>Anything that is pointed at</h2>
<p>A click on a thing's part may mean the part or the whole, so there are three answers to it. In {steps:,} updates of
four drawn scenes a small model of Segment Anything's kind learns <i>p</i><sub>θ</sub>(mask | picture, prompt); the
published weights answer the same commands. On {len(test)} scenes that it has not seen, the best of its answers to a
click has an IoU of {clicked} with what was meant, and of {boxed} where a box is drawn around it.</p>
{image(answered(model, most_nested(test)), CLICK)}
{image(all_masks(model, test[:2]), EVERYTHING)}
<pre>{html.escape(command)}
ptheta segment PICTURE --model {html.escape(str(run.path))} --point X,Y
ptheta segment PICTURE --model {html.escape(str(run.path))} --everything --iou {IOU} --stability {STABILITY}</pre>
"""


def most_nested(examples: Sequence[Example]) -> tuple[Example, tuple[int, int], list[np.ndarray]]:
    """The click, among the middles of all masks, that most masks hold; and these, the smallest first."""
    from ptheta.sam.clicks import middle

    best: tuple[Example, tuple[int, int], list[np.ndarray]] | None = None
    for example in examples:
        masks = np.stack([example.mask(i) for i in range(len(example.masks))])
        for x, y in middle(torch.from_numpy(masks))[0].int().tolist():
            held = sorted(masks[masks[:, y, x]], key=lambda mask: mask.sum())
            if best is None or len(held) > len(best[2]):
                best = example, (x, y), held
    assert best is not None
    return best


def answered(model: Any, of: tuple[Example, tuple[int, int], list[np.ndarray]]) -> Any:
    """What a click may mean, and the three answers."""
    from matplotlib.figure import Figure

    from ptheta.sam.overlays import overlay
    from ptheta.sam.predictor import Predictor

    example, at, held = of
    x = example.picture.transpose(1, 2, 0)
    predictor = Predictor(model)
    predictor.set_image(x)
    answer = predictor.predict(points=[at], labels=[1])
    order = answer.masks.flatten(1).sum(1).argsort().tolist()
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(overlay(x, held))
    axes[0].set_title("the click, and the truth", fontsize=8)
    for axis, k in zip(axes[1:], order):
        axis.imshow(overlay(x, [answer.masks[k].numpy()]))
        axis.set_title(f"expected IoU {answer.ious[k].item():.2f}", fontsize=8)
    for axis in axes:
        axis.plot(*at, "*", color="white", markeredgecolor="black", markersize=10)
        axis.set_axis_off()
    return figure


def all_masks(model: Any, examples: Sequence[Example]) -> Any:
    """Pictures, and beside each all of its masks."""
    from matplotlib.figure import Figure

    from ptheta.data import rle
    from ptheta.sam.everything import Everything, everything
    from ptheta.sam.overlays import overlay
    from ptheta.sam.predictor import Predictor

    asked = Everything(points=POINTS, iou=IOU, stability=STABILITY)
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.subplots(1, 2 * len(examples))
    for k, example in enumerate(examples):
        x = example.picture.transpose(1, 2, 0)
        masks = [rle.decode(one["segmentation"]) for one in everything(Predictor(model), x, asked)]
        axes[2 * k].imshow(x)
        axes[2 * k + 1].imshow(overlay(x, masks))
        axes[2 * k + 1].set_title(f"{len(masks)} masks", fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    return figure
