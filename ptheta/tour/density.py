"""The tour's first room: a distribution of handwritten digits, and the joint one with their labels."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import torch

from ptheta import api
from ptheta.tour.page import flags, image

LEARNING = (
    "The mean of −log p over the training digits and over digits held back, while it learns. "
    "The model that is kept is the best on the latter."
)
SAMPLES = "Left: digits that it has never seen. Right: digits that it made up."
COMPLETIONS = (
    "The upper half is observed, the lower half is drawn. The pixels are visited row by row, so these draws are exact."
)
HALVES = (
    "The left half is observed. It does not come first in the order, so each picture is chosen by its weight among "
    "many: {} draws count (median)."
)

# Chosen on the validation split: see docs/density.md.
MADE_ON_DIGITS: dict[str, Any] = {"hidden": (1000,), "learning_rate": 0.005, "dropout": 0.7}
JOINT_ON_DIGITS: dict[str, Any] = MADE_ON_DIGITS | {"label": "first"}
CLASSES = "Each row: pictures drawn from p(x | y) of one class y."
HALF = (
    "Left: the upper half of a digit from the test set. Then three lower halves drawn for it, each with its log "
    "probability given the upper half, in nats; the truth; and what the upper half alone says about the class."
)


def digits(path: Path, steps: int, seed: int) -> str:
    """Learn p(x) of the digits: what was learned, in figures and pictures."""
    from ptheta.data.binary import load as load_data
    from ptheta.density import pictures
    from ptheta.density.fvsbn import FVSBN
    from ptheta.density.likelihood import evaluate, log_odds

    command = f"ptheta train made --data digits --steps {steps} --seed {seed} --out {path} {flags(MADE_ON_DIGITS)}"
    run = api.train(
        "made", data="digits", steps=steps, seed=seed, out=str(path), eval_every=max(1, steps // 30), command=command,
        **MADE_ON_DIGITS,
    )  # fmt: skip
    model, data = api.load(run), load_data("digits")
    train, test = data.split("train"), data.split("test")
    independent = FVSBN(data.n)
    independent.start_at(log_odds(train))
    rows = []
    for name, m, x in (
        ("pixels independent of each other", independent, test),
        ("MADE", model, test),
        ("MADE, on the digits it was trained on", model, train),
    ):
        figures = evaluate(m, x)
        nats, bits = figures["nats"], figures["bits_per_dim"]
        rows.append(
            f'<tr><td>{name}</td><td class="n">{nats.mean:.2f} ± {nats.standard_error:.2f}</td>'
            f'<td class="n">{bits.mean:.3f}</td><td class="n">{nats.n:,}</td></tr>'
        )
    noise = (torch.rand(len(test), data.n, generator=torch.Generator().manual_seed(0)) < test.float().mean(0)).float()
    flipped = test.clone()
    flipped[:, 27] = 1 - flipped[:, 27]
    scores = {
        "test digits": model.log_prob(test), "the same, one pixel flipped": model.log_prob(flipped),
        "noise with the digits' pixel means": model.log_prob(noise),
    }  # fmt: skip
    shape = (8, 8)
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    done = model.complete(test[:8], left.flatten(), particles=512)
    return f"""
<h2>A distribution of handwritten digits</h2>
<p>1,257 scanned digits of 8 × 8 pixels, black or white. A masked autoencoder (MADE) learns the probability of every one
of the 2<sup>64</sup> such pictures:
<i>p</i><sub>θ</sub>(<i>x</i>) = ∏ <i>p</i><sub>θ</sub>(<i>x</i><sub>d</sub> | <i>x</i><sub>&lt;d</sub>).</p>
{image(curve(run), LEARNING)}
{image(pictures.samples(test, model.sample(64, seed=1), shape, "MADE"), SAMPLES)}
<h2>How likely is this?</h2>
<p>The density is exact: it sums to one over all pictures. Fewer nats are better.</p>
<div class="wide"><table><tr><th>model</th><th>−log p, nats</th><th>bits a pixel</th><th>digits</th></tr>
{"".join(rows)}</table></div>
{image(histogram(scores), "It tells digits from what merely resembles them pixel by pixel.")}
<h2>What belongs in the hidden half?</h2>
{image(pictures.completions(model, test[:8], shape, 0), COMPLETIONS)}
{image(two_halves(test[:8], done.x, left), HALVES.format(f"{done.effective.median().item():.0f} of {done.particles}"))}
<p>Again, and then your own data:</p>
<pre>{html.escape(command)}
ptheta sample {html.escape(str(run.path))}
ptheta train made --data FILE_OR_FOLDER</pre>
"""


def digits_with_labels(path: Path, steps: int, seed: int) -> str:
    """Learn the joint p(x, y): a class drawn, classification by Bayes' rule, and a class read off half a digit."""
    from ptheta.data.binary import load as load_data
    from ptheta.density import pictures
    from ptheta.density.likelihood import evaluate

    about = JOINT_ON_DIGITS | {"steps": steps, "seed": seed}
    command = f"ptheta train made --data digits --out {path} {flags(about)}"
    run = api.train("made", data="digits", out=str(path), command=command, **about)
    model, data = api.load(run), load_data("digits")
    figures = evaluate(model, data.split("test"), data.labels("test"))
    right, ece = figures["accuracy"], figures["ece"]
    return f"""
<h2>With the label as one more variable</h2>
<p>The same model, told which digit each picture is, learns the joint <i>p</i><sub>θ</sub>(<i>x</i>, <i>y</i>).
It was never trained to classify; yet by Bayes' rule it names
{100 * right.mean:.1f} ± {100 * right.standard_error:.1f} % of the test digits rightly, with a calibration error of
{ece.mean:.3f}.</p>
{image(pictures.classes(model, (8, 8), 0), CLASSES)}
{image(half_digits(model, data.split("test")[3:7]), HALF)}
<pre>{html.escape(command)}
ptheta sample {html.escape(str(run.path))} --y 3</pre>
"""


