"""Downloads against mirrors that break off, lie about lengths, ignore ranges and serve the wrong file."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mirror import BODY, WRONG, left_over, remote, serve

from ptheta.data import download
from ptheta.data.fetch import cache_folder, find, find_or_fetch, is_offline
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("home")


def test_downloads_once_and_into_the_cache(home):
    with serve(BODY) as mirror:
        path = find_or_fetch(remote(mirror))
        assert path == home / "data" / "set" / "it.bin" and path.read_bytes() == BODY
        assert find_or_fetch(remote(mirror)) == path and mirror.asked == [0]
    assert left_over(home) == {"it.bin": len(BODY)}


def test_the_name_appears_only_with_the_whole_and_verified_file(home):
    target = home / "data" / "set" / "it.bin"
    seen = []
    with serve(BODY, ["break 9000", "slow"]) as mirror:
        mirror.meanwhile = lambda: seen.append(target.exists())
        find_or_fetch(remote(mirror))
    assert len(seen) == 50 and not any(seen) and target.read_bytes() == BODY


def test_what_came_is_kept_for_the_next_process(home):
    with serve(BODY, ["break 30000"], always="status 503") as mirror, pytest.raises(InputError, match="30000 bytes"):
        find_or_fetch(remote(mirror))
    assert left_over(home) == {"it.bin.part": 30000}
    with serve(BODY) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY and mirror.asked == [30000]
    assert left_over(home) == {"it.bin": len(BODY)}


def test_an_interrupted_download_is_resumed(home, monkeypatch):
    def interrupt(self, have):
        if have > 25_000:
            raise KeyboardInterrupt

    with serve(BODY) as mirror:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(download._Progress, "show", interrupt)
            patch.setattr(download, "CHUNK", 1000)  # else a quick server's whole answer comes in one piece
            find_or_fetch(remote(mirror))
        begun = left_over(home)["it.bin.part"]
        assert 25_000 < begun < len(BODY)
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY and mirror.asked == [0, begun]


def test_the_part_of_a_killed_process_is_taken_over_but_not_that_of_a_live_one(home):
    folder = home / "data" / "set"
    folder.mkdir(parents=True)
    (folder / "it.bin.1-ab.part").write_bytes(BODY[:10_000])
    (folder / "it.bin.2-cd.part").write_bytes(BODY[:20_000])
    os.utime(folder / "it.bin.2-cd.part", (0, 0))
    with serve(BODY) as mirror:
        find_or_fetch(remote(mirror))
        assert mirror.asked == [20_000]
    assert left_over(home) == {"it.bin": len(BODY), "it.bin.1-ab.part": 10_000}


@pytest.mark.parametrize("part", [BODY, BODY + b"too much", WRONG])
def test_a_part_that_is_whole_or_wrong_does_no_harm(home, part):
    folder = home / "data" / "set"
    folder.mkdir(parents=True)
    (folder / "it.bin.part").write_bytes(part)
    with serve(BODY) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY
        assert mirror.asked == ([] if part == BODY else [len(part), 0])


def test_two_downloads_at_once_both_succeed(home):
    with serve(BODY, always="slow") as mirror:
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: found.append(find_or_fetch(remote(mirror)).read_bytes())) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [BODY] * 3 and left_over(home) == {"it.bin": len(BODY)}


@pytest.mark.parametrize("switch", ["PTHETA_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_offline_switch_asks_no_one(monkeypatch, home, switch):
    monkeypatch.setenv(switch, "1")
    with serve(BODY) as mirror:
        with pytest.raises(InputError, match=f"offline.*{mirror.url}it.bin.*{home}/data/set.*it.bin"):
            find_or_fetch(remote(mirror))
        assert mirror.asked == [] and is_offline() and not home.exists()
        assert find_or_fetch(remote(mirror), offline=False).read_bytes() == BODY
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY, "what is in the cache needs no network"


def test_the_message_names_every_mirror_with_its_reason_and_where_to_put_the_file(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/it.bin"
    with serve(b"", always="status 404") as none, serve(WRONG) as wrong, serve(BODY, always="break 10") as broken:
        urls = [none.url + "it.bin", wrong.url + "it.bin", broken.url + "it.bin", closed, "file:///etc/hostname"]
        with pytest.raises(InputError) as error:
            find_or_fetch(remote(*urls))
    text = str(error.value)
    reasons = ("HTTP 404", "another file", "before the announced length, 5 times", "refused", "only http and https")
    for url, reason in zip(urls, reasons, strict=True):
        assert reason in text[text.index(f"{url}: ") :].split(";")[0], (url, reason)
    assert f"folder {home}/data/set as it.bin" in text and "PTHETA_DATA" in text and "\n" not in text


def test_a_full_disk_is_told_and_keeps_what_is_there(home, monkeypatch):
    class Usage:
        free = 1000

    with serve(BODY) as mirror:
        with monkeypatch.context() as patch:
            patch.setattr(download.shutil, "disk_usage", lambda path: Usage)
            with pytest.raises(InputError, match="disk is full.*PTHETA_HOME"):
                find_or_fetch(remote(mirror))

        def full(self, have):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(download._Progress, "show", full)
            with pytest.raises(InputError, match="disk is full"):
                find_or_fetch(remote(mirror))
        assert set(left_over(home)) == {"it.bin.part"}
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY


def test_a_cache_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "file" / "cache"))
    with serve(BODY) as mirror, pytest.raises(InputError, match="cannot write it.bin.*PTHETA_HOME"):
        find_or_fetch(remote(mirror))


def test_the_users_own_data_come_first_and_are_not_summed(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path / "mine"))
    mine = tmp_path / "mine" / "set"
    mine.mkdir(parents=True)
    with serve(BODY) as mirror:
        cached = find_or_fetch(remote(mirror, name="a.gz"))
        assert cached.is_relative_to(home)
        (mine / "a").write_bytes(b"own")
        assert find_or_fetch(remote(mirror, name="a.gz")) == mine / "a"
        (mine / "a.gz").write_bytes(b"own")
        assert find_or_fetch(remote(mirror, name="a.gz")) == mine / "a.gz"
        (mine / "b.gz").write_bytes(b"own")
        assert find_or_fetch(remote(mirror, name="b")) == mine / "b.gz"
    assert find("set", "c") is None


def test_where_the_cache_is(monkeypatch, home, tmp_path):
    assert cache_folder() == home
    monkeypatch.delenv("PTHETA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ptheta"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "ptheta"


def test_progress_is_lines_on_stderr(capsys):
    with serve(BODY, ["break 20000"]) as mirror:
        find_or_fetch(remote(mirror))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and "\r" not in err and len(lines) == 4
    assert lines[0] == f"downloading it.bin from {mirror.url}it.bin" and lines[2].endswith("from byte 20000 on")
    assert "0.1 of 0.1 MB" in lines[3] and "MB/s" in lines[3] and "0 s left" in lines[3]


def test_progress_is_drawn_over_itself_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = download._Progress("it.bin", "http://mirror/it.bin", 0, 3_000_000)
    progress.begun = progress.shown = time.monotonic() - 2
    progress.show(1_000_000)
    assert "\rit.bin: 1.0 of 3.0 MB, 0.50 MB/s, 4 s left" in capsys.readouterr().err


def test_importing_loads_no_network_code():
    heavy = ("torch", "numpy", "urllib.request", "PIL")
    code = f"import sys, ptheta.data.fetch; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "[]", run.stderr
