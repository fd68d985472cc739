"""`ptheta compare`: what runs of several seeds reached and how fast, side by side, with intervals and learning curves.

Runs that differ in nothing but the seed make a group. Of fewer than five seeds each is told; from five on their
interquartile mean with its interval of 95 % (`ptheta.engine.statistics`). Each data set has a panel of its own.
"""

from __future__ import annotations

import itertools
import json as json_module
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from ptheta import api
from ptheta.engine.errors import InputError, UsageError, unknown
from ptheta.engine.measurements import LAST, Measured, lines, measurements, number
from ptheta.engine.progress import clock
from ptheta.engine.results import save_whole, target
from ptheta.engine.run import Run
from ptheta.engine.statistics import improvement, improvement_interval, interval, iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENOUGH = 5  # seeds from which on there is an interval
SUMMARIES = {"best": "best", "last": "last", "last_ten": f"mean of last {LAST}"}
APART = {"seed", "data", "env", "out", "resume", "device", "threads", "keep", "save_every", "max_time"}


def compare(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional], figure: str | None = None,
    better: Literal["lower", "higher"] | None = None, split: str | None = None, threshold: float | None = None,
    out: Path | None = None, json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Runs of several seeds side by side: best and last figures, learning curves, which method is probably better.

    Args:
        runs: Run directories, and folders of them such as `ptheta train --seeds` makes.
        figure: What to compare (default: the figure by which the methods choose their best model).
        better: Whether lower or higher figures are better (default: as the methods have it; wanted for other figures).
        split: Where it was measured (default: valid, or train where there is no valid).
        threshold: Tell when each seed first reached this figure.
        out: Picture without ending (default: comparison, numbered when it exists).
        json: Print one JSON object.
    """
    if out is not None:
        target(".", out, "")  # a name that is taken is told before anything is read
    found = {run.path.resolve(): run for source in runs for run in runs_in(source)}
    if not found:
        raise UsageError("compare wants runs; name run directories, or folders of seeds.")
    name, way = judged_by(list(found.values()), figure, better)
    part, seeds = measured(list(found.values()), name, way, split)
    groups = grouped(seeds)
    told: dict[str, Any] = {"figure": name, "better": way, "split": part, "threshold": threshold}
    told |= {"groups": [summary(g, threshold) for g in groups], "pairs": pairs(groups)}
    path = target(".", out, "comparison")
    drawn = picture(groups, name, part, threshold)
    save_whole(path, {".png": lambda p: drawn.savefig(p, format="png", dpi=150)}, say=False)
    for group in groups:
        lengths = [seed.steps[-1] for seed in group.seeds]
        if min(lengths) < 0.9 * max(lengths):
            ends = ", ".join(f"seed {s.run.about['seed']} {s.steps[-1]:,}" for s in group.seeds)
            print(
                f"ptheta: {group.name} ended at different steps ({ends}); its curve ends with the first.",
                file=sys.stderr,
            )
    if json:
        print(json_module.dumps({**told, "picture": f"{path}.png"}))
    else:
        table(told)
        print(f"\n{path}.png")
    return told


# ---------------------------------------------------------------- reading


def runs_in(source: str) -> list[Run]:
    """The run of that name, or those in the folder. Raises InputError if there is none."""
    path = Path(source)
    if (path / "config.json").exists():
        return [Run.open(path)]
    if not path.is_dir():
        raise InputError(f"there is no run {path}; name run directories, or folders of seeds.")
    found = [Run.open(p) for p in sorted(path.iterdir()) if (p / "config.json").is_file()]
    if not found:
        raise InputError(f"{path} is no run and holds none; `ptheta train` makes them.")
    return found


def figures_of(names: set[str]) -> set[str]:
    """Those of the names in metrics.jsonl that are figures."""
    return {name for name in names if name not in ("step", "split") and not name.endswith("_se")}


def judged_by(
    runs: list[Run], figure: str | None, better: Literal["lower", "higher"] | None
) -> tuple[str, Literal["lower", "higher"]]:
    """The figure that all of the runs have, and which way is better. Raises UsageError if that is not plain."""
    own = {run.about["method"]: api.method(run.about["method"]).Method for run in runs}
    kinds = {name: (method.figure, method.better) for name, method in own.items()}
    if figure is None and len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} {its}" for name, (its, _) in kinds.items())
        raise UsageError(f"the methods are judged by different figures ({told}); name one with --figure.")
    name: str = figure or next(iter(kinds.values()))[0]
    names = {name for run in runs for line in lines(run.path / "metrics.jsonl") for name in line}
    if figure is not None and figure not in figures_of(names):
        raise unknown("figure", figure, figures_of(names))
    if name == "loss" and len(kinds) > 1:
        raise UsageError(f"the loss of each of {', '.join(kinds)} is its own; name a figure of all with --figure.")
    ways = {way for its, way in kinds.values() if its == name}
    if better is None and len(ways) != 1:
        raise UsageError(f"say which {name} is better: --better lower, or --better higher.")
    return name, better or ways.pop()


def measured(
    runs: list[Run], figure: str, better: Literal["lower", "higher"], split: str | None
) -> tuple[str, list[Measured]]:
    """The split, and what each run measured on it. Raises UsageError for a figure or split that there is not, and
    InputError for a run that has measured nothing yet."""
    seeds: list[Measured] = []
    for run in runs:
        there = lines(run.path / "metrics.jsonl")
        if not there:
            raise InputError(f"{run.path} has no evaluation yet; let it train up to its first one.")
        splits = sorted({line["split"] for line in there})
        if split is not None and split not in splits:
            raise unknown("split", split, splits, f"These are of {run.path}.")
        of = [split] if split is not None else ["valid", "train"]
        for name in of:
            if (seed := measurements(run, figure, better, name)) is not None:
                seeds.append(seed)
                split = name
                break
        else:
            names = {name for line in there if line["split"] in of for name in line}
            raise unknown("figure", figure, figures_of(names), f"These are of {run.path}, {' and '.join(of)}.")
    assert split is not None
    return split, seeds


# ---------------------------------------------------------------- groups


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    name: str
    data: str
    seeds: list[Measured]

    def figures(self, name: str) -> np.ndarray:
        """One of SUMMARIES, of each seed."""
        return np.array([seed.figures()[name] for seed in self.seeds])


def settings(about: dict[str, Any]) -> dict[str, Any]:
    """What a run was told besides its seed and data, as far as it may change the outcome. about: its config.json, of
    which "method", "config" and "options" are read."""
    module, options = api.method(about["method"]), about["options"]
    steps = options["steps"] or module.Method.steps
    every = options["eval_every"] or max(1, steps // 20)
    named = {name: value for name, value in options.items() if name not in APART}
    told = {**module.Config().to_dict(), **about["config"], **named, "steps": steps, "eval_every": every}
    return json_module.loads(json_module.dumps(told))  # a tuple as it is in config.json


def grouped(seeds: list[Measured]) -> list[Group]:
    """Groups in the order in which they were named, called after what sets them apart. Raises UsageError for a seed
    that a group has twice."""
    kinds: dict[str, list[Measured]] = {}
    for seed in seeds:
        about = seed.run.about
        key = json_module.dumps([about["method"], about["data"]["fingerprint"], settings(about)], sort_keys=True)
        kinds.setdefault(key, []).append(seed)
    of_kind = list(kinds.values())
    mark = {id(one): one[0].run.about["data"]["fingerprint"] for one in of_kind}
    names = {mark[id(one)]: Path(one[0].run.about["data"]["spec"]).name for one in of_kind}
    groups = []
    for one in of_kind:
        one.sort(key=lambda seed: seed.run.about["seed"])
        for a, b in itertools.pairwise(one):
            if a.run.about["seed"] == b.run.about["seed"]:
                raise UsageError(f"{a.run.path} and {b.run.path} are one seed of the same settings; name one of them.")
        method, data = one[0].run.about["method"], mark[id(one)]
        beside = [
            settings(o[0].run.about) for o in of_kind if (o[0].run.about["method"], mark[id(o)]) == (method, data)
        ]
        own = settings(one[0].run.about)
        apart = [f"{k}={said(v)}" for k, v in own.items() if any(other.get(k) != v for other in beside)]
        same_title = list(names.values()).count(names[data]) > 1
        title = f"{names[data]} ({data[:6]})" if same_title else names[data]
        groups.append(Group(" ".join([method, *apart]), title, one))
    return groups


def said(value: Any) -> str:
    """A setting, for a name."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def summary(group: Group, threshold: float | None) -> dict[str, Any]:
    """What the table and --json tell of a group."""
    many = len(group.seeds) >= ENOUGH
    told: dict[str, Any] = {"name": group.name, "data": group.data, "n": len(group.seeds), "seeds": []}
    for seed in group.seeds:
        about = seed.run.about
        told["seeds"].append({"seed": about["seed"], "run": str(seed.run.path), "steps": int(seed.steps[-1])})
        told["seeds"][-1] |= seed.figures()
        if threshold is not None:
            at = seed.reached(threshold)
            when = None if at is None else {"steps": int(seed.steps[at]), "minutes": float(seed.minutes[at])}
            told["seeds"][-1]["reached"] = when
    if many:
        for name in SUMMARIES:
            x = group.figures(name)
            low, high = interval(x)
            told[name] = {"iqm": float(iqm(x)), "low": float(low), "high": float(high)}
    if threshold is not None:
        told["reached"] = sum(seed["reached"] is not None for seed in told["seeds"])
    return told


