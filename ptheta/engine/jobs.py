"""Trainings that are processes of their own: several at once, stopped gently, and what a person sees meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptheta.engine.fit import stop_signals
from ptheta.engine.measurements import lines, number
from ptheta.engine.progress import clock

EVERY = 0.25  # seconds between looks at the processes
PATIENCE = 10.0  # seconds that the processes are given after a second Ctrl-C
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # how a process ends that was asked to


@dataclass
class Job:
    """The training of one seed."""

    seed: int
    path: Path
    argv: list[str]
    """What comes after `ptheta`."""
    steps: int
    """That it takes in all."""
    figure: str
    """Of its evaluations."""
    state: str = "waiting"
    """waiting, running, done, stopped or failed."""
    handle: Any = None
    """Of its process: poll() and send_signal()."""
    step: int = 0
    what: str = ""
    """What is evaluated: the split and the figure."""
    value: str = ""
    note: str = ""
    """Its last evaluation; of one that has failed, why."""
    size: int = -1
    """Of its metrics when they were last read."""
    since: tuple[float, int] | None = None
    """When its first step was seen, and which."""
    rate: float = 0.0
    """Steps a second."""
    log_size: int = 0
    """Of what earlier trainings have said."""

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")


def work(jobs: list[Job], workers: int, begin: Callable[[Job], Any], status: Status) -> int:
    """Train the waiting jobs, `workers` at once; the signal that has stopped it, or 0. begin: starts a process."""
    running: list[Job] = []
    waiting = [job for job in jobs if job.state == "waiting"]
    asked = False
    with stop_signals() as received, contextlib.suppress(KeyboardInterrupt):  # of a second Ctrl-C
        try:
            while running or (waiting and not received):
                if received and not asked:
                    asked = True
                    status.say("the seeds save themselves and stop; Ctrl-C again stops them at once")
                    for job in running:  # SIGTERM, which may come twice: a batch system sends it to every process
                        job.handle.send_signal(signal.SIGTERM)
                while waiting and len(running) < workers and not received:
                    job = waiting.pop(0)
                    job.log_size = job.log.stat().st_size if job.log.exists() else 0
                    job.handle, job.state = begin(job), "running"
                    running.append(job)
                status.show()
                time.sleep(EVERY)
                for job in running:
                    if (code := job.handle.poll()) is not None:
                        over(job, code, asked, status)
                running = [job for job in running if job.state == "running"]
        finally:
            leave([job for job in jobs if job.state == "running"])
    status.clear()
    return received[0] if received else 0


def over(job: Job, code: int, asked: bool, status: Status) -> None:
    """Note how a training has ended, and let go of its process."""
    job.handle = None
    status.look(job)
    if code == 0:
        job.state = "done"
        status.say(f"seed {job.seed} done, {job.note}")
    elif asked and code in STOPPED:
        job.state = "stopped"
    else:
        job.state = "failed"
        said = []
        with contextlib.suppress(OSError), open(job.log, "rb") as log:
            log.seek(job.log_size)
            said = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        last = said[-1].removeprefix("ptheta: ") if said else "nothing"
        job.note = last
        if code in STOPPED:
            job.note = "a signal from elsewhere has stopped it"
        elif code < 0:
            job.note = f"killed by {signal.Signals(-code).name}; what it said last: {last}"
        status.say(f"seed {job.seed} failed: {job.note}")


def leave(running: list[Job]) -> None:
    """End what still runs, with little patience."""
    for job in running:
        job.handle.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE
    while any(job.handle.poll() is None for job in running) and time.monotonic() < until:
        time.sleep(EVERY)
    for job in running:
        if job.handle.poll() is None:
            job.handle.send_signal(signal.SIGKILL)
            job.handle.wait()
        job.state = "stopped"


class Status:
    """How far the seeds are: a line that is written anew on a terminal, a line an evaluation elsewhere; on stderr."""

    def __init__(self, jobs: list[Job], workers: int):
        self.jobs, self.workers = jobs, workers
        self.terminal, self.shown = sys.stderr.isatty(), ""

    def look(self, job: Job) -> bool:
        """Read the metrics of a run, where they have changed: whether there is a new evaluation."""
        path = job.path / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size == job.size or not (found := lines(path)):
            return False
        job.size, job.step, now, before = size, found[-1]["step"], time.monotonic(), job.note
        if job.since is None or job.step < job.since[1]:
            job.since = (now, job.step)
        elif job.step > job.since[1]:
            job.rate = (job.step - job.since[1]) / max(1e-9, now - job.since[0])
        split = "valid" if any(line["split"] == "valid" for line in found) else "train"
        values = [line for line in found if line["split"] == split and job.figure in line]
        if values:
            last = values[-1]
            job.what, job.value = f"{split} {job.figure}", number(last[job.figure])
            job.note = f"{job.what} {job.value} at step {last['step']:,}"
        return job.note != before

    def left(self) -> float | None:
        """Seconds until all are done, by the rates so far; None before there are any."""
        running = [job for job in self.jobs if job.state == "running"]
        rates = [job.rate for job in running if job.rate > 0]
        if not rates:
            return None
        usual = sum(rates) / len(rates)
        longest = max(max(0, job.steps - job.step) / (job.rate or usual) for job in running)
        steps = sum(max(0, job.steps - job.step) for job in self.jobs if job.state in ("running", "waiting"))
        return max(longest, steps / usual / self.workers)

    def show(self) -> None:
        """Tell what has changed."""
        running = [job for job in self.jobs if job.state == "running"]
        new = [job for job in running if self.look(job)]
        told = running if self.terminal else new
        if not told:
            return
        done = f"{sum(job.state == 'done' for job in self.jobs)} of {len(self.jobs)} done"
        left = [f"{clock(seconds)} left"] if (seconds := self.left()) is not None else []
        if self.terminal:
            shares = [f"seed {job.seed} {min(1, job.step / job.steps):.0%} {job.value}" for job in told]
            what = [f"{name}:" for name in {job.what for job in told} - {""}][:1]
            text = "  ".join([done, *left, *what, *shares])[: shutil.get_terminal_size().columns - 1]
            if text != self.shown:
                print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self.shown = text
            return
        for job in told:
            part = f"seed {job.seed} {job.step:,}/{job.steps:,} {job.what} {job.value}"
            print("  ".join([part, done, *left]), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        self.shown = ""
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(f"ptheta: {text}", file=sys.stderr, flush=True)
