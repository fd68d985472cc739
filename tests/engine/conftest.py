"""What the engine's tests share: small runs in this process, and real processes that are ended with the test."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import NO_HUB

import ptheta
from ptheta.density.likelihood import MaximumLikelihood

SMALL = {"threads": 1, "learning_rate": 0.01, "warmup": 0}


@pytest.fixture(autouse=True)
def threads():
    """Runs choose the number of threads; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def noise(monkeypatch):
    """One picture that is quickly drawn and is another one after every step, in place of a method's own."""

    def pictures(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 2))
        figure.add_subplot().imshow(np.random.default_rng(self.step).random((200, 200)))
        return {"noise": figure}

    monkeypatch.setattr(MaximumLikelihood, "pictures", pictures)


@pytest.fixture
def train(tmp_path):
    """A function that trains fvsbn on the digits in this process: `train("name", steps=20)`."""

    def train(name: str = "run", data="digits", **options):
        return ptheta.train("fvsbn", data=data, out=str(tmp_path / name), **{**SMALL, **options})

    return train


@pytest.fixture
def command(capsys):
    """A function that runs a command line in this process and returns (exit code, stdout, stderr)."""
    from ptheta.cli import main

    def command(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in argv])
        return (left.value.code, *capsys.readouterr())

    return command


@pytest.fixture
def start(tmp_path):
    """A function that starts `ptheta ARGS` as a process of its own, with pipes of text."""
    with contextlib.ExitStack() as running:

        def start(*argv, **more) -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-m", "ptheta", *map(str, argv)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **NO_HUB}, cwd=tmp_path, **more,
            )  # fmt: skip
            running.callback(process.kill)
            return process

        yield start
