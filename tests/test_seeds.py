"""`ptheta train METHOD … --seeds`: the runs, going on, what fails, what is interrupted, processes that end in time."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import done, refused, run
from matplotlib.figure import Figure

import ptheta
from ptheta import seeds
from ptheta.control.learning import Control
from ptheta.density.likelihood import MaximumLikelihood
from ptheta.engine import checkpoint, curves
from ptheta.engine import jobs as jobs_module
from ptheta.engine.errors import UsageError
from ptheta.engine.options import Options
from ptheta.engine.statistics import interval, iqm

TRAIN = ("train", "fvsbn", "--data", "rows.csv", "--steps", "8", "--eval-every", "2", "--warmup", "0")


class Ended:
    """A process that has ended."""

    def __init__(self, code: int):
        self.code = code

    def poll(self) -> int:
        return self.code

    def send_signal(self, signum) -> None:
        raise AssertionError("it has ended")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, alone, one_thread):
    """A folder with 60 rows to learn from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(MaximumLikelihood, "pictures", lambda self: {})
    monkeypatch.setattr(Control, "pictures", lambda self: {})
    monkeypatch.setattr(curves, "curves", lambda metrics: Figure(figsize=(1, 1)))  # nobody looks at them
    np.savetxt("rows.csv", np.random.RandomState(0).randint(0, 2, (60, 5)), fmt="%d", delimiter=",")


@pytest.fixture
def started(monkeypatch):
    """The command lines of the seeds, which are run in this process: a real one takes seconds to start."""
    found = []

    def start(argv, log, threads, gpu=None):
        found.append(argv)
        code, out, err = run(*argv)
        with open(log, "a") as file:
            file.write(out + err)
        return Ended(code)

    monkeypatch.setattr(seeds, "start", start)
    monkeypatch.setattr(jobs_module, "EVERY", 0.0)
    return found


def results(path) -> list[bytes]:
    """What a run has learned and measured."""
    last = max((Path(path) / "checkpoints").iterdir())
    files = [Path(path) / "metrics.jsonl", Path(path) / "model/model.safetensors", last / "tensors.safetensors"]
    return [file.read_bytes() for file in files]


def by_itself(seed, out, **more):
    options = {"steps": 8, "eval_every": 2, "warmup": 0, "threads": 1, **more}
    return ptheta.train("fvsbn", data="rows.csv", seed=seed, out=out, **options)


# ---------------------------------------------------------------- which seeds


