"""A mirror on 127.0.0.1 that serves a file, and can misbehave as real ones do."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from ptheta.data.fetch import RemoteFile

BODY = np.random.RandomState(7).bytes(50_000)
WRONG = np.random.RandomState(8).bytes(50_000)


class Mirror:
    """What the server holds (`body`), how it is to err (`faults`, one for each request, then none) and what was asked.

    Faults: "break N" (closes after N bytes), "more N" and "less N" (Content-Length that much too large or small),
    "stall N" (falls silent after N bytes), "ignore range", "other range", "slow", "status N", "redirect URL".
    `always` is the fault of every request after those.
    """

    def __init__(self, body: bytes, faults: list[str], always: str = ""):
        self.body, self.faults, self.always = body, list(faults), always
        self.asked: list[int] = []  # where each request began
        self.sent: list[int] = []  # bytes of body sent in answer to each
        self.meanwhile: Callable[[], None] = lambda: None  # called in the middle of a body
        self.url = ""


@contextlib.contextmanager
def serve(body: bytes, faults: list[str] | None = None, always: str = "") -> Iterator[Mirror]:
    mirror = Mirror(body, faults or [], always)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            fault, _, detail = (mirror.faults.pop(0) if mirror.faults else mirror.always).partition(" ")
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            mirror.asked.append(start)
            self.close_connection = True
            if fault == "status":
                self.send_error(int(detail))
                return
            if fault == "redirect":
                self.send_response(302)
                self.send_header("Location", detail)
                self.end_headers()
                return
            if start >= len(mirror.body) and start:
                self.send_error(416)
                return
            start = 0 if (fault, detail) == ("ignore", "range") else start
            body = mirror.body[start:]
            self.send_response(206 if start else 200)
            if start:
                told = start + 1 if fault == "other" else start
                self.send_header("Content-Range", f"bytes {told}-{len(mirror.body) - 1}/{len(mirror.body)}")
            lie = {"more": 1, "less": -1}.get(fault, 0) * int(detail or 0) if fault in ("more", "less") else 0
            self.send_header("Content-Length", str(len(body) + lie))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.send(body, fault, detail)

        def send(self, body: bytes, fault: str, detail: str):
            end = int(detail) if fault in ("break", "stall") else len(body)
            mirror.sent.append(0)
            for i in range(0, end, 1000):
                self.wfile.write(body[i : min(i + 1000, end)])
                mirror.sent[-1] += min(i + 1000, end) - i
                mirror.meanwhile()
                time.sleep(0.01 if fault == "slow" else 0)
            self.wfile.flush()
            time.sleep(0.5 if fault == "stall" else 0)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()


def remote(*mirrors, size: int | None = len(BODY), name: str = "it.bin") -> RemoteFile:
    urls = tuple(m if isinstance(m, str) else m.url + name for m in mirrors)
    return RemoteFile("set", name, urls, hashlib.sha256(BODY).hexdigest(), size)


def left_over(home: Path) -> dict[str, int]:
    """Names and sizes of all the files in the cache."""
    return {path.name: path.stat().st_size for path in home.rglob("*") if path.is_file()}
