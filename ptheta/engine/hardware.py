r"""Where the numbers live: device, precision, threads, and how many processes share the work.

One process runs plain PyTorch. When a launcher has set WORLD_SIZE (for example
`accelerate launch`), modules and losses pass through Hugging Face Accelerate,
which averages the gradients of all processes. Methods see neither: they call
`prepare`, `autocast` and `backward`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

# Large tensors in huge pages: without this, on a CPU, most of the time of a step
# of a large layer goes into page faults of freshly allocated memory. PyTorch reads it once,
# at its first allocation, so it stands before the import.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ptheta.engine.errors import InputError, UsageError  # noqa: E402

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass
class Hardware:
    """The machine as a method sees it. Build one with `detect`."""

    device: torch.device
    precision: str
    rank: int = 0
    world: int = 1
    accelerator: Any = None  # accelerate.Accelerator when world > 1

    @property
    def main(self) -> bool:
        """True in the one process that writes files and speaks to the user."""
        return self.rank == 0

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device and, with several processes, wrapped so that their gradients are averaged.

        Training calls the returned module; everything else may use the original, which shares its parameters.
        """
        module.to(self.device)
        return self.accelerator.prepare(module) if self.accelerator else module

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context in which matrix products run in the chosen precision."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss` (0-d, this process's mean) into the parameters, averaged over processes."""
        if self.accelerator:
            self.accelerator.backward(loss)
        else:
            loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        return self.accelerator.reduce(value, "mean") if self.accelerator else value

    def least(self, value: Tensor) -> Tensor:
        """Smallest of a 0-d tensor over all processes."""
        return self.accelerator.gather(value[None]).min() if self.accelerator else value

    def wait(self) -> None:
        """Let every process arrive here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def agree(self, flag: bool) -> bool:
        """True in every process as soon as it is true in one."""
        if not self.accelerator:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        processes = f", {self.world} processes" if self.world > 1 else ""
        slow = self.precision == "bf16" and self.device.type == "cpu" and not bf16_on_cpu()
        warning = " (slow: this CPU does not multiply in it; fp32 is faster)" if slow else ""
        return f"{name}, {self.precision}{warning}, {torch.get_num_threads()} threads{processes}"


def detect(device: Device = "auto", precision: Precision = "auto", threads: int | None = None) -> Hardware:
    """The Hardware for the options --device, --precision and --threads.

    `auto` takes a GPU if there is one; bf16 on a GPU that has it and fp32 elsewhere
    (on a CPU with AMX, bf16 pays for layers of thousands of units: ask for it with --precision bf16).

    Raises UsageError for a device that is not here or a thread count below one.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads = {threads} is impossible; allowed: at least 1 (option --threads).")
        torch.set_num_threads(threads)
    have = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if "cuda" in have else "cpu"
    if device not in have:
        raise UsageError(f"device {device!r} is not here; allowed: auto, {', '.join(have)} (option --device).")
    if device == "cpu":
        keep_freed_memory()
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Hardware(torch.device(device), precision)
    from accelerate import Accelerator

    importlib.import_module("torch.distributed.nn.functional")  # before there is a group: it holds what is there
    atexit.register(leave)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    if accelerator.num_processes != world:
        raise InputError(
            f"WORLD_SIZE is {world} but {accelerator.num_processes} process(es) came up; check the launcher."
        )
    return Hardware(accelerator.device, precision, accelerator.process_index, world, accelerator)


def leave() -> None:
    """End the group of processes while Python still runs: its threads that outlive Python may abort (SIGABRT)."""
    if torch.distributed.is_initialized():
        gc.collect()  # what was prepared holds the group
        torch.distributed.destroy_process_group()


def bf16_on_cpu() -> bool:
    """Whether oneDNN has bf16 kernels for this CPU (AVX-512 or AMX). With AVX2 alone a matrix product in bf16 took some
    280 times as long as in float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, a CPU takes denormal numbers (below 1e-38 in float32) for zero: on them it can be slower.

    Adam's moments of a weight without gradient decay to them. With a quarter of the first moments so small, a step of
    Adam took 1.26 times as long on a Zen 4 core, and inside as long as without them. Threads take the mode over from
    the one that starts them, so this belongs around the first product of a process; those already started keep theirs.
    """
    before = (torch.tensor(1e-30) * 1e-10).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors below 1 GiB for the next ones.

    By default it returns every large block to the system at once, and the next step pays for the same pages again:
    in a virtual machine, up to half of the time of a large layer. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
