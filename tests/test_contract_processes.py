"""The contract's part with two processes: what they learn together is what one learns alone, for every method."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from catalogue import CONTROL, DENSITIES, settings, train
from safetensors.torch import load_file
from test_contract import threads  # noqa: F401

from ptheta.engine.run import Run
from ptheta.methods import METHODS

CASES = {  # (method, settings besides)
    **{name: (name, {} if name in DENSITIES else {"learning_rate": 0.001}) for name in METHODS if name not in CONTROL},
    "deeplab": ("deeplab", {"learning_rate": 0.0001}),  # of its gradient, see segmentation/test_two_processes.py
    "made-dropout": ("made", {"dropout": 0.3}),
    # Of one turn: where a pixel of an answer is another, so are the clicks of all that follow, and what they teach.
    "sam": ("sam", {"learning_rate": 0.001, "interactions": 1}),
}
COUNTED = ("knn", "accuracy", "pa", "mpa", "miou", "fwiou", "dice", "kappa", "iou_correlation", "miou_1", "miou_1_told",
           "miou_3", "miou_5", "miou_box", "first_iou", "last_iou")  # fmt: skip
STEPS = 10

BOTH = """
import json, os, sys
import torch
rank, written = int(os.environ["RANK"]), []
def watch(event, args):
    opened = event == "open" and (args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(str(args[1])) & set("wax+"))
    if opened or event in ("os.mkdir", "os.rename", "os.remove", "os.truncate"):
        if str(args[0]).startswith(os.path.join(os.getcwd(), "two-")):
            written.append(f"{event} {args[0]}")
sys.addaudithook(watch)
from ptheta.cli import main
said = {}
for case, argv in json.load(open("cases.json")).items():
    try:
        main(argv)
    except SystemExit as left:
        said[case] = left.code
    except Exception as error:
        said[case] = repr(error)
json.dump({"said": said, "written": written}, open(f"said-{rank}.json", "w"))
torch.distributed.barrier()  # neither leaves while the other still listens
torch.distributed.destroy_process_group()
"""


def flags(options: dict) -> list[str]:
    """{"hidden": (24, 16)} as the command line writes it."""
    argv = []
    for name, value in options.items():
        argv.append(f"--{'no-' if value is False else ''}{name.replace('_', '-')}")
        argv += [str(v) for v in value] if isinstance(value, tuple) else [] if isinstance(value, bool) else [str(value)]
    return argv


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder in which two processes, launched once for all, have trained every case into two-CASE."""
    folder = tmp_path_factory.mktemp("two")
    cases = {
        case: ["train", name, *flags({**settings(name), **more, "steps": STEPS, "eval_every": 5, "threads": 1}),
               "--device", "cpu", "--out", str(folder / f"two-{case}")]
        for case, (name, more) in CASES.items()
    }  # fmt: skip
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "both.py").write_text(BOTH)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # --multi_gpu is how Accelerate is told to start several processes on one machine; without a GPU they use gloo.
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        port,
        str(folder / "both.py"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(launch, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "2 processes]" in done.stderr, "Accelerate started one process"
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, two, tmp_path):
    name, more = CASES[case]
    assert json.loads((two / "said-0.json").read_text())["said"][case] == 0
    one = train(name, tmp_path / "one", **more, steps=STEPS, eval_every=5)
    both = Run.open(two / f"two-{case}")
    a, b = (load_file(run.model / "model.safetensors") for run in (one, both))
    assert a.keys() == b.keys()
    # Adam scales rounding errors up where a gradient is nearly zero, more so through batch norms. What the second
    # process is blind to would change weights by far more: 20 updates move them by up to 0.02. Running variances are
    # above 1, and differ by a thousandth of themselves.
    relative, close = (0, 1e-5) if name in DENSITIES else (3e-3, 1e-3)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=relative, atol=close)
    assert len(one.metrics()) == len(both.metrics())
    for x, y in zip(one.metrics(), both.metrics()):
        assert (x.pop("step"), x.pop("split")) == (y.pop("step"), y.pop("split"))
        assert x.keys() == y.keys()
        for figure in x:  # of what is counted, neighbours, right answers or pixels, one may be another
            apart = 0.02 if figure.removesuffix("_se") in COUNTED else 1e-12
            assert x[figure] == pytest.approx(y[figure], rel=max(close, relative), abs=apart), figure


def test_only_the_first_process_writes(two):
    said = [json.loads((two / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0]["said"] == said[1]["said"]
    assert said[0]["written"] and not said[1]["written"]
