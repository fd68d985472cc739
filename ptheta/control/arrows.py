r"""`ptheta gridworld`: values and policies of a grid world, in numbers, arrows and a picture.

The best policy, by eq. (7) of `gridworld`, or the one that draws every action alike; its values v_π, the stationary
distribution d_π that it leads to, and the averages of eq. (4). A policy that does not draw may end where it starts:
then it has no single d_π, and what is shown is that of the same policy with one step in a hundred drawn.
"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.gridworld import ACTIONS, MOVES, Exact, GridWorld, book, exact, greedy, value_iteration
from ptheta.engine.errors import UsageError
from ptheta.engine.results import save_whole, target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARROWS = dict(zip(ACTIONS, "↑→↓←○", strict=True))
DRAWN = 0.01  # share of drawn steps where a policy needs some
MOST = 2500  # cells


def cells(text: str, name: str) -> list[tuple[int, int]]:
    """ "3,2 4,1" as [(3, 2), (4, 1)]. Raises UsageError for anything else."""
    try:
        return [(int(row), int(column)) for row, column in (word.split(",") for word in text.split())]
    except ValueError as error:
        message = f"{name} {text!r} are no cells; allowed: row,column counted from 0, as '3,2 4,1'."
        raise UsageError(message) from error


def world_of(rows: int | None, columns: int | None, goal: str | None, forbidden: str | None, gamma: float) -> GridWorld:
    """The book's world, or one of the given sides, with the target in its last cell unless it is named."""
    if rows is None and columns is None and goal is None and forbidden is None:
        return book(gamma)
    given = [side for side in (rows, columns) if side is not None] or [5]
    n, m = given[0] if rows is None else rows, given[0] if columns is None else columns
    if n * m > MOST:
        raise UsageError(f"{n} x {m} are more cells than are solved at once; allowed: up to {MOST:,}.")
    at = cells(goal, "--goal") if goal else [(n - 1, m - 1)]
    if len(at) != 1:
        raise UsageError(f"--goal {goal!r} are {len(at)} cells; allowed: one.")
    return GridWorld(n, m, at[0], tuple(cells(forbidden or "", "--forbidden")), gamma)


