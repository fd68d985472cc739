"""Sets of real vectors: the grey digits, and a user's own file or array.

A set has up to three splits, each a float32 tensor (N, n) of finite numbers. Sets without splits of their own are
divided as those of 0/1 vectors are (see binary.py).
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptheta.data.binary import SPLIT_SEED, Parts, array_of, data_of_parts
from ptheta.data.formats import (
    SPLITS,
    SUFFIXES,
    is_header,
    is_labels,
    keys_of,
    labels,
    number_of,
    read_bytes,
    separator_of,
    vectors_of,
)  # fmt: skip
from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError, unknown

ALLOWED = "allowed are finite numbers"
DIGITS = (
    "the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries: Optical Recognition of Handwritten Digits, "
    "E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; grey levels 0 to 16, to which uniform "
    f"noise in [0, 1) was added once (seed {SPLIT_SEED}); split 1,257/270/270 by a fixed permutation "
    f"(seed {SPLIT_SEED})."
)


@dataclass(frozen=True, eq=False)
class RealData:
    """A data set of real vectors, with the members that BinaryData has.

    `n` is the number of variables, `names` what a header calls them (or nothing); `origin` one sentence on where they
    come from and how they were split. `_parts` holds the rows and classes by split ("train", …, "train_labels", …).
    """

    name: str
    n: int
    origin: str
    _parts: Mapping[str, Tensor] = field(repr=False)
    names: tuple[str, ...] = ()
    shape = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are, in the order train, valid, test."""
        return tuple(split for split in SPLITS if split in self._parts)

    def split(self, name: str) -> Tensor:
        """The vectors of a split, float32 (N, n); not to be written to. UsageError for one that does not exist."""
        if name not in self.splits:
            raise unknown(f"split of {self.name}", name, self.splits)
        return self._parts[name]

    def labels(self, name: str) -> Tensor | None:
        """The classes of a split's rows, int64 (N,); None if the set has none. Raises as `split` does."""
        self.split(name)
        return self._parts.get(f"{name}_labels")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the training split's shape and bytes, by which a run knows its data again."""
        train = self.split("train")
        return hashlib.sha256(f"{tuple(train.shape)}".encode() + train.numpy().tobytes()).hexdigest()

    def column(self, d: int) -> str:
        """What variable d is called."""
        return f"column {self.names[d]!r}" if self.names else f"column {d} (counted from 0)"


def load(spec: Any) -> RealData:
    """The data set that `spec` means.

    `spec` is `digits`, the path of a file (.npy .npz .csv .data .amat .txt, also gzipped), an array or tensor (N, n),
    a dict of such by split, or a RealData, which is given back.

    Raises UsageError for an unknown name, InputError for missing files and for what is no table of finite numbers.
    """
    if isinstance(spec, RealData):
        return spec
    if isinstance(spec, np.ndarray | Tensor):
        return _checked("array", {"x": array_of(spec)}, "given in Python", "arrays")
    if isinstance(spec, Mapping):
        arrays = {key: array_of(spec[key]) for key in keys_of([str(key) for key in spec], Path("the dict of arrays"))}
        return _checked("array", arrays, "given in Python", "arrays")
    if not isinstance(spec, str | Path):
        got = f"{type(spec).__name__}{f' ({spec.name})' if hasattr(spec, 'name') else ''}"
        raise UsageError(f"data is a {got}; allowed are a name, a path, an array or a dict of arrays of real numbers")
    if spec == "digits":
        return _digits()
    path = Path(spec).expanduser()
    if not path.exists() and not (path.suffix or len(path.parts) > 1):
        raise unknown("data set of real vectors", str(spec), ["digits"], "A user's own data are the path of a file.")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if path.is_dir() or (path.exists() and suffix not in SUFFIXES):
        kinds = " ".join(SUFFIXES)
        raise UsageError(
            f"{path} is {'a folder' if path.is_dir() else 'of an unknown kind'}; allowed are files {kinds}"
        )
    if suffix in (".npy", ".npz"):
        return _checked(str(path), _read_numpy(path), str(path), "the user's file")
    values, names = read_table(path)
    remark = " (header line skipped)" if names else ""
    return _checked(str(path), {"x": values}, f"{path}{remark}", "the user's file", names)


