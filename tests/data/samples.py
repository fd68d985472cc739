"""Small sets of 0/1 vectors, and how to write them to files."""

import gzip
from pathlib import Path

import numpy as np

from ptheta.data.binary import BinaryData

X = (np.random.RandomState(1).rand(57, 6) > 0.6).astype(np.uint8)


def all_rows(data: BinaryData) -> np.ndarray:
    return np.concatenate([data.split(split).numpy() for split in data.splits])


def same_rows(a: np.ndarray, b: np.ndarray) -> bool:
    return sorted(map(bytes, a)) == sorted(map(bytes, b))


def text(values: np.ndarray, separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(map(str, row)) + end for row in values.tolist())


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()
