"""Sets of pictures: the ones with a name, a user's folder, an array. Grey or colour, with labels and captions or not.

A set has up to three splits, each a uint8 tensor (N, C, H, W) with C = 1 (grey) or 3 (red, green, blue) and 255 for
white. Sets without splits of their own are divided once and for all by the rule of `binary.py`: a tenth for
validation, a tenth for test, the rest for training.

A folder may hold `train`, `valid` (or `val`) and `test`; where every picture lies in a folder below that, the folder's
name is its class. A table `captions.csv` or `captions.jsonl` in it gives each file its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ptheta.data.binary import array_of, split_rows
from ptheta.data.formats import SPLITS, labels
from ptheta.engine.errors import InputError, UsageError, unknown

Parts = dict[str, Any]  # "train", "train_labels", "train_names", "train_captions", "valid", …


@dataclass(frozen=True, eq=False)
class PictureData:
    """A data set of pictures.

    `shape` is (C, H, W); `classes` are the names of the labels; `origin` one sentence on where it comes from. `_read`
    gives, for each part there is, a function that reads it, perhaps together with others.
    """

    name: str
    shape: tuple[int, int, int]
    origin: str
    classes: tuple[str, ...] = ()
    _read: Mapping[str, Callable[[], Parts]] = field(default_factory=dict, repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)
    size: int | None = None
    """The shorter side to which pictures with label maps were scaled; None: as they are, or without maps."""

    @property
    def n(self) -> int:
        """Numbers in a picture, C · H · W."""
        return int(np.prod(self.shape))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are, in the order train, valid, test."""
        return tuple(split for split in SPLITS if split in self._read)

    def split(self, name: str) -> Tensor:
        """The pictures of a split, uint8 (N, C, H, W); not to be written to.

        Raises UsageError for a split that does not exist, InputError if its file cannot be had or is broken.
        """
        return self._part(self._existing(name))

    def labels(self, name: str) -> Tensor | None:
        """The classes of a split's pictures, int64 (N,); None if the set has none."""
        return self._optional(name, "labels")

    def maps(self, name: str) -> Tensor | None:
        """The label of every pixel of a split's pictures, uint8 (N, H, W), 255 where there is none to be learned; None
        if the set has no label maps."""
        return self._optional(name, "maps")

    def names(self, name: str) -> list[str] | None:
        """What the pictures of a split are called (file names); None if they have no names."""
        return self._optional(name, "names")

    def captions(self, name: str) -> list[str] | None:
        """The texts that belong to a split's pictures, with AGAIN between several of one; None if the set has none."""
        return self._optional(name, "captions")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the training split's shape and bytes, and of its label maps if there are, by which a run
        knows its data again."""
        train, maps = self.split("train"), self.maps("train")
        digest = hashlib.sha256(f"{tuple(train.shape)}".encode())
        digest.update(np.ascontiguousarray(train.numpy()).data)
        if maps is not None:
            digest.update(np.ascontiguousarray(maps.numpy()).data)
        return digest.hexdigest()

    def _existing(self, name: str) -> str:
        if name not in self.splits:
            raise unknown(f"split of {self.name}", name, self.splits)
        return name

    def _optional(self, name: str, what: str) -> Any:
        key = f"{self._existing(name)}_{what}"
        return self._part(key) if key in self._read else None

    def _part(self, key: str) -> Any:
        if key not in self._cache:
            for part, values in self._read[key]().items():
                if isinstance(values, np.ndarray):
                    dtype = np.int64 if part.endswith("_labels") else np.uint8
                    values = torch.from_numpy(np.require(values, dtype, ["C", "W"]))
                self._cache[part] = values
        return self._cache[key]


def load(spec: Any, *, size: int = 28, skip_unreadable: bool = False) -> PictureData:
    """The set of pictures that `spec` means.

    `spec` is a name (`digits`, `things`, `mnist`, `fashion_mnist`, `emoji`, `camvid`, `bsds500`), a folder of pictures,
    a table of captions (.csv, .jsonl), an array file (.npy, or .npz with `x` and perhaps `y`), an array (N, H, W) or
    (N, H, W, C) of bytes or of floats in [0, 1], or a PictureData, which is given back.

    `size`, in pixels, is the side of the square to which pictures of a folder are cut and scaled. With
    `skip_unreadable`, pictures that cannot be read are left out; else the first of them is an InputError.

    Raises UsageError for an unknown name and impossible values, InputError for missing files and bad contents.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"size is {size!r}; allowed are whole numbers from 1 on")
    if isinstance(spec, PictureData):
        return spec
    if isinstance(spec, np.ndarray | Tensor):
        return of_arrays("array", {"x": array_of(spec)}, "given in Python")
    if not isinstance(spec, str | Path):
        raise UsageError(f"data is a {type(spec).__name__}; allowed are a name, a path or an array of pictures")
    from ptheta.data import folders, known_pictures

    found = known_pictures.load(str(spec), size, skip_unreadable)
    if found is not None:
        return found
    path = Path(spec).expanduser()
    if path.is_dir() and spec != "":
        return folders.load(path, size, skip_unreadable)
    if path.suffix.lower() in folders.TABLES and path.is_file():
        return folders.load(path.parent, size, skip_unreadable, path)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return _array_file(path)
    if path.is_file():
        allowed = ".npy .npz of pictures, .csv .jsonl of captions, or a folder of pictures"
        raise UsageError(f"{path} is of an unknown kind; allowed are {allowed}")
    if len(path.parts) > 1 or path.suffix:
        raise InputError(f"{path} does not exist; give the path of a file or folder that does, or a data set's name")
    raise unknown("set of pictures", str(spec), known_pictures.NAMES, "A user's own pictures are the path of a folder.")


