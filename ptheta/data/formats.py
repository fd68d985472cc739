"""Files of 0/1 vectors: what they may look like, and what is said where they do not.

Every reader gives uint8 arrays and raises InputError, in one line, for content
it cannot take. Nothing that is read can run code (`allow_pickle=False`).
"""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from ptheta.engine.errors import InputError

SUFFIXES = (".npy", ".npz", ".csv", ".data", ".amat", ".txt")
SPLITS = ("train", "valid", "test")
ALLOWED = "allowed are 0 and 1"
GZIP = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is gzipped."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give the path of a file that does") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is a truncated or corrupted gzip file ({error}); fetch it again") from error
    elif data and path.suffix.lower() == ".gz":
        raise InputError(f"{path} is not a gzip file though its name says so; rename it if it is not compressed")
    if not data:
        raise InputError(f"{path} is empty; at least one row of 0 and 1 is needed")
    return data


def rows(array: np.ndarray, where: object) -> np.ndarray:
    """`array` as (N, n) uint8 of 0/1; InputError, naming `where`, if it is anything else."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {array.dtype}; {ALLOWED} as booleans, integers or floats")
    if array.ndim != 2:
        raise InputError(f"{where} has shape {array.shape}; expected (N, n), one vector a row: reshape it to that")
    if 0 in array.shape:
        raise InputError(f"{where} is empty: its shape is {array.shape}; at least one row and one column are needed")
    bad = array > 1 if array.dtype.kind in "bu" else (array != 0) & (array != 1)
    if bad.any():
        row, column = (int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        value = array[row, column].item()
        fix = (
            "; binarise it first, for example with x > 0.5" if array.dtype.kind == "f" and math.isfinite(value) else ""
        )
        raise InputError(f"{where} holds {value} in row {row}, column {column} (counted from 0); {ALLOWED}{fix}")
    return np.ascontiguousarray(array, dtype=np.uint8)


def labels(array: np.ndarray, count: int, where: object) -> np.ndarray:
    """`array` as (N,) int64 of classes 0, 1, …, one for each of `count` vectors; InputError, naming `where`, else."""
    if array.dtype.kind not in "iu" or array.ndim != 1:
        got = f"an array of shape {array.shape} of {array.dtype}"
        raise InputError(f"{where} is {got}; allowed as labels are whole numbers (N,), the classes counted from 0")
    if len(array) != count:
        raise InputError(f"{where} has {len(array)} labels for {count} vectors; one for each is needed")
    if count and array.min() < 0:
        raise InputError(f"{where} holds the label {array.min()}; allowed are 0, 1, 2, …")
    if count and array.max() >= 1000:
        raise InputError(f"{where} holds the label {array.max()}; allowed are at most 1000 classes, counted from 0")
    return array.astype(np.int64)


def is_labels(key: str) -> bool:
    """Whether an array of this name holds labels: y beside x, train_labels beside train."""
    return key == "y" or key.endswith("_labels")


def vectors_of(key: str) -> str:
    """The name of the vectors that labels of this name belong to."""
    return "x" if key == "y" else key.removesuffix("_labels")


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The vectors of a file by split, or under the key "x" if it does not say, and a remark for its origin.

    Labels, if an .npz has them, are under "train_labels", …, or "y".

    The suffix (before `.gz`) is one of SUFFIXES.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".npy", ".npz"):
        return _read_numpy(path, suffix), ""
    values, skipped = read_text(path)
    return {"x": values}, "header line skipped" if skipped else ""


def _read_numpy(path: Path, suffix: str) -> dict[str, np.ndarray]:
    data = read_bytes(path)
    if data.startswith(b"\x80"):
        raise InputError(f"{path} holds pickled objects, which are never loaded; save it with numpy.save")
    if not data.startswith(b"\x93NUMPY" if suffix == ".npy" else b"PK"):
        raise InputError(f"{path} is not an {suffix} file; save it with numpy.save or numpy.savez")
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if suffix == ".npy":
            found = {"x": loaded}
        else:
            found = {key: loaded[key] for key in keys_of(list(loaded.files), path)}
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        if "pickle" in str(error).lower() or "Object arrays" in str(error):
            fix = "which are never loaded; save plain arrays of 0 and 1"
            raise InputError(f"{path} holds pickled objects, {fix}") from error
        raise InputError(f"{path} is truncated or corrupted ({str(error)[:100] or type(error).__name__})") from error
    if len(found) == 1 and "train" not in found:
        found = {"x": next(iter(found.values()))}
    where = {key: path if key == "x" else f"{path}, array {key!r}" for key in found}
    parts = {key: rows(value, where[key]) for key, value in found.items() if not is_labels(key)}
    for key, value in found.items():
        if is_labels(key):
            parts[key] = labels(value, len(parts[vectors_of(key)]), where[key])
    return parts


def keys_of(names: list[str], path: Path) -> list[str]:
    """Which arrays of an .npz file hold vectors and labels; InputError if no name tells."""
    if "train" in names:
        splits = [split for split in SPLITS if split in names]
        return splits + [f"{split}_labels" for split in splits if f"{split}_labels" in names]
    if "x" in names:
        return ["x"] + ["y"] * ("y" in names)
    if len(names) == 1 and names[0] not in SPLITS:
        return names
    got = ", ".join(map(repr, names)) or "no array"
    raise InputError(
        f"{path} holds {got}; expected 'train' (with 'valid' and 'test' if there are, and 'train_labels', …), or 'x' "
        "(and 'y', its labels), or one array"
    )


def read_text(path: Path) -> tuple[np.ndarray, bool]:
    """Rows of a text file (N, n), and whether its first line was a header and skipped.

    Values are separated by commas, semicolons, tabs or spaces. A header is a first line in which no field is a
    number, or which counts the columns (0, 1, 2, ... or 1, 2, 3, ...).
    """
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    regular = _fixed_width(data)
    if regular is not None:
        return regular, False
    begin, end = _second_line(data)
    try:
        # The second line knows the separator better: names of columns may hold anything.
        separator = separator_of(data[begin:end].decode() or data[:begin].decode())
        header = is_header(data[:begin].decode().strip("\n"), separator)
        regular = _fixed_width(data[begin:]) if header else None
        return (_slowly(data.decode(), separator, header, path) if regular is None else regular), header
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file in UTF-8 (byte {error.start + 1}); save it as plain CSV"
        ) from error


def _fixed_width(data: bytes) -> np.ndarray | None:
    """The rows if every line is digits 0/1 between one and the same separator, else None. 78 MB take 0.04 s."""
    if not data.endswith(b"\n"):
        data += b"\n"
    width = data.find(b"\n") + 1
    if width < 2 or width % 2 or len(data) % width:
        return None
    pairs = np.frombuffer(data, dtype="<u2").reshape(-1, width // 2)  # digit and what follows it
    base = np.full(width // 2, ord("0") | data[1] << 8, dtype="<u2")
    base[-1] = ord("0") | ord("\n") << 8
    if width > 2 and data[1:2] not in b",;\t ":
        return None
    values = pairs - base  # anything else wraps round or exceeds 1
    return values.astype(np.uint8) if values.max() <= 1 else None


def _second_line(data: bytes) -> tuple[int, int]:
    begin = data.find(b"\n") + 1 or len(data)
    end = data.find(b"\n", begin)
    return begin, len(data) if end < 0 else end


def separator_of(line: str) -> str | None:
    """What stands between the values of a line; None for spaces."""
    return next((mark for mark in (",", ";", "\t") if mark in line), None)  # None: any run of spaces


def number_of(field: str) -> float | None:
    """The value of a cell, perhaps quoted or a truth value; None for what is no number."""
    field = field.strip().strip("\"'").lower()
    if field in ("true", "false"):
        return float(field == "true")
    try:
        return float(field)
    except ValueError:
        return None


def is_header(line: str, separator: str | None) -> bool:
    """Whether no field of a first line is a number, or its fields count the columns (0, 1, 2, … or 1, 2, 3, …)."""
    fields = line.split(separator)
    numbers = [number_of(field) for field in fields]
    if all(number is None for number in numbers):
        return bool(line.strip())
    return any(numbers == list(range(k, k + len(fields))) and numbers[-1] not in (0, 1) for k in (0, 1))


def _slowly(text: str, separator: str | None, header: bool, path: Path) -> np.ndarray:
    """Any other text, line by line, with an exact place for what is wrong."""
    table = {"0": 0, "1": 1}
    values: list[bytes] = []  # one byte a value: lists of integers would take eight times as much
    first = 0
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip() or (header and line == 1):
            continue
        fields = content.split(separator)
        first = first or line
        if values and len(fields) != len(values[0]):
            got = f"line {line} has {len(fields)} values and line {first} has {len(values[0])}"
            raise InputError(f"{path}: {got}; every line needs the same number")
        try:
            values.append(bytes([table[field] for field in fields]))
        except KeyError:  # a spelling not met before
            table |= {field: _value(field, path, line, column) for column, field in enumerate(fields, start=1)}
            values.append(bytes([table[field] for field in fields]))
    if not values:
        raise InputError(f"{path} is empty{' but for a header line' if header else ''}; at least one row is needed")
    return np.frombuffer(bytearray().join(values), dtype=np.uint8).reshape(len(values), -1)


def _value(field: str, path: Path, line: int, column: int) -> int:
    number = number_of(field)
    if number in (0.0, 1.0):
        return int(number)
    got = repr(field.strip()[:20]) if field.strip() else "empty"
    raise InputError(f"{path}: line {line}, column {column} is {got}; {ALLOWED}")


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of an idx file (the MNIST format), which must have exactly this shape."""
    data = read_bytes(path)
    dims = len(shape)
    start = 4 + 4 * dims
    if data[:4] != bytes((0, 0, 8, dims)) or len(data) < start:
        raise InputError(f"{path} is not an idx file of bytes with {dims} dimensions; fetch it again")
    got = tuple(int(d) for d in np.frombuffer(data[4:start], dtype=">u4"))
    if got != shape:
        raise InputError(f"{path} holds an array of shape {got}; expected {shape}: it is another file")
    if len(data) != start + math.prod(shape):
        missing = f"{len(data) - start} of {math.prod(shape)} bytes"
        raise InputError(f"{path} is truncated or corrupted: it holds {missing}; fetch it again")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