def pairs(groups: list[Group]) -> list[dict[str, Any]]:
    """Probabilities of improvement, by the last evaluations, of groups of one data set with enough seeds."""
    found = []
    for a, b in itertools.combinations([g for g in groups if len(g.seeds) >= ENOUGH], 2):
        if a.data == b.data:
            x, y = (g.figures("last_ten") * (1 if g.seeds[0].better == "higher" else -1) for g in (a, b))
            low, high = improvement_interval(x, y)
            found.append({"data": a.data, "better": a.name, "than": b.name, "probability": improvement(x, y)})
            found[-1] |= {"low": low, "high": high}
    return found


# ---------------------------------------------------------------- showing


def spread(of: dict[str, float]) -> str:
    """An interquartile mean and its interval."""
    return f"{number(of['iqm'])} [{number(of['low'])}, {number(of['high'])}]"


def table(told: dict[str, Any]) -> None:
    """For a person."""
    width = max(len(group["name"]) for group in told["groups"])
    for place, data in enumerate(dict.fromkeys(group["data"] for group in told["groups"])):
        here = [group for group in told["groups"] if group["data"] == data]
        print("\n" * (place > 0) + f"{data}, {told['split']} {told['figure']}, {told['better']} is better")
        rows = [["", "", *SUMMARIES.values()]]
        for g in here:
            if g["n"] >= ENOUGH:
                rows.append([g["name"], f"{g['n']} seeds", *(spread(g[name]) for name in SUMMARIES)])
                continue
            for k, seed in enumerate(g["seeds"]):
                figures = (number(seed[name]) for name in SUMMARIES)
                rows.append(["" if k else g["name"], f"seed {seed['seed']}", *figures])
        columns = [max(map(len, column)) for column in zip(*rows)]
        for name, *cells in rows:
            print(f"{name:{width}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, columns[1:])))
        if told["threshold"] is not None:
            print(f"{told['figure']} {'≥' if told['better'] == 'higher' else '≤'} {told['threshold']:g}, reached by")
            for g in here:
                print(f"{g['name']:{width}}  {g['reached']} of {g['n']}  {when(g['seeds'])}")
        for pair in told["pairs"]:
            if pair["data"] == data:
                shown = f"{pair['probability']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]"
                print(f"P({pair['better']} better than {pair['than']}) = {shown}, by the mean of the last {LAST}")
    if any(group["n"] >= ENOUGH for group in told["groups"]):
        print("of five seeds and more: interquartile mean [bootstrap interval of 95 %]")


def when(seeds: list[dict[str, Any]]) -> str:
    """Steps and time until the threshold: of few seeds each, of more the median and the range, where one that never got
    there counts as later than any."""
    if all(seed["reached"] is None for seed in seeds):
        return "never"
    parts = []
    for unit, shown in (("steps", "{:,.0f}".format), ("minutes", lambda m: clock(60 * m))):
        found = [math.inf if seed["reached"] is None else seed["reached"][unit] for seed in seeds]
        text = [
            shown(v) if v < math.inf else "never" for v in (*found, float(np.median(found)), min(found), max(found))
        ]
        *each, middle, first, last = text
        parts.append(", ".join(each) if len(seeds) < ENOUGH else f"median {middle} ({first} to {last})")
    return f"steps {parts[0]}   time {parts[1]}"


def curve(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Steps (k,) that all seeds have passed, and the figure of each seed there (n, k): between two evaluations on the
    line from one to the other."""
    first, last = max(s.steps[0] for s in group.seeds), min(s.steps[-1] for s in group.seeds)
    steps = np.unique(np.concatenate([s.steps for s in group.seeds]))
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, s.steps, s.values) for s in group.seeds])


def picture(groups: list[Group], figure: str, split: str, threshold: float | None) -> Figure:
    """Learning curves: a panel for each data set, a colour for each group."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    panels = list(dict.fromkeys(group.data for group in groups))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    drawn = Figure(figsize=(1.6 + 4.8 * columns, 3.9 * rows), layout="constrained")
    colours = {name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(group.name for group in groups))}
    for place, data in enumerate(panels, 1):
        axes = drawn.add_subplot(rows, columns, place)
        here = [group for group in groups if group.data == data]
        for group in here:
            line(axes, group, colours[group.name])
        low, high = axes.get_ylim()
        if threshold is not None and low < threshold < high:
            axes.axhline(threshold, color="grey", linewidth=0.8, linestyle="--", zorder=1)
        units = {api.method(g.seeds[0].run.about["method"]).Method.unit.replace("_", " ") for g in here}
        axes.set_title(data, fontsize=11, parse_math=False)
        axes.set_xlabel(units.pop() if len(units) == 1 else "steps")
        axes.set_ylabel(f"{split} {figure}", parse_math=False)
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        axes.legend(fontsize=8, frameon=False)
    return drawn


def line(axes: Axes, group: Group, colour: str) -> None:
    """The interquartile mean and its band, or, of few seeds, their mean and each of them."""
    n = len(group.seeds)
    steps, values = curve(group)
    many = n >= ENOUGH
    label = f"{group.name} ({'IQM' if many else 'mean'} of {n} seeds)" if n > 1 else f"{group.name} (1 seed)"
    axes.plot(steps, iqm(values) if many else values.mean(0), color=colour, linewidth=1.8, label=label, zorder=3)
    if many:
        low, high = interval(values, resamples=2000)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    elif n > 1:
        for seed in group.seeds:
            axes.plot(seed.steps, seed.values, color=colour, linewidth=0.7, alpha=0.45, zorder=2)
