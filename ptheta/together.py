"""Several seeds of one method in one process: their loops side by side, their updates as one batch."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

from ptheta.engine.fit import Interrupted, fitting, stop_signals
from ptheta.engine.options import Options
from ptheta.engine.run import Run

ABLE = {"ddpg": ("ptheta.control.stacked", "Stacked")}


def train(
    name: str, data: Any, options: Options, given: dict[str, Any], seeds: dict[int, tuple[Path, str]], resume: bool
) -> dict[int, Run | Exception]:
    """Train each seed into its folder, with its command in its config.json: the runs, or what stopped them.

    Each run is what it would be alone, up to the order in which sums are taken. A seed that fails leaves the others.
    Raises UsageError and InputError for what is wrong before anything is learned, Interrupted after Ctrl-C.
    """
    from ptheta import api
    from ptheta.engine.hardware import flushed_denormals

    module, attribute = ABLE[name]
    group = getattr(importlib.import_module(module), attribute)
    opened, done = {}, {}
    with flushed_denormals(), stop_signals() as received:
        for seed, (out, command) in seeds.items():
            again = resume and (out / "config.json").exists()
            own = dataclasses.replace(options, seed=seed, out=str(out), resume=again)
            opened[seed] = api.opened(name, data, own, given, command)
        loops, waiting = {}, {}
        for place, (seed, (learner, observations, run, own, hardware)) in enumerate(opened.items()):
            loops[seed] = fitting(learner, observations, run, own, hardware, received, visible=place == 0)
            advance(loops[seed], None, seed, run, waiting, done)
        together, of = None, ()
        while waiting:
            if tuple(waiting) != of:  # at first, and where one has ended
                of = tuple(waiting)
                together = group([opened[seed][0] for seed in of])
            assert together is not None
            for seed, logs in zip(of, together.update([waiting.pop(seed) for seed in of])):
                advance(loops[seed], logs, seed, opened[seed][2], waiting, done)
        for _, _, run, _, _ in opened.values():
            run.close()
    for end in done.values():
        if isinstance(end, Interrupted):
            raise end
    return done


def advance(
    loop: Any, logs: Any, seed: int, run: Run, waiting: dict[int, Any], done: dict[int, Run | Exception]
) -> None:
    """The next batch of a loop into `waiting`, or how it ended into `done`."""
    try:
        waiting[seed] = next(loop) if logs is None else loop.send(logs)
    except StopIteration:
        done[seed] = run
    except Exception as error:
        done[seed] = error