def _digits() -> RealData:
    """Grey levels g of `digits` as g + u, u uniform in [0, 1), in the rows and splits of the binary set."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        grey, classes = torch.from_numpy(stored["pixels"]), torch.from_numpy(stored["labels"].astype(np.int64))
    x = grey + torch.rand(grey.shape, generator=generator(SPLIT_SEED, 0, "dequantise"))
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(x)))
    parts = {}
    for split, chosen in zip(SPLITS, order.tensor_split([1257, 1527]), strict=True):
        parts |= {split: x[chosen], f"{split}_labels": classes[chosen]}
    return RealData("digits", 64, DIGITS, parts)


def _checked(name: str, arrays: Parts, origin: str, whose: str, names: tuple[str, ...] = ()) -> RealData:
    """The set of these arrays, split by the rule if they are one ("x"); InputError for what a density cannot learn."""
    parts = {key: numbers(v, _where(name, key)) for key, v in arrays.items() if not is_labels(key)}
    for key, values in arrays.items():
        if is_labels(key):
            parts[key] = labels(values, len(parts[vectors_of(key)]), _where(name, key))
    made = data_of_parts(name, parts, origin, whose=whose)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(read()[key])) for key, read in made._read.items()}
    if len(tensors["train"]) < 2:
        raise InputError(f"{name} has one training row; at least 2 are needed to know how much a column varies")
    return RealData(name, made.n, made.origin, tensors, names)


def _where(name: str, key: str) -> str:
    return name if key == "x" else f"{name}, array {key!r}"


def numbers(array: np.ndarray, where: object) -> np.ndarray:
    """`array` as (N, n) float32; InputError, naming `where`, if it is no table of finite numbers."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {array.dtype}; {ALLOWED}")
    if array.ndim != 2:
        raise InputError(f"{where} has shape {array.shape}; expected (N, n), one vector a row: reshape it to that")
    if 0 in array.shape:
        raise InputError(f"{where} is empty: its shape is {array.shape}; at least two rows and one column are needed")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        place = f"row {row}, column {column} (counted from 0)"
        raise InputError(f"{where} holds {array[row, column].item():g} in {place}; {ALLOWED} below 3e38")
    return values


def _read_numpy(path: Path) -> Parts:
    """The arrays of an .npy or .npz file by split, or under "x" if it does not say; nothing that could run code."""
    data = io.BytesIO(read_bytes(path))
    try:
        loaded = np.load(data, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        found = {key: loaded[key] for key in keys_of(list(loaded.files), path)}
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise InputError(f"{path} is no whole file of plain arrays ({said}); save it with numpy.save") from error
    return found if len(found) > 1 or "train" in found else {"x": next(iter(found.values()))}


def read_table(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a text file, float64 (N, n), and the names in its header, if its first line is one.

    Values are separated by commas, semicolons, tabs or spaces. A header is a first line in which no field is a
    number, or which counts the columns (0, 1, 2, … or 1, 2, 3, …).
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start + 1}); save it as plain CSV") from error
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty; at least two rows are needed")
    separator = separator_of(lines[1 if len(lines) > 1 else 0][1])  # names of columns may hold anything
    names: tuple[str, ...] = ()
    if is_header(lines[0][1], separator):
        names = tuple(name.strip().strip("\"'") for name in lines.pop(0)[1].split(separator))
    rows: list[list[float]] = []
    for line, content in lines:
        fields = content.split(separator)
        if rows and len(fields) != len(rows[0]):
            got = f"line {line} has {len(fields)} values and line {lines[0][0]} has {len(rows[0])}"
            raise InputError(f"{path}: {got}; every line needs the same number")
        rows.append([_cell(value, path, line, column) for column, value in enumerate(fields, 1)])
    if not rows:
        raise InputError(f"{path} is empty but for a header line; at least two rows are needed")
    return np.array(rows), names if len(names) == len(rows[0]) else ()


def _cell(text: str, path: Path, line: int, column: int) -> float:
    number = number_of(text)
    if number is None or not -3e38 < number < 3e38:
        got = repr(text.strip()[:20]) if text.strip() else "empty"
        raise InputError(f"{path}: line {line}, column {column} is {got}; {ALLOWED}")
    return number
