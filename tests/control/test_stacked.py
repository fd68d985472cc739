"""Seeds of DDPG that are trained as one batch of networks are what each would be alone."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

import ptheta
from ptheta import together
from ptheta.cli import main
from ptheta.control import ddpg, stacked
from ptheta.control.envs import Environment
from ptheta.engine import checkpoint
from ptheta.engine.hardware import detect

SMALL = {"hidden": (12, 8), "warmup": 30, "batch_size": 16, "envs": 2}


def methods(seeds, **more):
    """In float64: where a gradient is zero but for rounding, Adam makes a step of its full size of that."""
    made = []
    for seed in seeds:
        torch.set_default_dtype(torch.float64)
        try:
            m = ddpg.Method(ddpg.Config(**SMALL, **more), Environment("Pendulum-v1"), seed, detect("cpu", "fp32"), 1000)
        finally:
            torch.set_default_dtype(torch.float32)
        assert m.model.critic.W[0].dtype == torch.float64
        for name in ("s", "a", "r", "after"):
            setattr(m.replay, name, getattr(m.replay, name).double())
        m.explore = lambda s, g, whole=m.explore: whole(s.double(), g)
        made.append(m)
    return made


def test_a_hundred_updates_are_those_of_each_alone():
    for more in ({}, {"noise": "ou", "updates": 2}):
        alone, joint = methods((0, 3, 8), **more), methods((0, 3, 8), **more)
        loops = [m.batches(0, 0, 1) for m in joint]
        group = None
        told = []
        for _ in range(100):
            batches = [next(loop) for loop in loops]
            group = group or stacked.Stacked(joint)
            told.append(group.update(batches))
        for s, m in enumerate(alone):
            loop = m.batches(0, 0, 1)
            for t in range(100):
                logs = m.update(next(loop))
                torch.testing.assert_close(told[t][s]["loss"], logs["loss"])
                assert told[t][s]["units"] == logs["units"]
            for name, p in m.model.named_parameters():
                torch.testing.assert_close(dict(joint[s].model.named_parameters())[name], p)
            for p, q in zip(m.targets.parameters(), joint[s].targets.parameters()):
                torch.testing.assert_close(p, q)
            own = checkpoint.optimizer_state(m.model, m.optimizers["critic"])
            its = checkpoint.optimizer_state(joint[s].model, joint[s].optimizers["critic"])
            assert own.keys() == its.keys() and own["critic.W.0"]["step"] == its["critic.W.0"]["step"]
            torch.testing.assert_close(own["critic.W.0"]["exp_avg"], its["critic.W.0"]["exp_avg"])
        assert not torch.equal(joint[0].model.critic.W[0], joint[1].model.critic.W[0])


def test_methods_that_differ_are_refused():
    with pytest.raises(ValueError, match="nothing but their seeds"):
        stacked.Stacked([*methods((0,)), *methods((1,), gamma=0.9)])


def command(folder: Path, *more: str) -> list[str]:
    return (
        f"train ddpg --env Pendulum-v1 --hidden 8 --warmup 20 --batch-size 8 --steps 120 --eval-every 40 --eval-size 1 "
        f"--seeds 0-2 --out {folder}"
    ).split() + list(more)  # fmt: skip


def called(argv: list[str]) -> int:
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as left:
            main(argv)
        return left.value.code
    finally:
        torch.set_num_threads(threads)


def test_the_command_makes_a_run_of_each_seed(tmp_path, capsys):
    assert called(command(tmp_path / "a")) == 0
    said = capsys.readouterr()
    assert "as one batch of networks" in said.err and "seed  steps" in said.out
    for seed in range(3):
        folder = tmp_path / "a" / f"seed{seed}"
        about = json.loads((folder / "config.json").read_text())
        assert about["seed"] == seed and f"--seed {seed}" in about["command"] and "--seeds" not in about["command"]
        model = ptheta.load(str(folder))
        assert model.name == "ddpg" and model.seed == seed
    assert called(command(tmp_path / "a")) == 2  # nothing is overwritten


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path, monkeypatch, capsys):
    assert called(command(tmp_path / "whole")) == 0
    update, count = stacked.Stacked.update, [0]

    def interrupted(self, batches):
        count[0] += 1
        if count[0] == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(stacked.Stacked, "update", interrupted)
        assert called(command(tmp_path / "part")) == 130
    assert "--resume" in capsys.readouterr().err
    assert called(command(tmp_path / "part", "--resume")) == 0
    for seed in range(3):
        whole, part = (tmp_path / name / f"seed{seed}" for name in ("whole", "part"))
        assert (whole / "metrics.jsonl").read_text() == (part / "metrics.jsonl").read_text()
        assert (whole / "model/model.safetensors").read_bytes() == (part / "model/model.safetensors").read_bytes()


def test_a_seed_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    told = ddpg.Method.told

    def fails(self, batch, found):
        logs = told(self, batch, found)
        return {**logs, "loss": logs["loss"] * float("nan")} if self.seed == 1 and self.step > 30 else logs

    monkeypatch.setattr(ddpg.Method, "told", fails)
    assert called(command(tmp_path / "a")) == 1
    said = capsys.readouterr()
    assert "seed 1 failed: the loss of step" in said.err and "is not finite" in said.err
    for seed in (0, 2):
        assert [
            m["step"] for m in map(json.loads, (tmp_path / f"a/seed{seed}/metrics.jsonl").open()) if "return_mean" in m
        ][-1] >= 120
    assert together.ABLE.keys() == {"ddpg"}