@pytest.mark.parametrize(
    ("text", "found"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,3, 5", [0, 3, 5]), ("8-9,0-1", [8, 9, 0, 1])]
)
def test_seeds_are_numbers_and_ranges(text, found):
    assert seeds.numbers(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "0-10000", "0-9999,1", "9" * 20, "²"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(
        UsageError, match="impossible; allowed: numbers and rising ranges such as 0-4,7, at most 10,000"
    ):
        seeds.numbers(text)


def test_a_seed_that_is_named_twice_is_refused():
    with pytest.raises(UsageError, match="names 3 2 times; allowed: each seed once"):
        seeds.numbers("0-4,3")


# ---------------------------------------------------------------- the runs


def test_each_run_is_that_of_the_seed_by_itself_and_is_told_in_a_table(started):
    code, out, err = run(*TRAIN, "--seeds", "0,2", "--workers", "1", "--out", "s")
    assert code == 0 and sorted(os.listdir("s")) == ["seed0", "seed0.log", "seed2", "seed2.log"]
    title, head, *rows, path = out.splitlines()
    assert title == "fvsbn on rows.csv, valid nats, lower is better" and path == "s"
    assert head.split() == ["seed", "steps", "best", "at", "step", "mean", "of", "last", "10"]
    for seed, row in zip((0, 2), rows, strict=True):
        own = by_itself(seed, f"own{seed}")
        assert results(f"s/seed{seed}") == results(own.path)
        nats = [(line["nats"], line["step"]) for line in own.metrics() if "nats" in line]
        best, mean = min(nats), sum(value for value, _ in nats) / len(nats)
        assert row.split() == [str(seed), "8", f"{best[0]:.3f}", str(best[1]), f"{mean:.3f}"]
        assert f"ptheta: fvsbn on rows.csv (5 variables) → s/seed{seed}" in Path(f"s/seed{seed}.log").read_text()
    assert "ptheta: fvsbn, 2 seeds, 1 at once → s" in err and "next: ptheta compare s" in err
    assert "seed 2 8/8 valid nats " in err and "ptheta: seed 2 done, valid nats " in err


def test_from_five_seeds_on_the_interquartile_mean_is_told(started):
    lines = done(*TRAIN, "--seeds=0-4", "--out=s")
    nats = [[m["nats"] for m in ptheta.Run.open(f"s/seed{k}").metrics() if "nats" in m] for k in range(5)]
    best, mean = (np.array([of(one) for one in nats]) for of in (min, np.mean))
    shown = [f"{iqm(x):.3f} [{interval(x)[0]:.3f}, {interval(x)[1]:.3f}]" for x in (best, mean)]
    assert re.split(r"\s\s+", lines[-3]) == ["IQM", *shown]


def test_seeds_get_the_arguments_without_what_is_not_theirs(started):
    more = ("--seeds", "4", "--workers=2", "--out", "s", "--hidden", "3", "--no-resume")
    done("train", "nade", *TRAIN[2:], *more)
    own = ["--threads", "1", "--seed", "4", "--out", "s/seed4"]
    assert started == [["train", "nade", *TRAIN[2:], "--hidden", "3", *own]]
    done(*TRAIN, "--threads", "2", "--seeds", "1", "--out", "t")
    assert started[1] == [*TRAIN, "--threads", "2", "--seed", "1", "--out", "t/seed1"]


def test_the_default_folder_is_numbered_and_the_newest_is_gone_on_with(started):
    for name in ("fvsbn-rows.csv-seeds", "fvsbn-rows.csv-seeds-2"):
        assert done(*TRAIN, "--seeds", "0")[-1] == f"runs/{name}"
    assert done(*TRAIN, "--seeds", "0-1", "--resume")[-1] == "runs/fvsbn-rows.csv-seeds-2"
    assert len(started) == 3 and started[-1][-1] == "runs/fvsbn-rows.csv-seeds-2/seed1"


def test_an_environment_is_learned_in(started):
    lines = done(
        "train", "trpo", "--env", "CartPole-v1", "--steps", "40", "--envs", "2", "--rollout", "8", "--hidden", "4",
        "--eval-size", "1", "--seeds", "3",
    )  # fmt: skip
    assert lines[0] == "trpo on CartPole-v1, valid return_mean, higher is better"
    assert lines[-1] == "runs/trpo-CartPole-v1-seeds" and lines[2].split()[:2] == ["3", "48"]


# ---------------------------------------------------------------- going on


def test_those_that_have_ended_are_skipped_others_go_on_and_missing_ones_begin(started):
    done(*TRAIN, "--seeds", "0", "--out", "s")
    by_itself(1, "s/seed1", max_time=1e-9)  # it has stopped before its last step
    assert max(step for step, _ in checkpoint.steps(Path("s/seed1/checkpoints"))) < 8
    by_itself(2, "s/seed2")
    Path("s/seed2/pictures/curves.png").unlink()  # as if it had been killed while it drew
    code, out, err = run(*TRAIN, "--max-time", "9", "--seeds", "0-3", "--out", "s", "--resume")
    assert code == 0 and "ptheta: fvsbn, 4 seeds, 1 of them done, " in err
    assert [argv[-1] for argv in started[1:]] == ["--resume", "--resume", "s/seed3"]
    assert [line.split()[:2] for line in out.splitlines()[2:6]] == [[str(k), "8"] for k in range(4)]
    for seed in range(1, 4):
        by_itself(seed, f"own{seed}")
        assert results(f"s/seed{seed}") == results(f"own{seed}")
    done(*TRAIN, "--seeds", "0-3", "--out", "s", "--resume")
    assert len(started) == 4, "all of them had ended"


def test_one_that_is_out_of_patience_has_ended(started):
    argv = (*TRAIN[:4], "--steps", "500", *TRAIN[6:], "--patience", "2", "--learning-rate", "9")
    done(*argv, "--seeds", "0", "--out", "s")
    assert ptheta.Run.open("s/seed0").metrics()[-1]["step"] < 500
    done(*argv, "--seeds", "0", "--out", "s", "--resume")
    assert len(started) == 1


def test_more_steps_go_on_with_all(started):
    done(*TRAIN, "--seeds", "0", "--out", "s")
    argv = (*TRAIN[:4], "--steps", "12", *TRAIN[6:])
    assert done(*argv, "--seeds", "0", "--out", "s", "--resume")[2].split()[:2] == ["0", "12"]


# ---------------------------------------------------------------- what fails, what is interrupted


def test_a_seed_that_fails_is_named_and_the_others_are_told(started, monkeypatch):
    real = seeds.start

    def start(argv, log, *more):
        if "s/seed1" in argv:
            Path(log).write_text("a line\nptheta: the disk is full.\n")
            return Ended(1)
        return real(argv, log, *more)

    monkeypatch.setattr(seeds, "start", start)
    code, out, err = run(*TRAIN, "--seeds", "0-2", "--out", "s")
    assert code == 1 and [line.split()[0] for line in out.splitlines()[2:4]] == ["0", "2"]
    assert err.count("ptheta: seed 1 failed: the disk is full.") == 2 and "(s/seed1.log)" in err.splitlines()[-2]


def test_an_interruption_says_how_to_go_on(monkeypatch):
    class Running:
        code = None

        def __init__(self, *of):
            os.kill(os.getpid(), signal.SIGINT)

        def poll(self):
            return self.code

        def send_signal(self, signum):
            self.code = 143

    monkeypatch.setattr(seeds, "start", Running)
    code, out, err = run(*TRAIN, "--seeds", "0-2", "--workers", "1")
    assert code == 130 and out == "" and "ptheta: interrupted, stopped: 0; waiting: 1, 2. Go on with:" in err
    again = f"  ptheta {' '.join(TRAIN)} --seeds 0-2 --workers 1 --out runs/fvsbn-rows.csv-seeds --resume"
    assert err.splitlines()[-1] == again


def test_what_would_hinder_every_seed_is_one_line(started, monkeypatch):
    done(*TRAIN, "--seeds", "0", "--out", "s")
    Path("file").touch()
    more = ("--out", "s", "--resume", "--seeds", "0-1")
    for code, message, *argv in (
        (2, "seeds = '3-1' is impossible; allowed: numbers and rising ranges", *TRAIN, "--seeds", "3-1"),
        (2, "--workers and --ray are for several seeds; name these", *TRAIN, "--workers", "2"),
        (2, "workers = 0 is impossible; allowed: at least 1", *TRAIN, "--workers", "0", "--seeds", "0-1"),
        (2, "--seed and --seeds are both given", *TRAIN, "--seeds", "0-1", "--seed=3"),
        (2, "s/seed0 exists; add --resume to go on with the seeds, or", *TRAIN, "--seeds", "0-1", "--out", "s"),
        (2, "s/seed0 is a run and not a folder of them", *TRAIN, "--seeds", "0-1", "--out", "s/seed0"),
        (2, "s/seed0 has .*learning_rate = .*, not 0.5", *TRAIN, *more, "--learning-rate", "0.5"),
        (2, "s/seed0 has steps = 8, not 9; ask the same of all seeds", *TRAIN[:4], "--steps", "9", *TRAIN[6:], *more),
        (2, "s/seed0 has data = rows.csv, not digits", "train", "fvsbn", *TRAIN[4:], *more),
        (1, "there is no run .*runs/fvsbn-rows.csv-seeds to resume", *TRAIN, "--seeds", "0-1", "--resume"),
        (2, "fvsbn acts in no environment; drop --env", "train", "fvsbn", "--env", "CartPole-v1", "--seeds", "0"),
        (1, "nowhere.csv does not exist", "train", "fvsbn", "--data", "nowhere.csv", "--seeds", "0-9"),
        (1, "file/s cannot be used: Not a directory", *TRAIN, "--seeds", "0", "--out", "file/s"),
    ):
        refused(code, message, *argv)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(2, "--seeds starts processes of its own; use it without a launcher", *TRAIN, "--seeds", "0-1")
    assert len(started) == 1


# ---------------------------------------------------------------- processes


@pytest.fixture
def popen(monkeypatch):
    """What a process would be started with."""
    found = {}

    class Popen(subprocess.Popen):
        def __init__(self, argv, **more):
            found.update(more, argv=argv)

        def __del__(self):
            """There is no process."""

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return found


def test_what_a_process_is_started_with(popen, monkeypatch):
    monkeypatch.setattr(sys, "path", [os.getcwd(), "/lib"])
    seeds.start(["train", "made"], Path("log"), 3)
    assert popen["argv"] == [sys.executable, "-m", "ptheta.seeds", "train", "made"]
    assert popen["env"]["OMP_NUM_THREADS"] == popen["env"]["OPENBLAS_NUM_THREADS"] == "3"
    assert popen["start_new_session"] and popen["stdin"] == subprocess.PIPE
    monkeypatch.setattr(sys, "path", ["/bin", "/lib"])  # as of the command `ptheta`: a json.py here is not Python's
    seeds.start(["train", "made"], Path("log"), 1, "1")
    assert popen["argv"][1:3] == ["-P", "-m"] and popen["env"]["CUDA_VISIBLE_DEVICES"] == "1"


def test_gpus_are_dealt_in_turn_where_there_are_several(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [seeds.gpu_of(k, Options(device="cpu")) for k in range(2)] == [None] * 2
    for count, given in ((0, [None] * 3), (1, [None] * 3), (2, ["0", "1", "0"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert [seeds.gpu_of(k, Options()) for k in range(3)] == given
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert [seeds.gpu_of(k, Options()) for k in range(3)] == ["5", "3", "5"]


def test_without_ray_its_option_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(1, r"--ray wants Ray, which is not installed: pip install 'ptheta\[ray\]'", *TRAIN, "--seeds", "0", "--ray")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked for its exit code has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are read from /proc")
def test_a_seed_saves_itself_and_ends_when_its_parent_is_killed():
    argv = (*TRAIN[:4], "--steps", "1000000", "--eval-every", "1000000", "--save-every", "9999", "--out", "s")
    metrics = Path("s/seed4/metrics.jsonl")
    with subprocess.Popen([sys.executable, "-m", "ptheta", *argv, "--seeds", "4"]) as parent:
        try:
            until(lambda: metrics.exists() and '"train"' in metrics.read_text())
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        finally:
            parent.kill()
    assert len(children) == 1
    until(lambda: gone(int(children[0])))
    assert re.search(r"ptheta: stopped at step [\d,]+, saved", Path("s/seed4.log").read_text())
    assert max(step for step, _ in checkpoint.steps(Path("s/seed4/checkpoints"))) > 0


@pytest.mark.slow
def test_the_process_of_a_seed_does_what_the_command_does_and_ends_with_its_exit_code():
    process = seeds.start([*TRAIN, "--threads", "1", "--seed", "3", "--out", "r"], Path("log"), 1)
    by_itself(3, "own")
    assert process.wait(120) == 0 and results("r") == results("own") and "→ r" in Path("log").read_text()


@pytest.mark.slow
def test_on_ray_the_runs_are_the_same():
    pytest.importorskip("ray")
    code, out, _ = run(*TRAIN, "--seeds", "0-1", "--ray", "--out", "s")
    assert code == 0 and out.splitlines()[-1] == "s"
    for seed in (0, 1):
        assert results(f"s/seed{seed}") == results(by_itself(seed, f"own{seed}").path)
