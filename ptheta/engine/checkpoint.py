r"""Checkpoints that survive any instant at which the machine may stop.

A checkpoint is a folder `NNNNNNNNNN/` with `tensors.safetensors` and `state.json`.
It is written under another name, flushed to the disk and then renamed, so that a
folder with a step for its name is complete. Both files carry a SHA-256; a
checkpoint whose bytes do not match is passed over for the one before it.
Nothing in it can run code when it is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptheta.engine.errors import InputError

FORMAT = 1


def save(folder: Path, step: int, state: dict[str, Any], keep: set[int] = frozenset()) -> Path:  # type: ignore[assignment]
    """Write `state` (nested dicts of tensors and JSON values) as checkpoint `step`, then drop those not in `keep`.

    The newest one before it stays too, for the case that this one is found broken.
    Raises InputError when the disk is full or read-only; what was saved before is then untouched.
    """
    target, part = folder / f"{step:010d}", folder / f".part-{step:010d}"
    tensors: dict[str, torch.Tensor] = {}
    tree = _split(state, "", tensors)
    try:
        with full_disk_is_an_input_error(f"the checkpoint of step {step} in {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".part-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir()
            write_tensors(part / "tensors.safetensors", tensors)
            body = json.dumps(
                {"format": FORMAT, "step": step, "tensors": sha256(part / "tensors.safetensors"), "state": tree}
            )
            write_text(
                part / "state.json", json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
            )
            if target.exists():
                shutil.rmtree(target)
            os.replace(part, target)
            flush_folder(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = dict(steps(folder))
    before = max((old for old in found if old < step), default=step)
    for old, path in found.items():
        if old not in {step, before, *keep}:
            shutil.rmtree(path, ignore_errors=True)
    return target


def load(path: Path) -> dict[str, Any]:
    """The state of one checkpoint. Raises InputError if it is incomplete, altered or of a newer format."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        outer = json.loads((path / "state.json").read_text())
        body = outer["body"]
        if hashlib.sha256(body.encode()).hexdigest() != outer["sha256"]:
            raise InputError(f"{path / 'state.json'} does not match its checksum")
        inner = json.loads(body)
        if inner["format"] > FORMAT:
            raise InputError(f"{path} has format {inner['format']}; this ptheta reads up to {FORMAT}: update ptheta")
        if sha256(path / "tensors.safetensors") != inner["tensors"]:
            raise InputError(f"{path / 'tensors.safetensors'} does not match its checksum")
        return _join(inner["state"], load_file(path / "tensors.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest checkpoint that is whole; says on stderr which ones were passed over.

    None when there is no checkpoint at all. Raises InputError when there are some and none is whole.
    """
    found = sorted(steps(folder), reverse=True)
    for step, path in found:
        try:
            return step, load(path)
        except InputError as error:
            print(f"ptheta: passed over a checkpoint: {error}", file=sys.stderr)
    if found:
        raise InputError(f"no checkpoint in {folder} is whole; start again with another --out.")
    return None


def steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """(step, path) of every complete checkpoint in a folder."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.isdigit():
                yield int(path.name), path


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's tensors by parameter name, {name: {"exp_avg": …}}, so that their order cannot matter, nor whether
    it has a parameter itself or a vector of which that is a view (`nets.optimizers.vector`)."""
    found = {}
    for name, p in module.named_parameters():
        if (place := _place(p, optimizer.state)) is not None:
            whole, part = place
            state = optimizer.state[whole]
            found[name] = {k: v.clone() if k == "step" else v[part].view_as(p) for k, v in state.items()}
    return found


@torch.no_grad()
def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`, into an optimiser of the same module."""
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    for name, p in module.named_parameters():
        if name not in state or (place := _place(p, learned)) is None:
            continue
        whole, part = place
        own = optimizer.state[whole]
        for k, v in state[name].items():
            if k == "step":
                own[k] = v.clone()
            else:
                own.setdefault(k, torch.zeros_like(whole))[part].copy_(v.view_as(whole[part]))


def _place(p: torch.Tensor, among: Iterable[torch.Tensor]) -> tuple[torch.Tensor, Any] | None:
    """The one of these that a parameter is or is a view of, and which part of it."""
    for whole in among:
        if whole is p:
            return whole, ...
        if whole.dim() == 1 and whole.untyped_storage().data_ptr() == p.untyped_storage().data_ptr():
            first = p.storage_offset() - whole.storage_offset()
            if 0 <= first <= whole.numel() - p.numel():
                return whole, slice(first, first + p.numel())
    return None


def not_a_number(state: dict[str, Any], prefix: str = "") -> str | None:
    """The path of the first tensor in a nested state that holds a NaN, if there is one."""
    for key, value in state.items():
        if isinstance(value, dict):
            if (found := not_a_number(value, f"{prefix}{key}/")) is not None:
                return found
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and value.isnan().any():
            return prefix + key
    return None


def _split(node: dict[str, Any], prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The JSON part of a nested state; its tensors go into `tensors` under their path."""
    rest = {}
    for key, value in node.items():
        if "/" in key:
            raise KeyError(f"the key {key!r} holds a slash")
        if isinstance(value, dict):
            rest[key] = _split(value, f"{prefix}{key}/", tensors)
        elif isinstance(value, torch.Tensor):
            tensors[prefix + key] = value.detach().contiguous()
        else:
            rest[key] = value
    return rest


def _join(tree: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    for path, tensor in tensors.items():
        node = tree
        *parents, leaf = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = tensor
    return tree


# ---------------------------------------------------------------- files

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)


class full_disk_is_an_input_error:
    """Context that turns 'no space left', 'quota', 'read-only' into one clear message."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        from safetensors import SafetensorError

        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, SafetensorError) and (match := re.search(r"os error (\d+)", str(error))):
            number = int(match[1])
        if number in _FULL + _CLOSED:
            fix = "make room" if number in _FULL else "make the place writable"
            reason = f"{self.what} could not be written: {os.strerror(number)}"
            raise InputError(f"{reason}. What was saved before is whole; {fix}, then resume.") from error
        return False


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Tensors to a safetensors file, flushed to the disk."""
    from safetensors.torch import save_file

    save_file(tensors, path)
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def replace_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same, in place of a file that may be there, at once."""
    part = path.with_name(f".part-{path.name}")
    try:
        write_tensors(part, tensors)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once and for good: written beside it, flushed, renamed."""
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the renames in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
