"""Whatever ends a run, nothing saved is lost, what is said is clear, and going on gives what would have been."""

import contextlib
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from runs import results, said_clearly, tree, until_it_trains, whole

import ptheta
from ptheta.density.likelihood import MaximumLikelihood
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError
from ptheta.engine.run import Run

UPDATE = MaximumLikelihood.update


@pytest.fixture
def after(monkeypatch):
    """A function: `after(step, do)` calls do() as soon as that update of the run is done; its result is the log."""

    def after(step: int, do):
        def update(self, batch):
            logs = UPDATE(self, batch)
            return (do() or logs) if self.step == step else logs

        monkeypatch.setattr(MaximumLikelihood, "update", update)

    return after


# ---------------------------------------------------------------- killed

OFTEN = ["--save-every", "0", "--eval-every", "10", "--threads", "1", "--learning-rate", "0.01", "--seed", "5"]


def killed_and_resumed(tmp_path, start, steps: int, kills: int) -> None:
    """Kill a run with SIGKILL so many times, at random instants; let it end; compare it with one left in peace."""
    argv = ["train", "fvsbn", *OFTEN, "--steps", str(steps)]

    def reached(name: str) -> int:
        return max((s for s, _ in checkpoint.steps(tmp_path / name / "checkpoints")), default=0)

    reference = start(*argv, "--out", "whole")
    until_it_trains(reference)
    began = time.monotonic()
    while reached("whole") < steps:
        time.sleep(0.01)
    lasts = time.monotonic() - began  # of updates, evaluations and checkpoints
    assert reference.wait(timeout=300) == 0

    instants, hit = random.Random(0), []
    for left in range(kills, 0, -1):
        process = start(*argv, "--out", "run", "--resume")
        until_it_trains(process)
        time.sleep(instants.uniform(0, 1.5 * lasts * (1 - reached("run") / steps) / left))
        process.kill()
        process.wait()
        if process.returncode == -signal.SIGKILL and reached("run") < steps:
            hit.append(reached("run"))
    assert len(hit) >= kills / 2 and len(set(hit)) > kills / 4, f"killed at {hit} of {steps}: too late or too early"

    last = start(*argv, "--out", "run", "--resume")
    _, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    whole(tmp_path / "run")


