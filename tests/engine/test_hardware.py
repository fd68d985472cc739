"""Devices, precision and processes: refused by name where they are not here, and equal where they are several."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from runs import NO_HUB

from ptheta.engine import hardware
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import detect

HERE = "cuda" if torch.cuda.is_available() else "cpu"


def test_auto_takes_what_is_here():
    assert detect().device.type == HERE
    assert detect("cpu").precision == "fp32"
    assert detect("cpu", "bf16").precision == "bf16"


@pytest.mark.parametrize("has", [True, False])
def test_bf16_on_a_cpu_that_lacks_it_is_said_to_be_slow(has, monkeypatch):
    monkeypatch.setattr(hardware, "bf16_on_cpu", lambda: has)
    assert ("fp32 is faster" in detect("cpu", "bf16").describe()) is not has
    assert "faster" not in detect("cpu", "fp32").describe()


def test_whether_this_cpu_has_bf16_is_told():
    assert hardware.bf16_on_cpu() in (True, False)


def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device 'cuda' is not here; allowed: auto, cpu.*\(option --device\)"):
        detect("cuda")


def test_threads_are_set_and_none_is_refused():
    detect("cpu", threads=2)
    assert torch.get_num_threads() == 2
    with pytest.raises(UsageError, match="threads = 0 is impossible; allowed: at least 1"):
        detect("cpu", threads=0)


def test_denormal_numbers_are_zero_in_every_thread():
    """The moments of weights without gradient decay to them, and Adam's step takes longer on them."""
    code = (
        "import ptheta.engine.hardware as h, torch; torch.set_num_threads(2); "
        "f = h.flushed_denormals(); f.__enter__(); "
        "x = torch.full((10**6,), 1e-30) * 1e-10; print(int(x.view(torch.int32).count_nonzero())); "
        "f.__exit__(None, None, None); print((torch.tensor(1e-30) * 1e-10).item() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"], "zero inside, and as before outside"


def test_training_leaves_the_arithmetic_of_the_process_as_it_was(tmp_path):
    import ptheta

    ptheta.train("fvsbn", data=torch.eye(20), steps=2, out=str(tmp_path / "run"), threads=1)
    assert (torch.tensor(1e-30) * 1e-10).item() > 0


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_the_chosen_precision(precision, dtype):
    with detect("cpu", precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_one_process_is_plain_pytorch():
    hardware = detect("cpu")
    net = torch.nn.Linear(2, 1)
    assert hardware.prepare(net) is net and hardware.main and hardware.world == 1
    loss = net(torch.ones(1, 2)).sum()
    hardware.backward(loss)
    assert net.weight.grad is not None and net.weight.grad.tolist() == [[1.0, 1.0]]
    assert hardware.mean(loss) is loss and hardware.least(loss) is loss
    assert hardware.agree(True) and not hardware.agree(False)
    hardware.wait()


def test_a_launcher_that_brought_up_too_few_is_told(monkeypatch):
    import accelerate

    class Alone:
        num_processes = 1

        def __init__(self, **_):
            pass

    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(accelerate, "Accelerator", Alone)
    with pytest.raises(InputError, match="WORLD_SIZE is 3 but 1 process"):
        detect("cpu")


# ---------------------------------------------------------------- two processes

TWO = """
import json, os, signal, sys
import numpy, torch
import ptheta
from ptheta.density.likelihood import MaximumLikelihood
from ptheta.engine.fit import Interrupted
from ptheta.engine.hardware import detect, leave

h = detect("cpu", threads=1)
said = {"world": h.world, "rank": h.rank, "main": h.main}
net = torch.nn.Linear(2, 1, bias=False)
torch.nn.init.ones_(net.weight)
wrapped = h.prepare(net)
h.backward(wrapped(torch.full((1, 2), float(h.rank + 1))).mean())
said["gradient"] = net.weight.grad.flatten().tolist()  # of 1 and of 2: 1.5
value = torch.tensor(float(10 + h.rank))
said["mean"], said["least"] = h.mean(value).item(), h.least(value).item()
said["agree"] = [h.agree(h.rank == 1), h.agree(False)]

update = MaximumLikelihood.update
options = dict(steps=20, eval_every=5, threads=1, device="cpu", learning_rate=0.01)
log = lambda name: [json.loads(line) for line in open(f"{name}/metrics.jsonl")]

ptheta.train("fvsbn", out="whole", **options)
def stop(self, batch):
    logs = update(self, batch)
    if self.step == 7 and h.rank == 1:  # one process alone is asked to stop
        os.kill(os.getpid(), signal.SIGTERM)
    return logs
MaximumLikelihood.update = stop
try:
    ptheta.train("fvsbn", out="stopped", **options)
except Interrupted as error:
    said["stopped"] = error.step if error.signum == signal.SIGTERM else str(error)
MaximumLikelihood.update = update
ptheta.train("fvsbn", out="stopped", resume=True, threads=1)
said["whole"], said["again"] = log("whole"), log("stopped")

def spoil(self, batch):
    logs = update(self, batch)
    return {"loss": logs["loss"] / 0} if self.step == 5 and h.rank == 1 else logs
MaximumLikelihood.update = spoil
try:
    ptheta.train("fvsbn", out="spoilt", **options)
except ptheta.InputError as error:
    said["spoilt"] = str(error)
MaximumLikelihood.update = update

try:
    ptheta.train("fvsbn", out="odd", batch_size=7, **options)
except ptheta.UsageError as error:
    said["odd"] = str(error)
h.wait()
del wrapped
leave()
said["threads"] = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
json.dump(said, open(f"said-{h.rank}.json", "w"))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of two processes on gloo said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        place = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **NO_HUB, **place, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        code = [sys.executable, str(folder / "two.py")]
        processes.append(subprocess.Popen(code, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in processes:
            _, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_know_who_they_are(two):
    assert [(s["world"], s["rank"], s["main"]) for s in two] == [(2, 0, True), (2, 1, False)]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are read from /proc")
def test_no_thread_of_the_group_outlives_it(two):
    for said in two:
        assert not [name for name in said["threads"] if "gloo" in name]


def test_gradients_means_and_flags_are_of_both(two):
    for said in two:
        assert said["gradient"] == [1.5, 1.5]
        assert said["mean"] == 10.5 and said["least"] == 10
        assert said["agree"] == [True, False]


def test_both_stop_when_one_is_asked_to(two):
    assert [said["stopped"] for said in two] == [7, 7]


def test_two_processes_go_on_as_if_they_had_not_stopped(two):
    whole, again = two[0]["whole"], two[0]["again"]
    assert len(whole) == len(again) == 9
    for a, b in zip(whole, again, strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-6)


def test_a_loss_that_is_not_finite_in_one_process_stops_both_and_names_its_step(two):
    for said in two:
        assert "the loss of step 5 is not finite; the checkpoint of step 0 is kept" in said["spoilt"]


def test_a_batch_that_cannot_be_shared_equally_is_refused(two):
    assert all("batch size 7 cannot be shared equally by 2 processes" in said["odd"] for said in two)
