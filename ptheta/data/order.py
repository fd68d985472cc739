"""Keyed randomness, and the order in which rows are visited.

Nothing here carries a state: a generator and a batch are functions of the seed
and the step. That alone lets a run be resumed anywhere, lets the number of
processes change, and keeps two processes from drawing the same row.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ptheta.engine.errors import UsageError


def generator(seed: int, step: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for the numbers that `stream` draws at `step` of the run with `seed`.

    Keyed by BLAKE2b, so that neighbouring seeds, steps and streams are unrelated. The global generator is neither
    read nor changed. (PyTorch's CPU generator keeps 32 bits of the key: among 65,000 of them two may coincide, which
    harms no training but makes this no source of secrets.)
    """
    key = hashlib.blake2b(f"{int(seed)}/{int(step)}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)


def minibatches(
    count: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Tensor]:
    """Endless row numbers, int64 (b / world,), of steps `start`, `start` + 1, ... for process `rank` of `world`.

    The rows of one step over all processes are b = min(`batch_size`, `count`) entries of the permutation of its
    epoch, and each process gets an equal slice of them; the rows that do not fill a last batch are left out of that
    epoch. Raises UsageError for impossible values and where `world` does not divide b.
    """
    for name, value, least in (("rows", count, 1), ("batch size", batch_size, 1), ("start", start, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")
    if world < 1 or not 0 <= rank < world:
        raise UsageError(f"process {rank} of {world} does not exist; allowed: 0 <= rank < world")
    size = min(batch_size, count)
    if size % world:
        fix = f"choose a multiple of {world}" if count >= world else f"use at most {count} processes"
        rows = f" (there are only {count} rows)" if size < batch_size else ""
        raise UsageError(f"batch size {size}{rows} cannot be shared equally by {world} processes; {fix}")
    return _slices(count, size, seed, start, rank, world)


def _slices(count: int, size: int, seed: int, start: int, rank: int, world: int) -> Iterator[Tensor]:
    per_epoch = count // size
    share = size // world
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        rows = torch.randperm(count, generator=generator(seed, epoch, "order"))
        for batch in range(first, per_epoch):
            begin = batch * size + rank * share
            yield rows[begin : begin + share]
            step += 1
