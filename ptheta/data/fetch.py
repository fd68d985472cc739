"""Find a file on this machine, or download it once.

Looked at in turn: `PTHETA_DATA/folder/name` (the user's own files, never
checksummed: the readers check their structure), the cache
(`PTHETA_HOME`, else `$XDG_CACHE_HOME/ptheta`, else `~/.cache/ptheta`; data lie
under `data/folder/name`), and then the mirrors, one after another. What is
downloaded is verified by SHA-256 before it gets its name, so a file in the
cache is either whole or not there. `PTHETA_OFFLINE=1` or `HF_HUB_OFFLINE=1`
forbids the network.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptheta.data import download
from ptheta.engine.errors import InputError

STALE = 120.0  # seconds after which nobody writes a part any more (above download.TIMEOUT and its longest pause)


@dataclass(frozen=True)
class RemoteFile:
    """A file that mirrors offer; `sha256` and `size` (bytes, a hint, None if unknown) are those of the download."""

    folder: str
    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None = None


def data_folder() -> Path | None:
    """The user's own data, `PTHETA_DATA`; None if that is not set."""
    value = os.environ.get("PTHETA_DATA", "")
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """Where downloads are kept: `PTHETA_HOME`, else `$XDG_CACHE_HOME/ptheta`, else `~/.cache/ptheta`."""
    if home := os.environ.get("PTHETA_HOME", ""):
        return Path(home).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "ptheta"


def is_offline() -> bool:
    """Whether `PTHETA_OFFLINE` or `HF_HUB_OFFLINE` forbids the network."""
    on = ("1", "true", "yes", "on")
    return any(os.environ.get(name, "").strip().lower() in on for name in ("PTHETA_OFFLINE", "HF_HUB_OFFLINE"))


def find(folder: str, name: str) -> Path | None:
    """The file `folder/name` under `PTHETA_DATA`, else in the cache, with or without `.gz`; None if in neither."""
    other = name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"
    mine = data_folder()
    for root in ([mine] if mine else []) + [cache_folder() / "data"]:
        for candidate in (root / folder / name, root / folder / other):
            if candidate.is_file():
                return candidate
    return None


def find_or_fetch(file: RemoteFile, offline: bool | None = None) -> Path:
    """The path of `file` on this machine, downloaded into the cache if need be.

    `offline` None reads the environment. Raises InputError if the file is not here and cannot be had (naming each
    address with its reason, and where to put the file by hand) or if the disk is full.
    """
    found = find(file.folder, file.name)
    if found is not None:
        return found
    target = cache_folder() / "data" / file.folder / file.name
    if is_offline() if offline is None else offline:
        raise InputError(_by_hand(file, target, "the offline switch (PTHETA_OFFLINE or HF_HUB_OFFLINE) is on"))
    try:
        return _download(file, target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        fix = "free some space there, or set PTHETA_HOME to a folder on another disk"
        raise InputError(f"cannot write {file.name} into {target.parent}: {reason}; {fix}") from error


def _by_hand(file: RemoteFile, target: Path, reason: str) -> str:
    mine = data_folder()
    here = f"not under PTHETA_DATA ({mine}) and " if mine else ""
    return (
        f"{file.folder}/{file.name} is {here}not in the cache, and {reason}. "
        f"To place it by hand, download {' or '.join(file.urls)} and save it in the folder {target.parent} "
        f"as {target.name} (or in {file.folder}/ of the folder that PTHETA_DATA names)"
    )


def _download(file: RemoteFile, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with _own_part(target) as part:
        for url in file.urls:
            try:
                download.complete(part, url, file.sha256, file.size, file.name)
            except download.Refused as reason:
                reasons.append(f"{url}: {reason}")
                continue
            with part.open("rb") as done:
                os.fsync(done.fileno())
            os.replace(part, target)
            return target
    if target.is_file():  # another process was luckier in the meantime
        return target
    raise InputError(_by_hand(file, target, f"could not be downloaded ({'; '.join(reasons)})"))


@contextlib.contextmanager
def _own_part(target: Path) -> Iterator[Path]:
    """A part file of this process alone, begun from what an earlier one left, and left behind for the next.

    Renaming is atomic, so of two processes only one takes over `name.part`; the other begins its own.
    """
    rest = target.with_name(target.name + ".part")
    own = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    killed = [p for p in sorted(target.parent.glob("*.part")) if p.name.startswith(target.name + ".") and _is_stale(p)]
    for left in [rest, *killed]:
        with contextlib.suppress(OSError):
            os.rename(left, own)
            break
    try:
        yield own
    finally:
        if download.size_of(own):
            os.replace(own, rest)
        else:
            own.unlink(missing_ok=True)


def _is_stale(part: Path) -> bool:
    try:
        return time.time() - part.stat().st_mtime > STALE
    except OSError:
        return False
