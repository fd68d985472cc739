"""`ptheta train METHOD … --seeds 0-9`: each seed a process of its own, as many at once as there are cores.

STEM/seedK is the run of seed K and STEM/seedK.log what it said. The run is the same, bit for bit, as one that is
started by itself with `--seed K --threads 1`. The processes listen at a pipe of the one that started them: when that is
gone, however it ended, they save themselves and end.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.jobs import EVERY, Job, Status, work
from ptheta.engine.measurements import LAST, measurements, number
from ptheta.engine.method import Between, Config
from ptheta.engine.options import Options
from ptheta.engine.run import Run
from ptheta.together import ABLE

MOST = 10_000
OWN = {"--seeds": 1, "--workers": 1, "--ray": 0, "--no-ray": 0, "--out": 1, "--resume": 0, "--no-resume": 0}


@dataclass(frozen=True)
class Several(Config):
    """Options of `ptheta train` that are about several seeds. Raises UsageError for impossible values."""

    seeds: str | None = None
    """Train these seeds, such as 0-9 or 0-4,7, each as a process of its own, those of ddpg as one batch of networks;
    --out is the folder of their runs (default: runs/METHOD-DATA-seeds, numbered when it exists)."""
    workers: Annotated[int | None, Between(1)] = None
    """Seeds that are trained at the same time, as processes (default: as many as there are CPU cores, of --threads
    each)."""
    ray: bool = False
    """Train the seeds on the CPUs of a Ray cluster whose machines share this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is None and (self.workers or self.ray):
            raise UsageError("--workers and --ray are for several seeds; name these, for example --seeds 0-4.")
        if self.seeds is not None:
            numbers(self.seeds)


