"""Several processes at once: how many, what is told of them, how they are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ptheta.engine import jobs as jobs_module
from ptheta.engine.jobs import Job, Status, work

# A training of two steps: argv is its run, what it does and how long it takes. It notes when it began and ended.
CHILD = """
import json, os, pathlib, signal, sys, time
path, does, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
got = []
def note(signum, frame):
    got.append(signal.Signals(signum).name)
    (path / "got").write_text(" ".join(got))
    if does == "polite" or len(got) > 1:
        sys.exit(143)
if does != "rude":
    signal.signal(signal.SIGTERM, note), signal.signal(signal.SIGINT, note)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.SIG_IGN)
path.mkdir()
with open(path / "metrics.jsonl", "w") as metrics:
    print(json.dumps({"step": 0, "split": "valid", "nats": 9.0}), file=metrics, flush=True)
    (path / "began").write_text(str(os.getpid()))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
    if does == "fail":
        print("first line"), print("ptheta: the disk is full.", flush=True), sys.exit(1)
    print(json.dumps({"step": 2, "split": "valid", "nats": 8.0}), file=metrics, flush=True)
(path / "ended").touch()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs_module, "EVERY", 0.02)
    monkeypatch.setattr(jobs_module, "PATIENCE", 0.5)


@pytest.fixture
def run(tmp_path):
    """A function that works at jobs, each (what it does, seconds): the jobs, and the signal that has stopped them."""
    started = []

    def begin(job):
        with open(job.log, "ab") as log:
            started.append(subprocess.Popen([sys.executable, "-c", CHILD, *job.argv], stdout=log, stderr=log))
        return started[-1]

    def run(*kinds, workers=2):
        jobs = []
        for seed, (does, seconds) in enumerate(kinds):
            path = tmp_path / f"seed{seed}"
            jobs.append(Job(seed, path, [str(path), does, str(seconds)], 2, "nats"))
        return jobs, work(jobs, workers, begin, Status(jobs, workers))

    yield run
    for process in started:
        process.kill()
        process.wait()


def begun(folder) -> list[int]:
    """The processes of seeds 0 and 1, of those that have begun."""
    files = [folder / f"seed{k}/began" for k in (0, 1)]
    return [int(file.read_text()) for file in files if file.exists() and file.read_text()]


