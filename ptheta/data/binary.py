"""Sets of 0/1 vectors: the ones with a name, and a user's own.

A set has up to three splits, each a uint8 tensor (N, n) of 0 and 1, read when
first asked for. Sets without splits of their own are divided once and for all
by a fixed permutation: a tenth (rounded down) for validation, a tenth for test,
the rest for training; fewer than ten rows are all for training.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptheta.data.formats import SPLITS, SUFFIXES, is_labels, labels, read, rows, vectors_of
from ptheta.engine.errors import InputError, UsageError, unknown

SPLIT_SEED = 0
SPLIT_RULE = f"split 80/10/10 by a fixed permutation (seed {SPLIT_SEED})"

Parts = dict[str, np.ndarray]  # by split, or by "train_labels", ...


@dataclass(frozen=True, eq=False)
class BinaryData:
    """A data set of 0/1 vectors.

    `n` is the number of variables; `shape` (height, width) if the vectors are pictures, row by row; `origin` one
    sentence on where it comes from, its licence, how it was made binary and split. `_read` gives, for each part
    there is ("train", ..., "train_labels", ...), a function that reads it, perhaps together with others.
    """

    name: str
    n: int
    shape: tuple[int, int] | None
    origin: str
    _read: Mapping[str, Callable[[], Parts]] = field(repr=False)
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are, in the order train, valid, test."""
        return tuple(split for split in SPLITS if split in self._read)

    def split(self, name: str) -> Tensor:
        """The vectors of a split, uint8 (N, n) of 0 and 1; not to be written to.

        Raises UsageError for a split that does not exist, InputError if its file cannot be had or is broken.
        """
        values = self._part(self._existing(name))
        if values.shape[1] != self.n:
            raise InputError(f"{self.name}: split {name} has {values.shape[1]} columns; expected {self.n}")
        return values

    def labels(self, name: str) -> Tensor | None:
        """The classes of a split's rows, int64 (N,); None if the set has none. Raises as `split` does."""
        key = f"{self._existing(name)}_labels"
        return self._part(key) if key in self._read else None

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the training split's shape and bytes, by which a run knows its data again."""
        train = self.split("train")
        digest = hashlib.sha256(f"{tuple(train.shape)}".encode())
        digest.update(train.numpy().tobytes())
        return digest.hexdigest()

    def _existing(self, name: str) -> str:
        if name not in self.splits:
            raise unknown(f"split of {self.name}", name, self.splits)
        return name

    def _part(self, key: str) -> Tensor:
        if key not in self._cache:
            for part, values in self._read[key]().items():
                dtype = np.int64 if part.endswith("_labels") else np.uint8
                # Copied where needed: torch can neither own nor protect read-only memory.
                self._cache[part] = torch.from_numpy(np.require(values, dtype, ["C", "W"]))
        return self._cache[key]


def load(spec: Any, *, size: int = 28, threshold: float = 0.5) -> BinaryData:
    """The data set that `spec` means.

    `spec` is a name (`digits`, `mnist`, `fashion_mnist`, `binarized_mnist`, `debd:NAME`), the path of a file
    (.npy .npz .csv .data .amat .txt, also gzipped) or of a folder (files for train, valid and test, or pictures),
    an array or tensor (N, n), a dict of such by split, or a BinaryData, which is given back.

    `threshold`, above 0 and below 1, is the grey value (1 is white) above which a pixel counts as 1, for sets of grey
    pictures; `size`, in pixels, is the side to which the pictures of a folder are brought. Other sets need neither.

    Raises UsageError for an unknown name and impossible values, InputError for missing files and bad contents.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"size is {size!r}; allowed are whole numbers from 1 on")
    if not 0 < threshold < 1:
        raise UsageError(f"threshold is {threshold!r}; allowed are values above 0 and below 1")
    if isinstance(spec, BinaryData):
        return spec
    if isinstance(spec, np.ndarray | Tensor):
        return data_of_parts("array", {"x": rows(array_of(spec), "the array")}, "given in Python")
    if isinstance(spec, Mapping):
        return _given_splits(spec)
    if isinstance(spec, str):
        from ptheta.data import known

        found = known.load(spec, threshold)
        if found is not None:
            return found
        if not spec or not (Path(spec).expanduser().exists() or re.search(r"[/\\.]", spec)):
            fix = "A user's own data are the path of a file or folder, or an array."
            raise unknown("data set", spec, known.names(), fix)
    if isinstance(spec, str | Path):
        path = Path(spec).expanduser()
        return _folder(path, size, threshold) if path.is_dir() else _file(path)
    raise UsageError(f"data is a {type(spec).__name__}; allowed are a name, a path, an array or a dict of arrays")


def array_of(values: Any) -> np.ndarray:
    """A copy as a numpy array: the caller may go on writing to theirs."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    return np.array(values)