def numbers(text: str) -> list[int]:
    """The seeds of "0-4,7". Raises UsageError for what names none, or one twice."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < 2**63 or len(found) + last - first >= MOST:
            allowed = f"numbers and rising ranges such as 0-4,7, at most {MOST:,} seeds (option --seeds)"
            raise UsageError(f"seeds = {text!r} is impossible; allowed: {allowed}.")
        found += range(first, last + 1)
    seed, times = collections.Counter(found).most_common(1)[0]
    if times > 1:
        raise UsageError(f"seeds = {text!r} names {seed} {times} times; allowed: each seed once (option --seeds).")
    return found


def train(name: str, argv: list[str], several: Several, options: Options, given: dict[str, Any]) -> int:
    """`ptheta train NAME ARGV` with --seeds: the exit code. several, options, given: ARGV parsed, `given` the fields of
    the Config that it sets.

    Raises UsageError and InputError for what would hinder every seed.
    """
    from ptheta import api

    if any(argument.partition("=")[0] == "--seed" for argument in argv):
        raise UsageError("--seed and --seeds are both given; name the seeds once.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("--seeds starts processes of its own; use it without a launcher.")
    assert several.seeds is not None
    folder, jobs = prepared(name, argv, numbers(several.seeds), options, given)
    threads = options.threads or 1
    begin = (
        on_ray(threads)
        if several.ray
        else lambda job: start(job.argv, job.log, threads, gpu_of(jobs.index(job), options))
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = several.workers or (len(jobs) if several.ray else max(1, cores // threads))
    folder.mkdir(parents=True, exist_ok=True)
    waiting = sum(job.state == "waiting" for job in jobs)
    done = f", {len(jobs) - waiting} of them done" if waiting < len(jobs) else ""
    at_once = f", {min(workers, waiting)} at once" if waiting else ""
    if name in ABLE and waiting > 1 and not (several.workers or several.ray):
        at_once = ", as one batch of networks"
    print(f"ptheta: {name}, {len(jobs)} seeds{done}{at_once} → {folder}", file=sys.stderr)
    if name in ABLE and waiting > 1 and not (several.workers or several.ray):
        signum = side_by_side(name, argv, [job for job in jobs if job.state == "waiting"], options, given, cores)
    else:
        signum = work(jobs, workers, begin, Status(jobs, workers))
    of = {s: [str(j.seed) for j in jobs if j.state == s] for s in ("done", "failed", "stopped", "waiting")}
    if signum and (of["stopped"] or of["waiting"]):
        more = [*([] if options.out else ["--out", str(folder)]), *([] if options.resume else ["--resume"])]
        told = "; ".join(f"{state}: {', '.join(seeds)}" for state, seeds in of.items() if seeds)
        print(f"ptheta: interrupted, {told}. Go on with:", file=sys.stderr)
        print(f"  {api.shell(['train', name, *argv, *more])}", file=sys.stderr)
        return 130 if signum == signal.SIGINT else 143
    table(name, jobs)
    print(folder, flush=True)
    for job in jobs:
        if job.state == "failed":
            print(f"ptheta: seed {job.seed} failed: {job.note} ({job.log})", file=sys.stderr)
    if of["done"]:
        print(f"next: ptheta compare {folder}", file=sys.stderr)
    return 1 if of["failed"] else 0


def side_by_side(
    name: str, argv: list[str], jobs: list[Job], options: Options, given: dict[str, Any], cores: int
) -> int:
    """Train all seeds in this process (`ptheta.together`): the signal that stopped it, or 0."""
    from ptheta import api, together
    from ptheta.engine.fit import Interrupted

    own = dataclasses.replace(options, threads=options.threads or cores, resume=False)
    rest = without(argv)
    commands = {
        job.seed: (job.path, api.shell(["train", name, *rest, "--seed", str(job.seed), "--out", str(job.path)]))
        for job in jobs
    }
    try:
        done = together.train(name, None, own, given, commands, options.resume)
    except Interrupted as stop:
        for job in jobs:
            job.state = "stopped"
        return stop.signum
    for job in jobs:
        end = done[job.seed]
        job.state, job.note = ("failed", str(end)) if isinstance(end, Exception) else ("done", "")
    return 0


# ---------------------------------------------------------------- the seeds, and what would hinder them all


def prepared(
    name: str, argv: list[str], seeds: list[int], options: Options, given: dict[str, Any]
) -> tuple[Path, list[Job]]:
    """The folder of the seeds, and their trainings: those that have ended are done. Raises as `train` does."""
    from ptheta import api
    from ptheta.comparison import settings
    from ptheta.engine import checkpoint
    from ptheta.engine.run import last_path, new_path
    from ptheta.methods import METHODS

    module = api.method(name)
    if options.env and METHODS[name].split(".")[1] != "control":
        raise UsageError(f"{name} acts in no environment; drop --env, or name what to learn from with --data.")
    options = dataclasses.replace(options, data=options.env or options.data, env=None)
    spec: str = options.data or module.Method.default_data
    stem = f"{name}-{Path(spec).name.replace(':', '-').replace(' ', '-')}-seeds"
    folder = Path(options.out) if options.out else (last_path(stem) if options.resume else new_path(stem))
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} is a run and not a folder of them; name another --out.")
    rest = [*without(argv), *(() if options.threads else ("--threads", "1"))]
    jobs, new = [], False
    for seed in seeds:
        path = folder / f"seed{seed}"
        run = Run.open(path) if (path / "config.json").exists() else None
        if not options.resume and (path.exists() or path.with_name(f"{path.name}.log").exists()):
            raise UsageError(f"{path} exists; add --resume to go on with the seeds, or name another --out.")
        own = api.reconcile(run, name, options, given)[1] if run else options
        more = ["--seed", str(seed), "--out", str(path), *(["--resume"] if run else [])]
        steps = own.steps or module.Method.steps
        job = Job(seed, path, ["train", name, *rest, *more], steps, module.Method.figure)
        if run:
            job.step = max((step for step, _ in checkpoint.steps(run.checkpoints)), default=0)
            job.state = "done" if ended(run, own, job.step) else "waiting"
        jobs.append(job)
        new |= run is None
    if new:
        options = dataclasses.replace(options, data=spec)
        about = {"method": name, "config": module.Config(**given).to_dict(), "options": options.to_dict()}
        for other in sorted(folder.glob("seed*/config.json"))[:1]:  # the rest agree with it
            theirs = Run.open(other.parent).about
            ours = {"method": name, "data": spec, **settings(about)}
            has = {"method": theirs["method"], "data": theirs["data"]["spec"], **settings(theirs)}
            for key in ours:
                if has.get(key) != ours[key]:
                    said = f"{other.parent} has {key} = {has.get(key)}, not {ours[key]}"
                    raise UsageError(f"{said}; ask the same of all seeds, or name another --out.")
        module.Method.open_data(spec, options.size, options.threshold, options.skip_unreadable)  # fetched once, if so
    return folder, jobs


def without(argv: list[str]) -> list[str]:
    """Arguments without those that are not of one seed."""
    kept, skip = [], 0
    for argument in argv:
        option, equals, _ = argument.partition("=")
        if skip:
            skip -= 1
        elif option in OWN:
            skip = 0 if equals else OWN[option]
        else:
            kept.append(argument)
    return kept


def ended(run: Run, options: Options, step: int) -> bool:
    """Whether a run that is at `step` has taken all, or is out of patience, and has drawn its curves, which is last."""
    from ptheta import api

    method = api.method(run.about["method"]).Method
    if not (run.path / "pictures" / "curves.png").exists():
        return False
    steps = options.steps or method.steps
    if step >= steps or not options.patience:
        return step >= steps
    found = [measurements(run, method.figure, method.better, split) for split in ("valid", "train")]
    best = next(int(one.steps[one.best_at]) for one in found if one)
    return step - best >= options.patience * (options.eval_every or max(1, steps // 20))


# ---------------------------------------------------------------- processes


def start(
    argv: list[str], log: Path, threads: int, gpu: str | None = None, here: str | None = None,
    names: dict[str, str] | None = None,
) -> subprocess.Popen:  # fmt: skip
    """A process of `ptheta ARGV` in the folder `here`, with `names` in its environment, that ends when this one does.

    It is in a session of its own, so that a terminal's Ctrl-C is not sent to it too.
    """
    own = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}  # also before torch is told
    own |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    path = [] if {"", os.getcwd()} & {*sys.path} else ["-P"]  # modules of this folder only if they are found here too
    with open(log, "ab") as out:
        return subprocess.Popen(
            [sys.executable, *path, "-m", "ptheta.seeds", *argv], stdin=subprocess.PIPE, stdout=out, stderr=out,
            env={**os.environ, **own, **(names or {})}, cwd=here, start_new_session=True,
        )  # fmt: skip


def gpu_of(place: int, options: Options) -> str | None:
    """Where there are several GPUs, seeds are dealt to them in turn."""
    import torch

    if options.device not in ("auto", "cuda") or (count := torch.cuda.device_count()) < 2:
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(k) for k in range(count)])[place % count]


def watched(argv: list[str]) -> None:
    """The process of one seed: `ptheta ARGV`, ended like with `kill` when the pipe to it is closed."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    from ptheta.cli import main

    main(argv)


