r"""`ptheta dilation RATES`: what a stack of dilated convolutions reads, in numbers and in a picture.

For the rates r_1, r_2, … the layers one by one, with eqs. (1) to (3) of `dilation`; then what one output of the whole
stack reads, eq. (4), and the condition of hybrid dilated convolution beside it, eq. (5). The picture shows c_p c_q, the
paths from each pixel after one layer, two layers, and so on; pixels that are never read are white.
"""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptheta.engine.errors import UsageError
from ptheta.engine.results import save_whole, target
from ptheta.segmentation.dilation import (
    Layer,
    effective_kernel,
    gaps,
    jumps,
    paths,
    receptive_field,
    satisfies_hdc,
    search,
    support,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 4000  # pixels along the field's side
SHOWN = 5  # stacks without holes that `--search` lists


def whole_numbers(text: str, name: str) -> list[int]:
    """ "1,2,5" as [1, 2, 5]. Raises UsageError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{name} {text!r} are no whole numbers; allowed: numbers from 1 with commas, as 1,2,5.")
    return numbers


def stack_of(rates: str, kernel: int, strides: str | None) -> list[Layer]:
    """One layer for each rate."""
    r = whole_numbers(rates, "rates")
    s = whole_numbers(strides, "strides") if strides else [1] * len(r)
    if len(s) != len(r):
        raise UsageError(
            f"{len(s)} strides for {len(r)} rates; allowed: one for each, as --strides {','.join('1' * len(r))}."
        )
    return [Layer(kernel, rate, stride) for rate, stride in zip(r, s)]


def dilation(
    rates: Annotated[str, tyro.conf.Positional], kernel: int = 3, strides: str | None = None, find: bool = False,
    out: Path | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What a stack of dilated convolutions reads: its layers, its field, its holes, and a picture of them.

    Args:
        rates: Of the layers, first one first, as 1,2,5.
        kernel: Weights along a side.
        strides: Of the layers, as 1,1,2 (default: all 1).
        find: List stacks of as many layers, of rates no greater than the greatest, that have no holes.
        out: Picture to write (default: dilation-RATES.png, numbered when it exists).
        json: Print one JSON object.
    """
    stack = stack_of(rates, kernel, strides)
    if (n := receptive_field(stack)) > MOST:
        raise UsageError(f"a field of {n:,} pixels is more than a picture shows; allowed: up to {MOST:,}.")
    r, found = [layer.rate for layer in stack], support(stack)
    plain = all(layer.stride == 1 for layer in stack)
    if find and not plain:
        raise UsageError("--find knows stacks of stride 1 alone; leave --strides out.")
    others = search(len(stack), kernel, max(r)) if find else []
    path = target(".", out, f"dilation-{'-'.join(map(str, r))}"[:100])
    figure = picture(stack)
    save_whole(path, {".png": lambda p: figure.savefig(p, format="png", dpi=130)}, say=False)
    path = path.with_name(path.name + ".png")
    told = {
        "kernel": kernel, "rates": r, "strides": [layer.stride for layer in stack], **asdict(found),
        "share": found.share, "gaps": gaps(r) if plain else None, "hdc": satisfies_hdc(r, kernel) if plain else None,
        "picture": str(path),
        "without_holes": others if find else None,
    }  # fmt: skip
    if json:
        print(json_module.dumps(told))
        return told
    print("layer  kernel  rate  stride  covers  apart  field")
    for i, (layer, J) in enumerate(zip(stack, jumps(stack)), 1):
        K, R = effective_kernel(layer.kernel, layer.rate), receptive_field(stack[:i])
        print(f"{i:5}  {layer.kernel:6}  {layer.rate:4}  {layer.stride:6}  {K:6}  {J:5}  {R:5}")
    n = found.field
    print(f"\nfield  {n} x {n} pixels, of which {found.used}² = {found.used**2:,} are read, {found.share:.1%}")
    holes = f"{len(found.holes)} of {n} along a side, at most {found.widest} together" if found.holes else "none"
    print(f"holes  {holes}")
    if plain and len(r) > 1:
        said = "satisfied" if told["hdc"] else "not satisfied"
        more = ", but there are holes" if told["hdc"] and found.holes else ""
        print(f"HDC    M_2 = {gaps(r)[1]} and the kernel is {kernel}: {said}{more}")
    if find:
        print(f"\nstacks of {len(r)} rates up to {max(r)} without holes: {len(others):,}, furthest first")
        for other in others[:SHOWN]:
            print(f"  {','.join(map(str, other)):12} field {receptive_field([Layer(kernel, x) for x in other])}")
    print(f"\n{path}")
    return told


def picture(stack: list[Layer]) -> Figure:
    """Paths from each pixel after one layer, two layers, …, in one scale of colours each; white: never read."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(stack) + 0.3, 3.0), layout="constrained")
    colours = colormaps["viridis_r"].with_extremes(bad="white")
    R = receptive_field(stack)
    for i in range(1, len(stack) + 1):
        axes = figure.add_subplot(1, len(stack), i)
        c = paths(stack[:i]).double().numpy()
        both = np.outer(c, c)
        edge = len(c) / 2
        axes.imshow(
            np.ma.masked_equal(both, 0), cmap=colours, norm=LogNorm(1, max(both.max(), 2)), interpolation="nearest",
            extent=(-edge, edge, -edge, edge),
        )  # fmt: skip
        axes.set_xlim(-R / 2, R / 2)
        axes.set_ylim(-R / 2, R / 2)
        axes.set_xticks([])
        axes.set_yticks([])
        seen = support(stack[:i])
        rates = ", ".join(str(layer.rate) for layer in stack[:i])
        axes.set_title(f"rates {rates}\n{seen.field} x {seen.field}, {seen.share:.0%} read", fontsize=9)
    return figure


def command(argv: list[str]) -> int:
    """`ptheta dilation RATES [options]`."""
    tyro.cli(dilation, args=argv, prog="ptheta dilation", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