def _given_splits(spec: Mapping[str, Any]) -> BinaryData:
    one = set(spec) in ({"x"}, {"x", "y"})
    if not one and ("train" not in spec or any(vectors_of(key) not in SPLITS for key in spec)):
        got = ", ".join(map(repr, spec)) or "nothing"
        raise UsageError(
            f"the dict of arrays has {got}; allowed are 'train', which it needs, 'valid', 'test' and their labels "
            "'train_labels', …; or 'x' and 'y'"
        )
    keys = ["x"] if one else [split for split in SPLITS if split in spec]
    parts = {key: rows(array_of(spec[key]), f"the array {key!r}") for key in keys}
    for key in spec:
        if is_labels(key):
            if vectors_of(key) not in parts:
                raise UsageError(f"the dict of arrays has {key!r} but no {vectors_of(key)!r}; give both or neither")
            parts[key] = labels(array_of(spec[key]), len(parts[vectors_of(key)]), f"the array {key!r}")
    return data_of_parts("array", parts, "given in Python")


def data_of_parts(
    name: str, parts: Parts, origin: str, shape: tuple[int, int] | None = None, whose: str = "arrays"
) -> BinaryData:
    """A set of arrays that are in memory already, split by the rule if they are one ("x")."""
    counts = f"{sum(len(part) for key, part in parts.items() if not is_labels(key)):,} rows"
    if "x" in parts:
        y = parts.get("y")
        parts, rule = split_rows(parts["x"])
        if y is not None:
            parts |= {f"{split}_labels": values for split, values in split_rows(y)[0].items()}
    else:
        rule = "in its own splits"
    widths = {split: part.shape[1] for split, part in parts.items() if not is_labels(split)}
    if len(set(widths.values())) > 1:
        got = ", ".join(f"{split} has {width} columns" for split, width in widths.items())
        raise InputError(f"{name}: the splits differ: {got}; they need the same number")
    readers = {split: partial(dict, {split: part}) for split, part in parts.items()}
    return BinaryData(name, widths["train"], shape, f"{whose} {origin}, {counts}, {rule}.", readers)


def split_rows(values: np.ndarray) -> tuple[Parts, str]:
    """Rows without splits, divided as the module says, and the rule in words. One row is enough."""
    count = len(values)
    tenth = count // 10
    if tenth == 0:
        return {"train": values}, "all for training (too few to split)"
    # RandomState, because its numbers are promised never to change.
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    train, valid, test = np.split(order, [count - 2 * tenth, count - tenth])
    return {"train": values[train], "valid": values[valid], "test": values[test]}, SPLIT_RULE


def file_order(data: BinaryData) -> tuple[Tensor, Tensor | None]:
    """All rows of a set that was split by the rule, as they stood before it, and their labels if there are."""
    x = torch.cat([data.split(split) for split in data.splits])
    y = [part for split in data.splits if (part := data.labels(split)) is not None]
    back = np.argsort(np.random.RandomState(SPLIT_SEED).permutation(len(x))) if len(data.splits) > 1 else slice(None)
    return x[back], torch.cat(y)[back] if len(y) == len(data.splits) else None


def _file(path: Path) -> BinaryData:
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a file or folder that does, or a data set's name")
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in SUFFIXES:
        fix = "for pictures give their folder"
        raise UsageError(f"{path} is of an unknown kind; allowed are {' '.join(SUFFIXES)} (also .gz); {fix}")
    parts, remark = read(path)
    return data_of_parts(str(path), parts, f"{path}{f' ({remark})' if remark else ''}", whose="the user's file")


def _folder(path: Path, size: int, threshold: float) -> BinaryData:
    found = split_files(path)
    if "train" in found:
        parts = {}
        for split, files in found.items():
            if len(files) > 1:
                names = " and ".join(file.name for file in files)
                raise InputError(f"{path} holds {names}; expected one file for {split}: move the others away")
            contents, _ = read(files[0])
            if "x" not in contents:
                raise InputError(f"{files[0]} holds splits of its own; expected one array in a folder of splits")
            parts[split] = contents["x"]
        return data_of_parts(str(path), parts, str(path), whose="the user's folder")

    from ptheta.data.images import image_files, read_images

    images = image_files(path)
    if not images:
        kinds = "a file for train (NAME.train.data, train.csv, ...; with valid and test if there are)"
        raise InputError(f"{path} holds neither {kinds} nor pictures (png, jpg, bmp, gif, tif, webp); add either")
    made = f"{path} brought to {size}x{size} grey, 1 where above {threshold:g} of white"
    parts = {"x": read_images(images, size, threshold)}
    return data_of_parts(str(path), parts, made, shape=(size, size), whose="the pictures in the user's folder")


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that are named for a split (`train.csv`, `NAME.train.data.gz`, `NAME_train.amat`)."""
    kinds = "|".join(suffix[1:] for suffix in SUFFIXES)
    pattern = re.compile(rf"(?:.*[._-])?({'|'.join(SPLITS)})\.(?:{kinds})(?:\.gz)?", re.IGNORECASE)
    found: dict[str, list[Path]] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path in paths:
        match = pattern.fullmatch(path.name)
        if match and path.is_file() and not path.name.startswith("."):
            found.setdefault(match[1].lower(), []).append(path)
    return {split: found[split] for split in SPLITS if split in found}