def when_both_have_begun(folder, *signals, to=None):
    """Send signals, each 0.3 s after the last: to this process, or to that of a seed."""

    def send():
        until = time.monotonic() + 30
        while len(begun(folder)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        for signum in signals:
            os.kill(os.getpid() if to is None else begun(folder)[to], signum)
            time.sleep(0.3)

    threading.Thread(target=send, daemon=True).start()


def test_so_many_run_at_once_and_no_more(run, tmp_path):
    jobs, signum = run(("polite", 1), ("polite", 1), *[("polite", 0.1)] * 3)
    assert signum == 0 and [job.state for job in jobs] == ["done"] * 5 and [job.step for job in jobs] == [2] * 5
    times = [(p / "began", p / "ended") for p in sorted(tmp_path.glob("seed?"))]
    began, ended = zip(*((a.stat().st_mtime_ns, b.stat().st_mtime_ns) for a, b in times))
    at_once = [sum(b <= t < e for b, e in zip(began, ended)) for t in began]
    assert max(at_once) == 2 and max(began[:2]) < min(ended) < min(began[2:])


def test_one_that_fails_is_named_with_its_last_line_and_the_others_go_on(run, capsys, tmp_path):
    (tmp_path / "seed1.log").write_text("an older training said this\n")
    jobs, signum = run(("polite", 0), ("fail", 0), ("polite", 0), workers=1)
    assert signum == 0 and [job.state for job in jobs] == ["done", "failed", "done"]
    assert jobs[1].note == "the disk is full." and "seed 1 failed: the disk is full." in capsys.readouterr().err
    assert jobs[0].handle is None, "what has ended keeps no pipe open"


def test_one_that_is_killed_has_failed(run, tmp_path):
    when_both_have_begun(tmp_path, signal.SIGKILL, to=0)
    jobs, _ = run(("polite", 60), ("polite", 0.5))
    assert [job.state for job in jobs] == ["failed", "done"]
    assert jobs[0].note == "killed by SIGKILL; what it said last: nothing"


def test_one_that_somebody_else_stops_has_failed(run, tmp_path):
    when_both_have_begun(tmp_path, signal.SIGTERM, to=1)
    jobs, _ = run(("polite", 0.5), ("polite", 60))
    assert [job.state for job in jobs] == ["done", "failed"]
    assert jobs[1].note == "a signal from elsewhere has stopped it"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_them_gently_and_starts_no_more(run, tmp_path, signum):
    when_both_have_begun(tmp_path, signum)
    jobs, stopped = run(("polite", 20), ("polite", 20), ("polite", 0))
    assert stopped == signum and [job.state for job in jobs] == ["stopped", "stopped", "waiting"]
    assert [(tmp_path / f"seed{k}/got").read_text() for k in (0, 1)] == ["SIGTERM"] * 2, "once each"
    assert not (tmp_path / "seed2").exists()


def test_a_second_ctrl_c_interrupts_at_once_and_what_does_not_hear_is_killed(run, tmp_path):
    when_both_have_begun(tmp_path, signal.SIGINT, signal.SIGINT)
    began = time.monotonic()
    jobs, stopped = run(("slow", 60), ("rude", 60))
    assert stopped == signal.SIGINT and [job.state for job in jobs] == ["stopped"] * 2
    assert (tmp_path / "seed0/got").read_text() == "SIGTERM SIGINT" and time.monotonic() - began < 30


def test_a_defect_leaves_no_process_behind(run, tmp_path, monkeypatch):
    def broken(self):
        if len(begun(tmp_path)) == 2:
            raise RuntimeError("a defect")

    monkeypatch.setattr(Status, "show", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run(("polite", 60), ("polite", 60))
    assert all((tmp_path / f"seed{k}/got").exists() for k in (0, 1))


# ---------------------------------------------------------------- what a person sees


def written(path, *lines):
    path.mkdir(exist_ok=True)
    with open(path / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_line_an_evaluation_with_the_time_left(tmp_path, capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(jobs_module.time, "monotonic", lambda: clock[0])
    jobs = [Job(seed, tmp_path / f"seed{seed}", [], 1000, "nats") for seed in (3, 4, 5)]
    status = Status(jobs, 2)
    jobs[0].state = jobs[1].state = "running"
    status.show()
    written(jobs[0].path, {"step": 0, "split": "valid", "nats": 40.0, "loss": 1.0})
    status.show(), status.show()
    written(jobs[1].path, {"step": 0, "split": "valid", "nats": 41.0})
    clock[0] = 110
    written(jobs[0].path, {"step": 90, "split": "train", "nats": 1.0}, {"step": 100, "split": "valid", "nats": 30.25})
    status.show()
    # seed 3: 100 steps in 10 s; 900 + 1,000 + 1,000 steps are left for two workers at 10/s
    assert capsys.readouterr().err.splitlines() == [
        "seed 3 0/1,000 valid nats 40.00  0 of 3 done",
        "seed 3 100/1,000 valid nats 30.25  0 of 3 done  2:25 left",
        "seed 4 0/1,000 valid nats 41.00  0 of 3 done  2:25 left",
    ]
    clock[0] = 120
    written(jobs[1].path, {"step": 20, "split": "train", "loss": 1.0})  # 2/s: this one alone takes longest
    status.show()
    assert capsys.readouterr().err == "" and status.left() == pytest.approx(980 / 2)


def test_on_a_terminal_one_line_is_written_anew_and_messages_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    jobs = [Job(seed, tmp_path / f"seed{seed}", [], 1000, "nats", "running") for seed in (3, 4)]
    status = Status(jobs, 2)
    for job in jobs:
        written(job.path, {"step": 250, "split": "valid", "nats": 40.0})
    status.show(), status.show()
    status.say("seed 3 done")
    err = capsys.readouterr().err
    first = "0 of 2 done  valid nats:  seed 3 25% 40.00  seed 4 25% 40.00"[:59]
    assert err == f"\r\x1b[K{first}\r\x1b[Kptheta: seed 3 done\n"
