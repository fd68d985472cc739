"""The tour's second room: pixels of drawn scenes are labelled, and what one answer looks at."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ptheta import api
from ptheta.tour.page import flags, image

# Chosen on the validation split, for what is learned in a minute: scenes are seen as they are, in large steps.
ON_SCENES: dict[str, Any] = {
    "size": 64, "width": 16, "output_stride": 4, "learning_rate": 0.01, "least_scale": 1, "greatest_scale": 1,
    "colour": 0,
}  # fmt: skip
SHOWN = 6
SCENES = "Scenes that it has never seen, what is in them, and what it says of each pixel."
FIELD = (
    "Left: one pixel, what it is said to be, and the {side} × {side} pixels that the network would read for it without "
    "its dilated layers; with them it can read the whole picture. Right: how much each pixel does tell of it, by the "
    "gradient of the answer, the darker the more."
)


def scenes(path: Path, steps: int, seed: int) -> str:
    """Learn p(label | pixels) of scenes: predictions, scores, and the receptive field, as it is and as it is used."""
    from ptheta.data.label_maps import load
    from ptheta.segmentation.learning import judged, matrices
    from ptheta.segmentation.pictures import side_by_side

    about = ON_SCENES | {"steps": steps, "seed": seed}
    command = f"ptheta train context --data scenes --out {path} {flags(about)}"
    run = api.train("context", data="scenes", out=str(path), eval_every=max(1, steps // 5), command=command, **about)
    model, data = api.load(run), load("scenes", size=about["size"])
    x, y = data.split("test"), data.maps("test")
    assert y is not None
    rows = {
        "the network": judged(matrices(model, x, y)),
        "everything is ground": judged(all_ground(y, len(data.classes))),
    }
    names = {"pa": "pixel accuracy", "mpa": "mean over classes", "miou": "mean IoU"}
    cells = "".join(
        f"<tr><td>{who}</td>"
        + "".join(f'<td class="n">{100 * f[k].mean:.1f} ± {100 * f[k].standard_error:.1f}</td>' for k in names)
        + "</tr>"
        for who, f in rows.items()
    )
    said = model.predict(x[:SHOWN])
    figure, side = looked_at(model, x[:SHOWN], said)
    return f"""
<h2>A label for every pixel</h2>
<p>2,000 drawn scenes of {about["size"]} × {about["size"]} pixels, in which neither colour nor texture tells what a
thing is: its outline does. A network of dilated convolutions, of the rates 1, 1, 2, 4, 8, 16 and 1, which look far and
skip nothing, learns <i>p</i><sub>θ</sub>(label | pixels).</p>
{image(side_by_side(x[:SHOWN], y[:SHOWN], said, model.classes), SCENES)}
<div class="wide"><table><tr><th>test scenes, %</th>{"".join(f"<th>{v}</th>" for v in names.values())}</tr>
{cells}</table></div>
<p>Pixel accuracy flatters: most pixels are ground, and who names nothing else is right about them.</p>
{image(figure, FIELD.format(side=side))}
<pre>{html.escape(command)}
ptheta predict {html.escape(str(run.path))} PICTURES --out FOLDER
ptheta dilation 1,1,2,4,8,16,1
ptheta ablation</pre>
"""


def all_ground(y: torch.Tensor, classes: int) -> list[torch.Tensor]:
    """The confusion matrices of who says 0 everywhere."""
    from ptheta.segmentation.confusion import confusion

    return [confusion(truth, torch.zeros_like(truth), classes) for truth in y]


class FrontEnd(nn.Module):
    """The last map before the context module."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone = model.backbone

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return self.backbone(v)[1]


def looked_at(model: Any, x: torch.Tensor, said: torch.Tensor) -> tuple[Any, int]:
    """For the middle pixel of the largest thing that is found in the scenes: the box that the front end reads for it,
    and how much each pixel tells the whole network; and the box's side where the picture does not end it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from ptheta.segmentation.receptive import effective, read

    found = torch.stack([(said == c).sum((1, 2)) for c in range(1, len(model.classes))], 1)  # (b, k − 1) pixels
    row, c = divmod(int(found.argmax()), found.shape[1])
    channel = c + 1 if found.max() else 0
    at = (said[row] == channel).nonzero()
    q = tuple(at[(at - at.float().mean(0)).square().sum(1).argmin()].tolist())
    stride = model.backbone.output_stride
    box = read(FrontEnd(model), tuple(x.shape[1:]), tuple(i // stride for i in q)).pixels.nonzero()
    (top, left), (bottom, right) = box.min(0).values.tolist(), box.max(0).values.tolist()
    side = read(FrontEnd(model), (x.shape[1], 200, 200)).field[0]
    tells = effective(model.scores, model.normalised(x[row : row + 1])[0], q, channel)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].imshow(x[row].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0].add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, edgecolor="C3")
    )
    axes[1].imshow(np.sqrt(tells.numpy()), cmap="Greys", interpolation="nearest")
    for axis, title in zip(axes, (f'"{model.classes[channel]}"', "what tells it"), strict=True):
        axis.plot(q[1], q[0], "+", color="C3", markersize=11, markeredgewidth=2)
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, side
