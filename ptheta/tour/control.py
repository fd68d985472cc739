"""The tour's third room: a grid world in which the best policy is known, a pole that is held up, a pendulum."""

from __future__ import annotations

import base64
import contextlib
import html
import io
from pathlib import Path
from typing import Any

import torch

from ptheta import api
from ptheta.engine.errors import InputError
from ptheta.tour.page import flags, image

STAGES = (0.05, 0.25, 1.0)  # of the steps in the grid world
# Steps and hyperparameters, chosen on validation episodes for what is learned in less than a minute each. The seed is
# two more than the tour's: with 0 and 1, a pole is held up by networks that have learned nothing, some of the time.
POLE = ("trpo", "CartPole-v1", 20_000, {})
PENDULUM = ("ddpg", "Pendulum-v1", 7_000, {"hidden": (64, 64), "batch_size": 128, "gamma": 0.98, "warmup": 500})
GRID = (
    "Uniformly random walkers teach a policy what they never do themselves. Arrows: what it does in each cell, "
    "after {stages} steps; colours: what the policy is worth there, by linear equations, without a sample. Red cells "
    "cost, the green one pays each time. Of the best policy's mean value, {best:.2f}, these have {values}."
)


def sections(world_path: Path, path: Path, steps: int, seed: int) -> list[str]:
    """Both stops; or, where gymnasium is not installed, how to have them."""
    from ptheta.control.ids import imported

    try:
        imported()
    except InputError as error:
        return [f"<h2>What to do, learned from reward</h2><p>This part was left out: {html.escape(str(error))}</p>"]
    return [world(world_path, 20 * steps, seed), balanced(path, steps, seed)]


def world(path: Path, steps: int, seed: int) -> str:
    """Off-policy actor–critic on the book's grid world, at three stages, beside the best policy."""
    from matplotlib.figure import Figure

    from ptheta.control.arrows import draw
    from ptheta.control.gridworld import book, exact, value_iteration

    known, policies, values = book(), [], []
    for k, share in enumerate(STAGES):
        options: dict[str, Any] = {"steps": max(64, round(share * steps)), "seed": seed}
        command = f"ptheta train offpac --out {path}-{k + 1} {flags(options)}"
        run = api.train("offpac", out=f"{path}-{k + 1}", command=command, eval_every=options["steps"], **options)
        model = api.load(run)
        with torch.no_grad():
            policies.append(model.policy.given(torch.eye(known.states))[0].double().softmax(1))
        values.append(float(exact(known, policies[-1]).first_value))
    figure = Figure(figsize=(11, 3.9))
    for axes, pi in zip(figure.subplots(1, len(policies)), policies):
        draw(axes, known, pi, exact(known, pi).v)
    figure.tight_layout()
    best = float(value_iteration(known)[0].mean())
    stages = ", ".join(f"{max(64, round(share * steps)):,}" for share in STAGES)
    said = GRID.format(stages=stages, best=best, values=", ".join(f"{v:.2f}" for v in values))
    return f"""
<h2>What to do, learned from reward</h2>
<p>π<sub>θ</sub>(action | state), and no one says which action was right: the world pays, or it does not.</p>
{image(figure, said)}
<pre>{html.escape(command)}
ptheta gridworld</pre>
"""


def balanced(path: Path, steps: int, seed: int) -> str:
    """CartPole by TRPO and Pendulum by DDPG, each an episode as a moving picture."""
    shown = []
    for name, env, count, config in (POLE, PENDULUM):
        about = {**config, "steps": max(500, count * steps // 2000), "seed": seed + 2}
        out = path.with_name(f"{name}-{path.name}")
        command = f"ptheta train {name} --env {env} --out {out} {flags(about)}"
        run = api.train(name, env=env, out=str(out), command=command, eval_every=max(1, about["steps"] // 8), **about)
        found = [m["return_mean"] for m in run.metrics() if "return_mean" in m]
        caption = (
            f"{env} by {name}: an episode of the policy after {about['steps']:,} steps. Mean return of ten others: "
            f"{max(found):.0f}; before it had learned anything, {found[0]:.0f}."
        )
        shown.append(
            moving(run.path, caption) + f"<pre>{html.escape(command)}\nptheta play {run.path} --video FILE</pre>"
        )
    return "\n".join(shown)


def moving(run: Path, caption: str) -> str:
    """An episode as a GIF within the page."""
    from ptheta.playing import play

    file = run / "play.gif"
    with contextlib.redirect_stdout(io.StringIO()):
        play(str(run), video=file)
    data, text = base64.b64encode(file.read_bytes()).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/gif;base64,{data}"><figcaption>{text}</figcaption></figure>'
