"""The tour: learn from real digits, drawn scenes and reward, use what was learned, write an illustrated page of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ptheta.engine.errors import UsageError


def tour(out: Path = Path("tour"), steps: int = 2000, seed: int = 0) -> None:
    """Learn digits with MADE: sample, densities, completions; label scenes' pixels; segment; act; write OUT/index.html.

    Args:
        out: Folder for the page and for the runs behind it. An earlier tour's page there is replaced, its runs stay,
            and anything else is refused.
        steps: Updates of the first training; the others take their share of them.
        seed: Of everything that is drawn.
    """
    from ptheta.engine.checkpoint import write_text
    from ptheta.tour import anything, control, density, segmentation
    from ptheta.tour.page import document

    began = time.monotonic()
    page = out / "index.html"
    if out.exists() and any(out.iterdir()) and not (page.exists() and "ptheta tour" in page.read_text(errors="ignore")):
        raise UsageError(f"{out} holds something that is no tour; name another --out.")
    if not page.exists():  # so that a tour that is cut short can be taken again
        out.mkdir(parents=True, exist_ok=True)
        write_text(page, "<!doctype html><title>ptheta tour</title><p>It is under way, or was cut short.</p>\n")
    k, runs = 1, (
        "made-digits", "joint-digits", "context-scenes", "sam-scenes", "gridworld", "trpo-balance", "ddpg-balance",
    )  # fmt: skip
    while any((out / f"{name}-{k}").exists() or (out / f"{name}-{k}-1").exists() for name in runs):
        k += 1
    made, joint, scenes, masks, world = (out / f"{name}-{k}" for name in runs[:5])
    sections = [
        density.digits(made, steps, seed),
        density.digits_with_labels(joint, max(1, steps // 2), seed),
        segmentation.scenes(scenes, max(1, 3 * steps // 4), seed),
        anything.things(masks, max(1, 3 * steps // 20), seed),
        *control.sections(world, out / f"balance-{k}", steps, seed),
    ]
    seconds = time.monotonic() - began
    write_text(page, document(sections, seconds))
    print(page)
    print(f"ptheta: the tour took {seconds:.0f} s; open {page} in a browser.", file=sys.stderr)