def test_killed_twice_a_run_ends_as_if_it_had_not_been(tmp_path, start):
    killed_and_resumed(tmp_path, start, steps=300, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_a_run_ends_as_if_it_had_not_been(tmp_path, start):
    killed_and_resumed(tmp_path, start, steps=1500, kills=20)


@pytest.mark.parametrize("where", ["", "model", "pictures"])
def test_what_a_killed_process_had_half_written_goes_when_the_run_goes_on(train, tmp_path, where):
    """A kill between a file's writing and its renaming: the process that resumes has another number."""
    train(steps=10)
    half = tmp_path / "run" / where / ".part-4711-config.json"
    half.write_text('{"format"')
    train(steps=20, resume=True)
    assert not half.exists()
    whole(tmp_path / "run")


# ---------------------------------------------------------------- asked to stop


def test_signals_save_and_say_how_to_go_on(tmp_path, start):
    """Ctrl-C, the command that was printed, SIGTERM, the command that was printed: equal to a run left in peace."""
    argv = ["train", "fvsbn", "--steps", "3000", "--eval-every", "300", "--threads", "1"]
    metrics = tmp_path / "runs/fvsbn-digits-seed0/metrics.jsonl"
    process = start(*argv)
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        until_it_trains(process)
        before = metrics.stat().st_size if metrics.exists() else 0
        while not metrics.exists() or metrics.stat().st_size == before:  # then it listens to signals
            time.sleep(0.01)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in err
        *_, message, command = err.strip().splitlines()
        assert message.startswith("ptheta: stopped at step ") and message.endswith(", saved. Go on with:")
        program, *again = shlex.split(command)
        assert program == "ptheta" and again.count("--resume") == 1 and again.count("--out") == 1
        process = start(*again)
    assert process.wait(timeout=120) == 0
    run = tmp_path / "runs/fvsbn-digits-seed0"
    reference = ptheta.train("fvsbn", steps=3000, eval_every=300, threads=1, out=str(tmp_path / "whole"))
    assert results(run) == results(reference.path)


def test_a_second_ctrl_c_stops_at_once(tmp_path, command, after):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    after(7, twice)
    code, _, err = command("train", "fvsbn", "--steps", 20, "--eval-every", 5, "--out", tmp_path / "run")
    assert code == 130
    said_clearly(err, "interrupted")
    assert max(s for s, _ in checkpoint.steps(tmp_path / "run" / "checkpoints")) == 5, "it went on to save"
    whole(tmp_path / "run")


def test_the_signals_are_given_back(train):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(steps=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_whose_time_is_up_is_saved_and_goes_on(train):
    reference = train("whole", steps=30, eval_every=10)
    run = train(steps=30, eval_every=10, max_time=1e-6)
    assert checkpoint.newest(run.checkpoints)[0] == 1
    train(resume=True, max_time=60.0)
    assert results(run.path) == results(reference.path)


# ---------------------------------------------------------------- one writer


def test_a_second_process_on_a_run_is_refused_and_changes_nothing(tmp_path, start, command):
    out = tmp_path / "run"
    argv = ["train", "fvsbn", "--steps", "100000", "--out", str(out)]
    first = start(*argv)
    until_it_trains(first)
    while checkpoint.newest(out / "checkpoints") is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    before = tree(out)
    code, printed, err = command(*argv, "--resume")
    assert (code, printed) == (2, "")
    said_clearly(err, f"another process is writing to {out}; wait for it or name another --out.")
    code, _, err = command(*argv)
    assert code == 2
    said_clearly(err, f"{out} holds a run already; add --resume")
    assert tree(out) == before
    first.send_signal(signal.SIGCONT)
    first.kill()
    first.wait()
    code, _, err = command(*argv[:3], "5", *argv[4:], "--resume")
    assert code == 0, "the lock outlived its process: " + err


def test_a_folder_with_files_of_the_users_is_refused_and_left_alone(tmp_path, command):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = command("train", "fvsbn", "--steps", 1, "--out", tmp_path)
    assert code == 2
    said_clearly(err, "holds something else already", "name another --out")
    assert tree(tmp_path).keys() == {"notes.txt"} and (tmp_path / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------- not finite


@pytest.mark.parametrize(
    ("value", "step", "kept"), [("nan", 1, 0), ("nan", 7, 5), ("nan", 10, 5), ("inf", 10, 5), ("-inf", 7, 5)]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(tmp_path, command, after, value, step, kept):
    after(step, lambda: {"loss": torch.tensor(float(value))})
    out = tmp_path / "run"
    code, printed, err = command("train", "fvsbn", "--steps", 20, "--eval-every", 5, "--out", out)
    assert (code, printed) == (1, "")
    said_clearly(
        err, f"the loss of step {step} is not finite; the checkpoint of step {kept} is kept in {out}", "--learning-rate"
    )
    assert checkpoint.newest(out / "checkpoints")[0] == kept
    whole(out)
    assert Run.open(out).metrics()[-1]["step"] <= step
    after(0, lambda: None)
    assert command("train", "fvsbn", "--steps", 20, "--eval-every", 5, "--out", out, "--resume")[0] == 0


def test_a_learning_rate_that_blows_up_is_told_and_what_was_good_is_kept(tmp_path, command):
    out = tmp_path / "run"
    argv = [
        "--learning-rate",
        1e37,
        "--warmup",
        0,
        "--steps",
        50,
        "--eval-every",
        5,
        "--precision",
        "fp32",
        "--average",
        0,
    ]
    code, _, err = command("train", "fvsbn", *argv, "--out", out)
    assert code == 1
    said_clearly(err, "is not finite", "Try a smaller --learning-rate")
    whole(out)
    step, state = checkpoint.newest(out / "checkpoints")
    assert checkpoint.not_a_number(state) is None and step < 50
    assert np.isfinite([m["nats"] for m in Run.open(out).metrics() if "nats" in m]).all()


def test_weights_that_became_nan_are_not_saved_over_good_ones(train, tmp_path, monkeypatch):
    """The loss of a step is measured before its update: a checkpoint could hold what the next loss would show."""

    def poisoned(self, batch):
        logs = UPDATE(self, batch)
        if self.step == 10:
            self.model.b.data[3] = torch.nan
        return logs

    monkeypatch.setattr(MaximumLikelihood, "update", poisoned)
    with pytest.raises(
        InputError, match="method/model/b after step 10 is not finite; the checkpoint of step 5 is kept"
    ):
        train(steps=20, eval_every=5)
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[0] == 5
    whole(tmp_path / "run")


def test_a_figure_that_is_not_finite_is_no_measurement(train, tmp_path, monkeypatch):
    from ptheta.engine.method import Estimate

    evaluate = MaximumLikelihood.evaluate

    def broken(self, data, split, limit=None):
        return evaluate(self, data, split, limit) if self.step < 10 else {"nats": Estimate(float("nan"), 0.0, 3)}

    monkeypatch.setattr(MaximumLikelihood, "evaluate", broken)
    with pytest.raises(InputError, match="the valid nats of step 10 is not finite; the checkpoint of step 5 is kept"):
        train(steps=20, eval_every=5)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    whole(tmp_path / "run")


# ---------------------------------------------------------------- broken checkpoints


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(tmp_path, command):
    argv = ["train", "fvsbn", "--steps", 20, "--eval-every", 5, "--threads", 1]
    for name in ("whole", "run"):
        assert command(*argv, "--out", tmp_path / name)[0] == 0
    with open(tmp_path / "run/checkpoints/0000000020/tensors.safetensors", "rb+") as file:
        file.truncate(1000)
    code, _, err = command(*argv, "--out", tmp_path / "run", "--resume")
    assert code == 0
    assert "ptheta: passed over a checkpoint: " in err and "0000000020" in err
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_broken_is_one_line(tmp_path, command):
    argv = ["train", "fvsbn", "--steps", 5, "--out", tmp_path / "run"]
    assert command(*argv)[0] == 0
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        path.write_text("")
    before = tree(tmp_path / "run")
    code, _, err = command(*argv, "--resume")
    assert code == 1
    said_clearly(err, "no checkpoint in", "is whole; start again with another --out.")
    assert tree(tmp_path / "run") == before


# ---------------------------------------------------------------- a full disk


@contextlib.contextmanager
def no_file_longer_than(size: int):
    """As on a full disk: what would make a file longer than that fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("n", "size", "what"),
    [
        (5, 50, "the run directory"),
        (25, 2000, "the model of step 0"),
        (25, 4000, "the checkpoint of step 0"),
        (25, 8000, "the checkpoint of step 1"),
        (5, 4000, "the metrics of step"),
        (5, 12000, "the pictures in"),
    ],
)
def test_a_disk_that_is_full_at_any_point_is_told_and_going_on_works(tmp_path, command, n, size, what):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (50, n)))
    argv = ["train", "fvsbn", "--data", tmp_path / "x.npy", "--steps", 30, "--eval-every", 1, "--threads", 1]
    assert command(*argv, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "run"
    with no_file_longer_than(size):
        code, _, err = command(*argv, "--out", out)
    assert code == 1, err
    said_clearly(
        err, what, "could not be written: File too large.", "What was saved before is whole; make room, then resume."
    )
    assert not list(out.rglob(".part-*"))
    assert command(*argv, "--out", out, "--resume")[0] == 0
    assert results(out) == results(tmp_path / "whole")


def test_a_disk_that_fills_up_while_going_on_costs_nothing_saved(tmp_path, command):
    out = tmp_path / "run"
    argv = ["train", "fvsbn", "--eval-every", 10, "--out", out, "--threads", 1]
    assert command(*argv, "--steps", 20)[0] == 0
    saved = tree(out / "checkpoints")
    with no_file_longer_than(16_000):  # the tensors of 64 variables need more
        code, _, err = command(*argv, "--steps", 40, "--resume")
    assert code == 1
    said_clearly(err, "of step 30", "File too large")
    assert tree(out / "checkpoints") == saved
    whole(out)
    assert command(*argv, "--steps", 40, "--resume")[0] == 0


@contextlib.contextmanager
def mounted(folder, options: str):
    """A file system in memory; skipped where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full(tmp_path, start, command):
    disk = tmp_path / "disk"
    with mounted(disk, "size=512k"):
        argv = ["train", "fvsbn", "--steps", "4000", "--eval-every", "20", "--out", str(disk / "run"), "--keep", "50"]
        process = start(*argv)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1 and out == ""
        said_clearly(err, "could not be written: No space left on device.", "make room, then resume")
        whole(disk / "run")
        step = checkpoint.newest(disk / "run" / "checkpoints")[0]
        assert 0 < step < 4000
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        code, _, err = command(*argv, "--resume", "--steps", str(step + 100))
        assert code == 0, err
        assert Run.open(disk / "run").metrics()[-1]["step"] == step + 100


@pytest.mark.parametrize("name", ["new/run", "run"])
def test_a_place_that_cannot_be_written_to_is_told(tmp_path, command, name):
    place = tmp_path / "place"
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # permissions do not bind root
            stack.enter_context(mounted(place, "size=1m"))
        else:
            place.mkdir()
            stack.callback(place.chmod, 0o755)
        (place / "run").mkdir()
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        else:
            (place / "run").chmod(0o555)
            place.chmod(0o555)
        code, _, err = command("train", "fvsbn", "--steps", 1, "--out", place / name)
        assert code == 1
        said_clearly(err, "could not be written", "make the place writable")
