"""A run's directory: nothing is overwritten, nothing is mixed up, and a run goes on as what it was."""

import json
import struct

import numpy as np
import pytest
import torch
from runs import results, tree

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import Interrupted
from ptheta.engine.run import Run, last_path, new_path

ABOUT = {
    "method": "fvsbn",
    "seed": 3,
    "config": {},
    "options": {},
    "data": {"spec": "digits"},
    "command": "ptheta train fvsbn",
}


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- the directory


def test_a_run_is_found_again_with_what_it_was_started_with(tmp_path):
    Run.create(tmp_path / "deep" / "run", ABOUT)
    about = Run.open(str(tmp_path / "deep" / "run")).about
    assert ABOUT.items() <= about.items()
    assert about["versions"]["torch"] == torch.__version__ and about["versions"]["ptheta"]


def test_an_empty_folder_may_become_a_run(tmp_path):
    Run.create(tmp_path, ABOUT)
    assert (tmp_path / "config.json").exists()


def test_what_a_killed_start_left_is_no_hindrance(tmp_path):
    (tmp_path / ".part-123-config.json").write_text('{"form')
    (tmp_path / ".lock").touch()
    assert Run.create(tmp_path, ABOUT).about["seed"] == 3


@pytest.mark.parametrize(("name", "kind"), [("config.json", "a run"), ("thesis.tex", "something else")])
def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path, name, kind):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds {kind} already; add --resume .* another --out"):
        Run.create(tmp_path, ABOUT)
    assert tree(tmp_path).keys() == {name} and (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        Run.create(tmp_path / "run", ABOUT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json in it"),
        ("{", "cannot be read"),
        ("[1]", "of another kind"),
        (json.dumps({"format": 1, "library": "ptheta", "method": "fvsbn", "model": {"n": 3}}), "of another kind"),
        (json.dumps({"seed": 3}), "of another kind"),
        (json.dumps({"format": 2, **ABOUT}), "run format 2; this ptheta reads up to 1: update ptheta"),
        (json.dumps({"format": "two", **ABOUT}), "run format 'two'; this ptheta reads up to 1: update ptheta"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_with_the_reason(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Run.open(tmp_path)


def test_two_that_start_at_once_do_not_write_one_config(tmp_path):
    first = Run(tmp_path, ABOUT)
    first.lock()  # as far as another process has come
    with pytest.raises(UsageError, match="another process is writing to"):
        Run.create(tmp_path, {**ABOUT, "seed": 4})
    assert tree(tmp_path).keys() == {".lock"}
    first.close()


def test_names_are_numbered_and_the_newest_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no run runs/a to resume"):
        last_path("a")
    for expected in ("a", "a-2", "a-3"):
        path = new_path("a")
        assert path.name == expected
        path.mkdir(parents=True)
        assert last_path("a") == path
    assert new_path("ab").name == "ab"


def test_one_process_writes_at_a_time(tmp_path):
    run, other = Run.create(tmp_path, ABOUT), Run.open(tmp_path)
    run.lock()
    with pytest.raises(UsageError, match="another process is writing to"):
        other.lock()
    run.close()
    other.lock()
    other.close()


# ---------------------------------------------------------------- what was measured


def test_metrics_carry_no_time_and_times_are_beside_them(train):
    run = train(steps=20, eval_every=10)
    metrics, times = run.metrics(), lines(run.path / "times.jsonl")
    assert [(m["step"], m["split"]) for m in metrics] == [
        (0, "valid"), (10, "train"), (10, "valid"), (20, "train"), (20, "valid")
    ]  # fmt: skip
    assert [(t["step"], t["split"]) for t in times] == [(m["step"], m["split"]) for m in metrics]
    assert all("time" in t for t in times) and not any("time" in m for m in metrics)
    assert metrics[-1].keys() == {"step", "split", "nats", "nats_se", "bits_per_dim", "bits_per_dim_se"}


def events(folder) -> list[tuple[int, str, float]]:
    """(step, tag, value) of every TensorBoard event, by its documented framing: length, crc, protocol buffer, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + size :]
    return found


def test_tensorboard_gets_the_same_figures(train):
    run = train(steps=20, eval_every=5)
    expected = [
        (m["step"], f"{m['split']}/{name}", np.float32(value))
        for m in run.metrics()
        for name, value in m.items()
        if name not in ("step", "split")
    ]
    assert events(run.path) == expected


def test_pictures_are_replaced_whole(train):
    run = train(steps=1)
    before = tree(run.path / "pictures")
    assert before.keys() == {"curves.png", "noise.png"}
    train(steps=30, resume=True)
    after = tree(run.path / "pictures")
    assert after.keys() == before.keys() and after != before


# ---------------------------------------------------------------- going on


@pytest.fixture
def stop_at(monkeypatch):
    """A function that makes training stop, as by Ctrl-C, after so many updates of the run."""
    import os
    import signal

    from ptheta.density.likelihood import MaximumLikelihood

    update = MaximumLikelihood.update

    def stop_at(step: int | None):
        def interrupted(self, batch):
            logs = update(self, batch)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return logs

        monkeypatch.setattr(MaximumLikelihood, "update", interrupted)

    return stop_at


def test_metrics_are_cut_back_to_the_checkpoint(train, tmp_path):
    whole, run = train("whole", steps=30, eval_every=10), train(steps=30, eval_every=10)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "split": "train", "loss": 1.0}\n{"step": 3')
    train(resume=True)
    assert results(run.path) == results(whole.path)


def test_a_run_killed_before_its_first_checkpoint_starts_its_metrics_anew(train, tmp_path, monkeypatch):
    whole = train("whole", steps=10, eval_every=5)

    def die(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(checkpoint, "save", die)
        train(steps=10, eval_every=5)
    assert len(Run.open(tmp_path / "run").metrics()) == 1
    run = train(steps=10, eval_every=5, resume=True)
    assert results(run.path) == results(whole.path)


def test_init_holds_for_a_run_killed_before_its_first_checkpoint(train, tmp_path, monkeypatch):
    first = train("first", steps=50)
    whole = train("whole", steps=5, init=str(first.path))
    assert whole.metrics()[0]["nats"] == first.metrics()[-1]["nats"]

    def die(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(checkpoint, "save", die)
        train(steps=5, init=str(first.path))
    run = train(resume=True)
    assert results(run.path) == results(whole.path)


def test_more_steps_go_on_where_the_run_ended(train):
    run = train(steps=10, eval_every=5)
    before = run.metrics()
    train(steps=20, resume=True)
    assert run.metrics()[: len(before)] == before
    assert [m["step"] for m in run.metrics() if m["split"] == "valid"] == [0, 5, 10, 15, 20]


def test_the_loss_logged_after_going_on_is_a_mean_over_its_own_updates(train, stop_at):
    whole = train("whole", steps=100, average=0, decay=0)  # logs every 5 updates
    stop_at(13)
    with pytest.raises(Interrupted):
        train(steps=60, average=0, decay=0)  # logs every 3 updates
    stop_at(None)
    run = train(steps=100, resume=True)
    losses = [{m["step"]: m["loss"] for m in r.metrics() if m["split"] == "train"} for r in (whole, run)]
    assert losses[1][100] == losses[0][100]
    assert losses[1][15] == pytest.approx(losses[0][15], rel=0.1)


def test_kept_checkpoints_are_the_same_after_going_on(train, stop_at):
    kept = []
    for name, stop in (("whole", None), ("run", 20)):
        stop_at(stop)
        try:
            train(name, steps=40, eval_every=10, keep=2)
        except Interrupted:
            stop_at(None)
            train(name, resume=True)
        kept.append(sorted(s for s, _ in checkpoint.steps(train(name, resume=True).checkpoints)))
    assert kept[0] == kept[1] == [20, 30, 40]


def test_a_run_stopped_by_patience_is_left_as_it_is_by_going_on(train):
    run = train(steps=500, eval_every=1, patience=2, learning_rate=3.0, average=0)
    last = run.metrics()[-1]["step"]
    assert last < 500
    before = results(run.path)
    train(resume=True, learning_rate=3.0)
    assert results(run.path) == before


def test_going_on_needs_only_the_directory(tmp_path, command):
    """Neither the data nor the seed nor the hyperparameters have to be repeated."""
    x = np.random.default_rng(0).integers(0, 2, (40, 5))
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "run"
    first = ["--data", tmp_path / "x.npy", "--seed", 4, "--batch-size", 7, "--steps", 5, "--threads", 1]
    assert command("train", "fvsbn", "--out", out, *first)[0] == 0
    code, _, err = command("train", "fvsbn", "--out", out, "--resume", "--steps", 9)
    assert code == 0, err
    assert Run.open(out).metrics()[-1]["step"] == 9
    assert command("train", "fvsbn", "--out", tmp_path / "whole", *first[:-4], "--steps", 9, "--threads", 1)[0] == 0
    assert max(s for s, _ in checkpoint.steps(out / "checkpoints")) == 9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"learning_rate": 0.5}, UsageError, r"learning_rate = 0\.01, not 0\.5; drop it, or name another --out"),
        ({"ordering": "random"}, UsageError, "ordering = natural, not random"),
        ({"seed": 9}, UsageError, "seed = 4, not 9"),
        ({"eval_every": 7}, UsageError, "eval_every = 5, not 7"),
        ({"data": "mine.npy"}, UsageError, "data = digits, not mine.npy"),
        ({"data": np.eye(20, dtype=int)}, UsageError, "data = digits, not ndarray in memory"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_going_on_as_something_else_is_refused_and_changes_nothing(train, change, error, message):
    run = train(steps=5, seed=4, eval_every=5)
    before = tree(run.path)
    with pytest.raises(error, match=message):
        train(resume=True, **change)
    assert tree(run.path) == before


def test_going_on_with_changed_data_under_the_old_name_is_refused(train, tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (40, 5))
    np.save(tmp_path / "x.npy", x)
    run = train(steps=5, data=str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", 1 - x)
    before = tree(run.path)
    with pytest.raises(InputError, match="was trained on other data"):
        train(resume=True, data=str(tmp_path / "x.npy"))
    assert tree(run.path) == before


def test_going_on_as_another_method_is_refused(train, tmp_path):
    import ptheta

    run = train(steps=2)
    with pytest.raises(UsageError, match="is a run of fvsbn, not nade"):
        ptheta.train("nade", out=str(run.path), resume=True)


def test_nothing_to_go_on_with_is_told(train, tmp_path, monkeypatch):
    import ptheta

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no run runs/fvsbn-digits-seed0 to resume"):
        ptheta.train("fvsbn", resume=True)
    assert not (tmp_path / "runs").exists()
