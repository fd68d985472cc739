"""What a person does with a policy that was learned: evaluate, play."""

from __future__ import annotations

import copy
import json as json_module
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from ptheta import api
from ptheta.control import episodes as whole
from ptheta.control.actors import Actor
from ptheta.control.envs import Environment, Envs
from ptheta.control.film import RATES, SIDES, Film, destination, filmed, number, write
from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import flat
from ptheta.engine.progress import Progress

Trained = Annotated[Any, tyro.conf.Positional, tyro.conf.arg(constructor=str, metavar="RUN")]
Place = Annotated[  # an id on the command line; from Python, also a function that makes it
    Any,
    tyro.conf.arg(
        name="env", aliases=["--data"], constructor=str, metavar="ID", help_behavior_hint="(default: that one)"
    ),
]
LIMIT = 10_000  # steps after which an episode is cut that nothing else ends
PICTURES = 500  # that a GIF has of an episode, at most, unless --fps wants more


def evaluate(
    run: Trained, data: Place = None, episodes: int = 100, split: Literal["test", "valid"] = "test",
    stochastic: bool = False, json: bool = False,
) -> None:  # fmt: skip
    """Judge a policy by whole episodes, of seeds that training never sees: mean return ± standard error, and lengths.

    Args:
        run: Run directory, model folder or Hub id.
        data: Another environment than the one that the policy was trained in, with the same spaces.
        episodes: How many.
        split: Which beginnings: valid are those that the best model of a run was chosen by.
        stochastic: Draw actions from the policy, instead of taking the best.
        json: Print one JSON object.
    """
    at_least_1(episodes=episodes)
    model, environment = opened(run, data)
    longest = time_limit(environment) or 1000
    with one_thread(model), Progress(0, episodes * longest, "steps", visible=True) as progress:
        taken = 0

        def heard(rows: int) -> None:
            nonlocal taken
            taken += rows
            moved(progress, taken)

        device = model.moments.mean.device
        g = generator(0, 0, "evaluate", device) if stochastic else None
        returns, lengths = whole.judged(asked(model, g, heard), environment, split, episodes)
        moved(progress, taken, taken)
    figures: dict[str, Any] = flat(whole.figures(returns, lengths)) | {"episodes": episodes}
    for name, values in (("return", returns.double()), ("length", lengths.double())):
        for which, value in (("min", values.min()), ("median", values.quantile(0.5)), ("max", values.max())):
            figures[f"{name}_{which}"] = value.item()
    kind = "stochastic" if stochastic else "deterministic"
    if json:
        about = {"method": model.name, "data": environment.name, "split": split, "policy": kind}
        print(json_module.dumps({**about, "metrics": figures}))
        return
    count = f"{episodes:,} {kind} episode{'s' if episodes > 1 else ''}"
    print(f"{count} of {model.name} in {environment.name}, {split}")
    for name in ("return", "length"):
        error = figures.get(f"{name}_mean_se")
        mean = number(figures[f"{name}_mean"]) + ("" if error is None else f" ± {number(error)}")
        rest = "   ".join(f"{which} {number(figures[f'{name}_{which}'])}" for which in ("min", "median", "max"))
        print(f"{name} {mean}   {rest}")


def play(
    run: Trained, env: Place = None, episodes: int = 1, video: Path | None = None, stochastic: bool = False,
    seed: int = 0, size: int | None = None, fps: float | None = None, limit: int = LIMIT,
) -> None:  # fmt: skip
    """Let a policy act: the return, length and end of each episode, and a film of them.

    Args:
        run: Run directory, model folder or Hub id.
        env: Another environment than the one that the policy was trained in, with the same spaces.
        episodes: How many.
        video: Also film them into this file, .gif or .mp4. mp4 needs imageio-ffmpeg or an ffmpeg on the PATH.
        stochastic: Draw actions from the policy, instead of taking the best.
        seed: Of the episodes, and of drawn actions.
        size: Longer side of the film in pixels, at most (default: 400 of a GIF, 720 of an mp4).
        fps: Pictures a second, at most; speed stays as it is (default: 25 of a GIF, fewer of long episodes; 60).
        limit: Cut an episode after so many steps.
    """
    at_least_1(episodes=episodes, limit=limit)
    if video is None:
        if size is not None or fps is not None:
            raise UsageError("--size and --fps are of a film; name its file with --video.")
        model, environment = opened(run, env)
        with one_thread(model):
            for i, end in enumerate(played(model, environment, episodes, seed, stochastic, limit), 1):
                print(line(i, *end), flush=True)
        return
    if size is not None and size < 64 or fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"size = {size}, fps = {fps}; allowed: a --size from 64, an --fps above 0 and at most 1000.")
    file, encoder = destination(Path(video))
    model, environment = opened(run, env)
    environment, rate = filmed(environment)
    longest = min(limit, time_limit(environment) or 1000)
    kind = file.suffix.lower()
    every = max(1, math.ceil(rate / (fps or RATES[kind]) - 1e-9))
    if kind == ".gif" and fps is None:
        every = max(every, math.ceil(longest / PICTURES))
    film = Film(environment.name, rate, every, size or SIDES[kind], episodes)
    ends, steps = [], 0
    with one_thread(model), Progress(0, episodes * longest, "steps", visible=True) as progress:
        film.heard = lambda step: moved(progress, steps + step)
        for end in played(model, environment, episodes, seed, stochastic, limit, film):
            ends.append(end)
            steps += end[1]
            moved(progress, steps, steps + (episodes - len(ends)) * longest)
    for i, end in enumerate(ends, 1):
        print(line(i, *end))
    write(film, file, encoder)


