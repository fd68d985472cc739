r"""A run's directory: everything that is known about one training.

config.json      method, data, seed, hyperparameters, versions, the exact command
metrics.jsonl    one line a measurement: {"step", "split", figure: value, …}
times.jsonl      wall times, kept apart so that metrics can be equal bit for bit
events.out.*     the same figures for TensorBoard
checkpoints/     the last ones and the best on validation data
model/           the best model as a `save_pretrained` folder
pictures/        what the method draws of itself
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError

FORMAT = 1


class Run:
    """One run on disk. `Run.create` makes it, `Run.open` finds it again."""

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.about = path, about
        self._lock = self._metrics = self._times = self._events = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, method={self.about['method']!r}, data={self.about['data']['spec']!r})"

    @classmethod
    def create(cls, path: Path, about: dict[str, Any]) -> Run:
        """A new run. Raises UsageError if there is one, or anything else, in its place."""
        if path.exists() and (not path.is_dir() or any(not _is_left_over(p) for p in path.iterdir())):
            kind = "a run" if (path / "config.json").exists() else "something else"
            raise UsageError(f"{path} holds {kind} already; add --resume to go on with a run, or name another --out.")
        with checkpoint.full_disk_is_an_input_error(f"the run directory {path}"):
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, about)
            run.lock()  # before config.json is there, so that one process alone writes it
            run.about = about = {"format": FORMAT, **about, "versions": versions(), "git": git_revision()}
            checkpoint.write_text(path / "config.json", json.dumps(about, indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run. Raises InputError if there is none, or one of a newer format."""
        path = Path(path)
        try:
            about = json.loads((path / "config.json").read_text())
        except FileNotFoundError:
            raise InputError(f"{path} is no run directory (no config.json in it); `ptheta train` makes one.") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path / 'config.json'} cannot be read: {error}.") from error
        if not isinstance(about, dict) or not {"method", "seed", "config", "options", "data"} <= about.keys():
            raise InputError(f"{path} is no run directory (its config.json is of another kind).")
        if about.get("format") not in range(FORMAT + 1):
            raise InputError(
                f"{path} has run format {about.get('format')!r}; this ptheta reads up to {FORMAT}: update ptheta."
            )
        return cls(path, about)

    # ------------------------------------------------------------ one writer at a time

    def lock(self) -> None:
        """Take the run for this process. Raises UsageError if another one is writing to it."""
        if self._lock is not None:
            return
        with checkpoint.full_disk_is_an_input_error(f"the lock of {self.path}"):
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 (held until close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UsageError(f"another process is writing to {self.path}; wait for it or name another --out.") from None
        for folder in (self.path, self.model, self.path / "pictures"):
            for part in folder.glob(".part-*"):  # what a process that was killed had half written
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the logs and let other processes have the run."""
        for handle in (self._metrics, self._times, self._events, self._lock):
            if handle is not None:
                with contextlib.suppress(OSError):  # of a full disk, which `log` has told of
                    handle.close()
        self._lock = self._metrics = self._times = self._events = None

    # ------------------------------------------------------------ metrics

    def log(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Append one measurement to metrics.jsonl, times.jsonl and the TensorBoard events."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
        from tensorboardX.summary import scalar

        with checkpoint.full_disk_is_an_input_error(f"the metrics of step {step} in {self.path}"):
            if self._metrics is None:
                self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
                self._times = open(self.path / "times.jsonl", "a", encoding="utf-8")  # noqa: SIM115
                self._events = EventsWriter(str(self.path / "events"), f".{time.time_ns()}")
                start = SessionLog(status=SessionLog.START)  # what TensorBoard knows from this step on is superseded
                self._events.write_event(Event(wall_time=time.time(), step=step, session_log=start))
            assert self._times is not None and self._events is not None
            self._metrics.write(json.dumps({"step": step, "split": split, **figures}) + "\n")
            self._metrics.flush()
            self._times.write(json.dumps({"step": step, "split": split, "time": time.time()}) + "\n")
            self._times.flush()
            for name, value in figures.items():
                summary = scalar(f"{split}/{name}", value)
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._events.flush()

    def metrics_size(self) -> dict[str, int]:
        """Bytes of the two logs now: a checkpoint keeps them, and resuming cuts the logs back to them."""
        return {n: p.stat().st_size if (p := self.path / n).exists() else 0 for n in ("metrics.jsonl", "times.jsonl")}

    def cut_back(self, sizes: dict[str, int]) -> None:
        """Shorten the two logs to the sizes that a checkpoint has kept."""
        for name, size in sizes.items():
            path = self.path / name
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)

    def metrics(self) -> list[dict[str, Any]]:
        """All measurements, in the order in which they were made."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # ------------------------------------------------------------ files

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the best model."""
        return self.path / "model"

    def draw(self, pictures: dict[str, Any]) -> None:
        """Write figures as pictures/NAME.png, each replaced at once."""
        folder = self.path / "pictures"
        with checkpoint.full_disk_is_an_input_error(f"the pictures in {folder}"):
            folder.mkdir(exist_ok=True)
            for name, figure in pictures.items():
                part = folder / f".part-{name}.png"
                try:
                    figure.savefig(part, dpi=100, bbox_inches="tight")
                    os.replace(part, folder / f"{name}.png")
                finally:
                    part.unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    """Of a process that was killed while it made its run."""
    return path.name == ".lock" or path.name.startswith(".part-")


def new_path(stem: str) -> Path:
    """runs/STEM, or runs/STEM-2, -3, … : the first that is free."""
    folder, k = Path("runs"), 1
    while (path := folder / (stem if k == 1 else f"{stem}-{k}")).exists():
        k += 1
    return path


def last_path(stem: str) -> Path:
    """The newest of the directories that `new_path` has given out for a stem."""
    free = new_path(stem)
    number = free.name[len(stem) + 1 :]
    if not number:
        raise InputError(f"there is no run {free} to resume; start it without --resume, or name it with --out.")
    return free.with_name(stem if number == "2" else f"{stem}-{int(number) - 1}")


def versions() -> dict[str, str]:
    """The versions that config.json keeps."""
    import torch

    import ptheta

    return {
        "ptheta": ptheta.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def git_revision() -> str | None:
    """The revision of the checkout that ptheta itself is run from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