def on_ray(threads: int) -> Callable[[Job], Any]:
    """A function that starts a job as a task of Ray, in this folder. Raises InputError where there is no Ray."""
    try:
        import ray  # pyright: ignore
    except ImportError:
        raise InputError("--ray wants Ray, which is not installed: pip install 'ptheta[ray]'.") from None
    ray.init(log_to_driver=False, ignore_reinit_error=True)

    @ray.remote(num_cpus=threads, max_retries=0)
    def seed(argv: list[str], log: Path, here: str, names: dict[str, str]) -> int:
        process = start(argv, log, threads, "", here, names)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            try:
                while process.poll() is None:
                    time.sleep(EVERY)
                break
            except KeyboardInterrupt:  # how Ray cancels a task; a wait without end would not hear of it
                process.send_signal(signum)
        return process.wait()

    class Task:
        """What `work` asks of a process."""

        def __init__(self, job: Job):
            names = {name: value for name, value in os.environ.items() if name.startswith("PTHETA_")}
            self.ref = seed.remote(job.argv, job.log.absolute(), os.getcwd(), names)

        def poll(self) -> int | None:
            if not ray.wait([self.ref], timeout=0)[0]:
                return None
            try:
                return ray.get(self.ref)
            except ray.exceptions.TaskCancelledError:
                return -signal.SIGTERM
            except ray.exceptions.RayError as error:
                print(f"ptheta: Ray: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
                return 1

        def send_signal(self, signum: int) -> None:
            ray.cancel(self.ref, force=signum == signal.SIGKILL)

        def wait(self) -> None:
            ray.wait([self.ref])

    return Task


# ---------------------------------------------------------------- what a person sees


def table(name: str, jobs: list[Job]) -> None:
    """Best and last figures of each seed that is done and, from five on, their interquartile mean."""
    from ptheta import api
    from ptheta.comparison import ENOUGH, spread
    from ptheta.engine.statistics import interval, iqm

    method = api.method(name).Method
    done = [(job, Run.open(job.path)) for job in jobs if job.state == "done"]
    split = "valid" if any(measurements(run, method.figure, method.better, "valid") for _, run in done) else "train"
    found = [(job, one) for job, run in done if (one := measurements(run, method.figure, method.better, split))]
    if not found:
        return
    rows = [["seed", "steps", "best", "at step", f"mean of last {LAST}"]]
    for job, one in found:
        figures, at = one.figures(), f"{one.steps[one.best_at]:,}"
        rows.append([str(job.seed), f"{one.steps[-1]:,}", number(figures["best"]), at, number(figures["last_ten"])])
    if len(found) >= ENOUGH:
        means = []
        for which in ("best", "last_ten"):
            x = np.array([one.figures()[which] for _, one in found])
            low, high = interval(x)
            means.append(spread({"iqm": float(iqm(x)), "low": float(low), "high": float(high)}))
        rows.append(["IQM", "", means[0], "", means[1]])
    widths = [max(map(len, column)) for column in zip(*rows)]
    data = found[0][1].run.about["data"]["spec"]
    print(f"{name} on {data}, {split} {method.figure}, {method.better} is better")
    for first, *cells in rows:
        print(f"{first:{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths[1:])))
    if len(found) >= ENOUGH:
        print("IQM: interquartile mean over the seeds [bootstrap interval of 95 %]")


if __name__ == "__main__":
    watched(sys.argv[1:])