def line(i: int, total: float, length: int, how: str) -> str:
    """What is said of an episode."""
    return f"episode {i}   return {number(total)}   length {length:,}   {how}"


def at_least_1(**values: int) -> None:
    """UsageError for an option that is less."""
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} = {value} is impossible; allowed: at least 1 (option --{name}).")


def moved(progress: Progress, step: int, total: int | None = None) -> None:
    """So many steps were taken, of as many as there may be by now: how long episodes are, only their end tells."""
    progress.total = max(step, progress.total if total is None else total)
    if progress.bar is not None:
        progress.bar.total = progress.total
    progress.advance(step)


# ---------------------------------------------------------------- episodes


def opened(run: Any, env: Any = None) -> tuple[Actor, Environment]:
    """The model of a run, model folder or Hub id, and the environment that it acts in: its own, or another.

    Raises UsageError for a model that does not act, InputError for an environment with other spaces.
    """
    model = api.load(run)
    if not isinstance(model, Actor):
        raise UsageError(
            f"{run} is of {model.name}, which does not act; allowed: what methods of control have learned."
        )
    if env is None:
        try:
            environment = Environment(model.environment)
        except UsageError as error:
            raise UsageError(
                f"{run} learned in {model.environment!r}, which is no id of gymnasium here; name one with --env, or "
                "give env= the function that makes it, from Python."
            ) from error
    else:
        environment = env if isinstance(env, Environment) else Environment(env)
    wants, has = model.spaces, environment.spaces
    if (wants.observation, wants.actions) != (has.observation, has.actions) or len(wants.low) != len(has.low):
        raise InputError(
            f"{environment.name} has {has.describe()}, and the policy of {run} is for {wants.describe()}; name a "
            "fitting --env."
        )
    if (wants.low, wants.high) != (has.low, has.high):
        raise InputError(
            f"{environment.name} has actions from {has.low} to {has.high}, and the policy of {run} is for those from "
            f"{wants.low} to {wants.high}; name a fitting --env."
        )
    return model, environment


@contextmanager
def one_thread(model: Actor) -> Iterator[None]:
    """For a network that reads a few numbers: it loses time to a second thread, and far more where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if model.spaces.pixels else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def asked(model: Actor, g: torch.Generator | None, heard: Callable[[int], None]) -> Actor:
    """The same model, that draws its actions if there is a generator, and tells how many it decided on."""

    def decide(s: torch.Tensor) -> torch.Tensor:
        heard(len(s))
        return model.decide(s) if g is None else model.draw(s, g)

    other: Any = copy.copy(model)
    other.decide = decide
    return other


def played(
    model: Actor, environment: Environment, episodes: int = 1, seed: int = 0, stochastic: bool = False,
    limit: int = LIMIT, film: Film | None = None,
) -> Iterator[tuple[float, int, str]]:  # fmt: skip
    """Return, length and end (terminated, truncated, or cut after `limit` steps) of one episode after the other."""
    device, normalised = model.moments.mean.device, model.frozen()
    g = generator(seed, 0, "play", device) if stochastic else None
    with closing(Envs(environment, 1, seed, "play")) as envs:
        if film:
            film.watch(envs, limit)
        for _ in range(episodes):
            step, how = 0, ""
            if film:
                film.begin()
            while not how:
                with torch.inference_mode():
                    s = normalised(torch.from_numpy(envs.observations).to(device))
                    a = (model.decide(s) if g is None else model.draw(s, g)).cpu().numpy()
                said, step = envs.step(a), step + 1
                if said.ended_with:
                    how = "terminated" if said.terminated[0] else "truncated"
                elif step == limit:
                    how = f"cut after {limit:,} steps"
                total = envs.finished.pop()[1] if said.ended_with else float(envs.returns[0])
                if film:
                    film.after(step, total, bool(how))
            yield total, step, how
            if not said.ended_with:
                envs.reset()


def time_limit(environment: Environment) -> int | None:
    """Steps after which an episode is truncated, if gymnasium knows."""
    with closing(environment.make()) as env:
        return getattr(env.spec, "max_episode_steps", None)
