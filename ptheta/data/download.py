"""Bring one file from one mirror, through broken connections and servers that err or lie.

What counts is the SHA-256 of what has arrived; lengths, ranges and status codes
only decide how to go on. Nothing here names the finished file: the caller does,
after `complete` has returned.
"""

import errno
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

TIMEOUT = 20.0  # seconds that a connection may stay silent
TRIES = 5  # attempts at one mirror that bring nothing new
PAUSE = 1.0  # seconds before the second attempt; doubled each time
CHUNK = 1 << 16
ENOUGH = 1 << 20  # bytes of progress that earn a mirror all its tries back


class Refused(Exception):
    """This mirror is of no use; the message is the reason."""


class _Broke(Exception):
    """The attempt failed in a way that another may not."""


def size_of(path: Path) -> int:
    """Bytes in the file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _matches(part: Path, sha256: str) -> bool:
    if not part.exists():
        return False
    with part.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def complete(part: Path, url: str, sha256: str, size: int | None, name: str) -> None:
    """Bring the file `part` to the bytes with this SHA-256 from `url`, going on where it stands.

    `size` (bytes) is a hint; `name` is what progress calls it. Raises Refused if this mirror cannot do it, OSError
    if this machine's disk cannot.
    """
    best = size_of(part)
    pieced = best > 0  # made of more than one answer: a wrong sum may be the seam's fault
    anew = True
    if pieced and _matches(part, sha256):
        return
    tries = TRIES
    while True:
        trouble, ended = "", True
        try:
            pieced = _one_answer(part, url, size, name) or pieced
        except _Broke as reason:
            trouble, ended = str(reason), False
        have = size_of(part)
        # The sum decides, whatever was said about lengths.
        if (ended or size in (None, have)) and _matches(part, sha256):
            return
        if ended and (size is None or have >= size):
            part.unlink(missing_ok=True)
            if not (pieced and anew):
                raise Refused(f"it serves another file ({have} bytes, and the SHA-256 is not {sha256[:12]}...)")
            pieced = anew = False
            best = 0
            continue
        if have > best + ENOUGH:
            tries = TRIES
        best = max(best, have)
        tries -= 1
        if tries <= 0 and ended:
            part.unlink(missing_ok=True)  # a short answer that ends well is another file, nothing to go on from
            raise Refused(f"it serves another file ({have} bytes instead of {size})")
        if tries <= 0:
            raise Refused(f"{trouble}, {TRIES} times without progress; {have} bytes are here")
        time.sleep(PAUSE * 2 ** (TRIES - 1 - tries))


def _one_answer(part: Path, url: str, size: int | None, name: str) -> bool:
    """Ask once for what `part` lacks and append it; True if the answer went on from what was there.

    Raises _Broke (worth another try), Refused (not), OSError (this machine's disk).
    """
    from http.client import HTTPException

    have = size_of(part)
    with _open(url, have, part) as response:
        resumed = response.status == 206
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Broke("it answered with another range than asked for")
        have = have if resumed else 0  # 200: the server ignores ranges and sends everything
        length = response.headers.get("Content-Length") or ""
        left = int(length) if length.isdigit() else None
        total = have + left if left is not None else size
        limit = (size or total or 1 << 40) + ENOUGH  # an endless answer ends here
        if size and shutil.disk_usage(part.parent).free < size - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with part.open("ab" if resumed else "wb") as out, _Progress(name, url, have, total) as progress:
            while left != 0 and have <= limit:
                try:
                    chunk = response.read1(CHUNK if left is None else min(CHUNK, left))
                except (OSError, HTTPException) as error:
                    raise _Broke(f"the connection broke ({error or type(error).__name__})") from error
                if not chunk:
                    break
                out.write(chunk)
                have += len(chunk)
                left = None if left is None else left - len(chunk)
                progress.show(have)
            out.flush()
    if left and have <= limit:
        raise _Broke(f"the connection ended {left} bytes before the announced length")
    return resumed


def _open(url: str, have: int, part: Path):
    """The answer to a request for the bytes of `url` from `have` on."""
    import urllib.error
    import urllib.request as web
    from http.client import HTTPException

    if not url.startswith(("http://", "https://")):
        raise Refused("only http and https are downloaded")
    # Spelt out because the default opener also reads files and speaks FTP, which a redirection could ask for.
    opener = web.OpenerDirector()
    for handler in (
        web.ProxyHandler(),
        web.HTTPHandler(),
        web.HTTPSHandler(),
        web.HTTPRedirectHandler(),
        web.HTTPDefaultErrorHandler(),
        web.HTTPErrorProcessor(),
        web.UnknownHandler(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": "ptheta", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = opener.open(web.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is here is not a beginning of what is there
            part.unlink(missing_ok=True)
            raise _Broke("HTTP 416, nothing to go on from") from error
        kind = _Broke if error.code in (408, 425, 429, 500, 502, 503, 504) else Refused
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        kind = _Broke if isinstance(error.reason, TimeoutError | ConnectionResetError) else Refused
        raise kind(f"{error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _Broke(f"{error or type(error).__name__}") from error
    if response is None or response.status not in (200, 206):
        raise Refused(f"HTTP {response.status if response else 'without an answer'}")
    return response


class _Progress:
    """One line on stderr: megabytes, rate, time left. Drawn over itself on a terminal, else every quarter minute."""

    def __init__(self, name: str, url: str, have: int, total: int | None):
        self.name, self.start, self.have, self.total = name, have, have, total
        self.begun = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()
        print(f"downloading {name} from {url}" + (f", from byte {have} on" if have else ""), file=sys.stderr)

    def draw(self, end: str) -> None:
        rate = (self.have - self.start) / max(time.monotonic() - self.begun, 1e-3)
        of = f" of {self.total / 1e6:.1f}" if self.total else ""
        wait = f", {max(self.total - self.have, 0) / rate:.0f} s left" if self.total and rate > 0 else ""
        text = f"{self.have / 1e6:.1f}{of} MB, {rate / 1e6:.2f} MB/s{wait}"
        if self.live:
            print(f"\r{self.name}: {text}\x1b[K", end=end, file=sys.stderr, flush=True)
        else:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def show(self, have: int) -> None:
        self.have = have
        if time.monotonic() - self.shown > (0.2 if self.live else 15.0):
            self.shown = time.monotonic()
            self.draw(end="")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.draw(end="\n")
