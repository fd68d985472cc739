"""Files that commands write: a name that a user gave is never overwritten; a file is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptheta.engine.checkpoint import full_disk_is_an_input_error
from ptheta.engine.errors import UsageError

ENDINGS = (".npy", ".png", ".csv")


def target(source: str, out: Path | None, name: str) -> Path:
    """Where results go, without ending: `out`, or `name`, numbered where it exists, in the folder `source` if it is one
    and here otherwise. Raises UsageError where `out` exists or cannot be a file."""

    def taken(path: Path) -> list[Path]:
        return [file for ending in ENDINGS if (file := path.with_name(path.name + ending)).exists()]

    if out is not None:
        path = out.with_suffix("") if out.suffix in ENDINGS else out
        if path.name in ("", "..") or (path == out and path.is_dir()):
            raise UsageError(f"--out {out} is a folder; name a file in it, without ending.")
        if taken(path):
            raise UsageError(f"{taken(path)[0]} exists; name another --out.")
        if not (folder := next(p for p in path.absolute().parents if p.exists())).is_dir():
            raise UsageError(f"{folder} is no folder; name another --out.")
        return path
    folder = Path(source) if Path(source).is_dir() else Path(".")
    k = 1
    while taken(path := folder / (name if k == 1 else f"{name}-{k}")):
        k += 1
    return path


def _place(part: Path, whole: Path) -> None:
    """Give a file its name, unless another process has taken that meanwhile: UsageError."""
    try:
        os.link(part, whole)
    except FileExistsError as error:
        raise UsageError(f"{whole} was written by another process just now; name another --out.") from error
    except OSError:  # a file system without links
        os.replace(part, whole)


def save_whole(path: Path, savers: Mapping[str, Callable[[Any], object]], say: bool = True) -> None:
    """PATH with each ending, written by its function, which is given a file name; if `say`, names go to stdout."""
    with full_disk_is_an_input_error(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, save in savers.items():
            part = path.with_name(f".part-{os.getpid()}-{path.name}{suffix}")
            try:
                save(part)
                _place(part, path.with_name(path.name + suffix))
            finally:
                part.unlink(missing_ok=True)
            if say:
                print(path.with_name(path.name + suffix))