def half_digits(model: Any, x: torch.Tensor, draws: int = 3) -> Any:
    """For each of a few digits: its upper half, completions with their log probabilities, the truth, p(y | upper half).

    Exact: label and upper half come first in the ordering, so p(y, upper half) is a product of conditionals.
    """
    from matplotlib.figure import Figure

    top = torch.arange(64) < 32
    seen = torch.ones(model.n, dtype=torch.bool)
    seen[model.classes :] = top
    figure = Figure(figsize=(8, 1.45 * len(x)))
    axes = figure.subplots(len(x), draws + 3, width_ratios=[1] * (draws + 2) + [1.8])
    for row, digit in zip(axes, x.float(), strict=True):
        every = model.join(digit.repeat(model.classes, 1), torch.arange(model.classes))
        log_joint = model.marginal(every, seen).log_prob  # log p(y, upper half)
        posterior = log_joint.softmax(0)
        y = torch.multinomial(posterior, draws, replacement=True, generator=torch.Generator().manual_seed(0))
        done = model.split(model.complete(every[y], seen, seed=1).x)[0]
        log_p = model.joint_log_prob(torch.cat([done, digit[None]])).logsumexp(1).double() - log_joint.logsumexp(0)
        shown = [torch.where(top, digit, 0.25), *done, digit]
        titles = ["observed", *(f"{v:.1f}" for v in log_p[:-1]), f"truth {log_p[-1]:.1f}"]
        for axis, picture, title in zip(row, shown, titles):
            axis.imshow(1 - picture.view(8, 8), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
        row[-1].bar(range(model.classes), posterior.tolist())
        row[-1].set_ylim(0, 1)
        row[-1].set_yticks([])
        row[-1].set_xticks(range(model.classes))
        row[-1].tick_params(labelsize=7, length=0)
    figure.tight_layout()
    return figure


def curve(run: Any) -> Any:
    """Loss of training and nats of validation against the updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    axes = figure.add_subplot()
    lines = run.metrics()
    held = [(m["step"], m["nats"]) for m in lines if m["split"] == "valid"]
    seen = [(m["step"], m["loss"]) for m in lines if m["split"] == "train"]
    axes.plot(*zip(*seen, strict=True), label="training", linewidth=1, alpha=0.7)
    axes.plot(*zip(*held, strict=True), label="validation", linewidth=2)
    axes.set_ylim(min(v for _, v in [*held, *seen]) - 1, held[0][1] + 1)
    axes.set_xlabel("updates")
    axes.set_ylabel("nats")
    axes.legend(frameon=False)
    return figure


def histogram(scores: dict[str, torch.Tensor]) -> Any:
    """How log p is spread over several sets of vectors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    axes = figure.add_subplot()
    low, high = min(float(v.min()) for v in scores.values()), max(float(v.max()) for v in scores.values())
    bins = torch.linspace(low, high, 50).tolist()
    for name, values in scores.items():
        axes.hist(values.tolist(), bins=bins, alpha=0.55, label=name)
    axes.set_xlabel("log p(x), nats")
    axes.set_yticks([])
    axes.legend(frameon=False)
    return figure


def two_halves(x: torch.Tensor, drawn: torch.Tensor, observed: torch.Tensor) -> Any:
    """Rows of pictures: what was observed, what was drawn, the truth."""
    from matplotlib.figure import Figure

    from ptheta.density.pictures import grid

    h, w = observed.shape
    shown = torch.where(observed.flatten(), x.float(), 0.25)
    figure = Figure(figsize=(7, 2.9))
    axes = figure.add_subplot()
    axes.imshow(grid(torch.cat([shown, drawn.float(), x.float()]), (h, w), len(x)), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([h / 2 + k * (h + 1) for k in range(3)], ["observed", "drawn", "truth"])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
