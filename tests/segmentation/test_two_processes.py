"""Two processes that share a batch have the gradient that one has: with labels, ignored pixels and weights uneven."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptheta.api import method
from ptheta.data.order import generator

NAMES = ("context", "deeplab", "hdc")
RANKS = """
import sys, torch
import torch.distributed.nn.functional  # before there is a group: its functions hold what is there
from safetensors.torch import load_file, save_file
from ptheta.api import method

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
told = load_file(f"{folder}/batch.safetensors")

def leave_gradient(name):
    net = method(name).Model(shape=(3, 24, 32), classes=["a", "b", "c"], seed=0, width=4).double()
    net.balance.copy_(told["balance"])
    both = torch.nn.parallel.DistributedDataParallel(net)
    half = slice(2 * rank, 2 * rank + 2)
    both(told["x"][half], told["y"][half]).backward()
    if rank == 0:
        save_file({k: p.grad for k, p in net.named_parameters()}, f"{folder}/{name}.safetensors")

for name in sys.argv[3:]:
    leave_gradient(name)
torch.distributed.barrier()  # neither leaves while the other still listens
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder, g = tmp_path_factory.mktemp("two"), generator(0, 0, "batch")
    x = torch.rand(4, 3, 24, 32, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (4, 24, 32), generator=g, dtype=torch.uint8)
    y[0, :20], y[1, :5] = 255, 255  # the first process has far fewer pixels to learn from
    batch = {"x": x, "y": y, "balance": torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)}
    save_file(batch, folder / "batch.safetensors")
    started = [
        subprocess.Popen([sys.executable, "-c", RANKS, str(rank), str(folder), *NAMES], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in started:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err.decode()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_one_process(name, shared):
    told = load_file(shared / "batch.safetensors")
    net = method(name).Model(shape=(3, 24, 32), classes=["a", "b", "c"], seed=0, width=4).double()
    net.balance.copy_(told["balance"])
    net(told["x"], told["y"]).backward()
    both = load_file(shared / f"{name}.safetensors")
    for k, p in net.named_parameters():
        torch.testing.assert_close(both[k], p.grad, rtol=1e-7, atol=1e-12, msg=lambda m, k=k: f"{k}: {m}")
    assert both.keys() == {k for k, _ in net.named_parameters()}