def _array_file(path: Path) -> PictureData:
    try:
        stored = np.load(path, allow_pickle=False)
        parts = {"x": stored} if isinstance(stored, np.ndarray) else {k: stored[k] for k in stored.files}
    except Exception as error:  # numpy raises whatever its readers meet
        raise InputError(f"{path} cannot be read as an array ({error}); write it again with numpy.save") from error
    if "x" not in parts or set(parts) - {"x", "y"}:
        raise InputError(f"{path} holds {', '.join(sorted(parts)) or 'nothing'}; allowed: x, and perhaps y")
    return of_arrays(str(path), parts, str(path), "the user's file")


def of_arrays(name: str, parts: dict[str, np.ndarray], origin: str, whose: str = "an array") -> PictureData:
    """A set of pictures "x" and perhaps labels "y" that are in memory, split by the rule."""
    x = as_pictures(parts["x"], f"x of {name}")
    told: Parts = {"x": x}
    classes: tuple[str, ...] = ()
    if "y" in parts:
        told["labels"] = y = labels(parts["y"], len(x), f"y of {name}")
        classes = tuple(str(c) for c in range(int(y.max()) + 1))
    parts, rule = divided(told)
    text = f"{whose} {origin}, {len(x):,} pictures, {rule}."
    return PictureData(name, x.shape[1:], text, classes, {key: partial(dict, parts) for key in parts})


def as_pictures(array: np.ndarray, where: str) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) of bytes, or of floats in [0, 1], as uint8 (N, C, H, W); InputError for what is not."""
    wanted = "(N, H, W) or (N, H, W, C) with C = 1 or 3 (or (N, C, H, W))"
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise InputError(f"{where} has shape {array.shape}; allowed: {wanted}")
    if 0 in array.shape:
        raise InputError(f"{where} is empty: its shape is {array.shape}; at least one picture is needed")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f" and ((array >= 0) & (array <= 1)).all():
        return (array * 255).round().astype(np.uint8)
    span = f" from {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" else ""
    raise InputError(f"{where} holds {array.dtype}{span}; allowed: bytes (uint8), or floats from 0 to 1: convert it")


def divided(parts: Parts, rows: Mapping[str, Any] | None = None) -> tuple[Parts, str]:
    """Parts {"x", "labels", "names", …} of one length, split into the `rows` of each split, or by the rule of
    `binary.py`, and how in words."""
    rows, rule = (rows, "in its own splits") if rows else split_rows(np.arange(len(parts["x"])))
    out: Parts = {}
    for split, chosen in rows.items():
        for key, values in parts.items():
            name = split if key == "x" else f"{split}_{key}"
            out[name] = values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen]
    return out, rule


def moments(x: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each channel, in [0, 1], from the counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double().cpu()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    return mean.float(), (share @ values.square() - mean.square()).clamp(min=0).sqrt().float()