def gridworld(
    rows: int | None = None, columns: int | None = None, goal: str | None = None, forbidden: str | None = None,
    gamma: float = 0.9, policy: Literal["best", "uniform"] = "best", out: Path | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Values, policy and stationary distribution of a grid world, exactly.

    Args:
        rows: Of the grid (default: the book's 5 x 5 world, if nothing of the world is given).
        columns: Of the grid.
        goal: Its row,column, counted from 0 (default: the last cell).
        forbidden: Cells that cost, as '1,1 1,2'.
        gamma: Discount.
        policy: The best one, or every action alike.
        out: Picture to write (default: gridworld.png, numbered when it exists).
        json: Print one JSON object.
    """
    world = world_of(rows, columns, goal, forbidden, gamma)
    path = target(".", out, "gridworld")
    pi, found = solved(world, policy)
    figure = picture(world, pi, found)
    save_whole(path, {".png": lambda p: figure.savefig(p, format="png", dpi=130)}, say=False)
    path = path.with_name(path.name + ".png")
    told = {
        "rows": world.rows, "columns": world.columns, "target": list(world.target),
        "forbidden": [list(cell) for cell in world.forbidden], "gamma": gamma, "policy": policy,
        "values": found.v.tolist(), "stationary": found.d.tolist(),
        "actions": [ACTIONS[i] for i in pi.argmax(1).tolist()] if policy == "best" else None,
        "mean_value": found.mean_value.item(), "first_value": found.first_value.item(),
        "mean_reward": found.mean_reward.item(), "picture": str(path),
    }  # fmt: skip
    if json:
        print(json_module.dumps(told))
        return told
    for row in range(world.rows):
        at = slice(row * world.columns, (row + 1) * world.columns)
        signs = [sign(world, (row, column), pi[row * world.columns + column]) for column in range(world.columns)]
        print(" ".join(signs) + "   " + " ".join(f"{v:6.2f}" for v in found.v[at].tolist()))
    print(
        f"\nmean value {found.mean_value:.4f} where it is in the end, {found.first_value:.4f} from a cell drawn alike; "
        f"mean reward {found.mean_reward:.4f}\n{path}"
    )
    return told


def solved(world: GridWorld, policy: str) -> tuple[Float[Tensor, "S A"], Exact]:
    """The policy that is shown and everything about it; of the best one d_π and the mean reward are those with a share
    DRAWN of drawn steps, if it has none of its own."""
    uniform = torch.full((world.states, len(ACTIONS)), 1 / len(ACTIONS), dtype=torch.float64)
    if policy == "uniform":
        return uniform, exact(world, uniform)
    pi = greedy(value_iteration(world)[1])
    try:
        return pi, exact(world, pi)
    except UsageError:
        import dataclasses

        drawn = exact(world, (1 - DRAWN) * pi + DRAWN * uniform)
        v, q = value_iteration(world)
        return pi, dataclasses.replace(drawn, v=v, q=q, mean_value=drawn.d @ v, first_value=v.mean())


def sign(world: GridWorld, cell: tuple[int, int], pi: Float[Tensor, " A"]) -> str:
    """An arrow, or · where actions are drawn; brackets round the target, a # behind a forbidden cell."""
    arrow = ARROWS[ACTIONS[int(pi.argmax())]] if pi.max() > 0.5 else "·"
    if cell == world.target:
        return f"[{arrow}]"
    return f" {arrow}#" if cell in world.forbidden else f" {arrow} "


def picture(world: GridWorld, pi: Float[Tensor, "S A"], found: Exact) -> Figure:
    """Left: values in colours, arrows as long as their probability. Right: the stationary distribution."""
    from matplotlib.figure import Figure

    n, m = world.rows, world.columns
    side = min(4.5, 0.75 * max(n, m) + 0.8)
    figure = Figure(figsize=(2 * side + 2.0, side * n / max(n, m) + 0.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, image, title in (
        (left, draw(left, world, pi, found.v), "values and policy"),
        (right, cells_of(right, world, found.d, "Greys"), "where it is in the end"),
    ):
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_title(title, fontsize=10)
    return figure


def cells_of(axes: Axes, world: GridWorld, values: Float[Tensor, " S"], colours: Any) -> Any:
    """Numbers in colours, the target framed green and forbidden cells red."""
    from matplotlib.patches import Rectangle

    image = axes.imshow(values.view(world.rows, world.columns).numpy(), cmap=colours)
    axes.set_xticks([])
    axes.set_yticks([])
    for cell, colour in [(world.target, "C2"), *((cell, "C3") for cell in world.forbidden)]:
        corner = (cell[1] - 0.46, cell[0] - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colour, linewidth=2))
    return image


def draw(axes: Axes, world: GridWorld, pi: Float[Tensor, "S A"], v: Float[Tensor, " S"]) -> Any:
    """Values in colours, and in numbers where there are few; arrows as long as their probability."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    light = ListedColormap(colormaps["YlGnBu"](torch.linspace(0, 0.55, 256).numpy()))  # numbers can be read on it
    image = cells_of(axes, world, v, light)
    m, few = world.columns, world.states <= 100
    for s in range(world.states):
        row, column = divmod(s, m)
        for (down, across), p in zip(MOVES, pi[s].tolist(), strict=True):
            if (down, across) == (0, 0):
                axes.plot(column, row, "o", color="black", fillstyle="none", markersize=9 * p if p > 0.02 else 0)
            elif p > 0.02:
                axes.annotate(
                    "", (column + 0.4 * p * across, row + 0.4 * p * down), (column, row),
                    arrowprops={"arrowstyle": "->", "color": "black"},
                )  # fmt: skip
        if few:
            axes.text(column + 0.42, row + 0.4, f"{v[s]:.1f}", fontsize=6.5, ha="right", va="bottom")
    return image


def command(argv: list[str]) -> int:
    """`ptheta gridworld [options]`."""
    import tyro

    tyro.cli(gridworld, args=argv, prog="ptheta gridworld", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
