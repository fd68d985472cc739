"""Arrays, folders of splits, and how rows are split; what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import X, all_rows, same_rows, text, write

from ptheta.data.binary import load
from ptheta.engine.errors import InputError, UsageError

pytestmark = pytest.mark.usefixtures("alone")

WRONG_ARRAYS = [
    (X[0], r"shape \(6,\); expected \(N, n\)"),
    (X.reshape(57, 2, 3), r"shape \(57, 2, 3\)"),
    (np.zeros((0, 5)), r"is empty: its shape is \(0, 5\)"),
    (np.zeros((5, 0)), r"is empty: its shape is \(5, 0\)"),
    (np.array([[0, 1], [1, 2]]), "holds 2 in row 1, column 1 .counted from 0.; allowed are 0 and 1"),
    (np.array([[0, 255]], np.uint8), "holds 255 in row 0, column 1"),
    (np.array([[0, -1]]), "holds -1 in row 0, column 1"),
    (np.array([[0, 0.3]]), "holds 0.3 in row 0, column 1.*x > 0.5"),
    (np.array([[0, np.nan]]), "holds nan in row 0, column 1"),
    (np.array([[0, np.inf]]), "holds inf in row 0"),
    (np.array([["0", "1"]]), "values of type <U1; allowed are 0 and 1"),
    (np.array([[0, 1j]]), "values of type complex128"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_ARRAYS)
def test_what_is_wrong_in_an_array_is_told_with_its_place(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", train=values)
    for spec in (values, {"train": X, "valid": values}, tmp_path / "a.npy", tmp_path / "a.npz"):
        with pytest.raises(InputError, match=message) as error:
            load(spec)
        assert "\n" not in str(error.value)


def test_arrays_tensors_and_dicts():
    for values in (X, torch.from_numpy(X), torch.from_numpy(X).bfloat16(), torch.from_numpy(X) > 0):
        assert load(values).fingerprint() == load(X).fingerprint()
    data = load({"test": X[:3], "train": torch.from_numpy(X)})
    assert data.splits == ("train", "test") and np.array_equal(data.split("train").numpy(), X)
    assert load(data) is data
    mine = X[:5].copy()
    data = load(mine)
    mine[:] = 1 - mine
    assert np.array_equal(data.split("train").numpy(), X[:5]), "the caller's array is copied"
    with pytest.raises(InputError, match="train has 6 columns, valid has 5 columns"):
        load({"train": X, "valid": X[:, 1:]})
    for spec in ({}, {"valid": X}, {"train": X, "val": X}):
        with pytest.raises(UsageError, match="the dict of arrays has"):
            load(spec)
    with pytest.raises(UsageError, match="data is a int"):
        load(3)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 57])
def test_rows_without_splits(count):
    data = load(X[:count])
    sizes = [len(data.split(split)) for split in data.splits]
    assert sizes == ([count] if count < 10 else [count - 2 * (count // 10), count // 10, count // 10])
    assert same_rows(all_rows(data), X[:count])
    assert ("too few to split" in data.origin) == (count < 10)


def test_the_fingerprint_is_of_the_training_rows():
    prints = {load(values).fingerprint() for values in (X[:5], X[:4], X[:5, :5], 1 - X[:5], X[:5].reshape(6, 5))}
    assert len(prints) == 5
    assert load({"train": X, "test": X}).fingerprint() == load({"train": X}).fingerprint()


@pytest.mark.parametrize("name", ["{}.csv", "mine.{}.data", "mine.{}.data.gz", "mine_{}.amat", "{}.npy"])
def test_a_folder_of_splits(tmp_path, name):
    parts = {"train": X, "valid": X[:5], "test": X[:3]}
    for split, values in parts.items():
        if name.endswith(".npy"):
            np.save(tmp_path / name.format(split), values)
        else:
            write(tmp_path / name.format(split), text(values))
    write(tmp_path / "README.txt", "training and test data")
    data = load(tmp_path)
    assert data.splits == ("train", "valid", "test") and "own splits" in data.origin
    assert all(np.array_equal(data.split(split).numpy(), values) for split, values in parts.items())


def test_a_folder_of_splits_that_is_wrong(tmp_path):
    write(tmp_path / "valid.csv", text(X))
    with pytest.raises(InputError, match="holds neither a file for train .* nor pictures"):
        load(tmp_path)
    write(tmp_path / "train.csv", text(X[:, 1:]))
    with pytest.raises(InputError, match="train has 5 columns, valid has 6 columns"):
        load(tmp_path)
    write(tmp_path / "a.train.data.gz", text(X))
    with pytest.raises(InputError, match="holds a.train.data.gz and train.csv; expected one file for train"):
        load(tmp_path)
    np.savez(tmp_path / "sub.npz", train=X)
    (tmp_path / "other").mkdir()
    (tmp_path / "sub.npz").rename(tmp_path / "other" / "train.npz")
    with pytest.raises(InputError, match="train.npz holds splits of its own"):
        load(tmp_path / "other")


def test_a_folder_without_anything(tmp_path):
    write(tmp_path / "notes.md", "nothing")
    with pytest.raises(InputError, match="holds neither .* nor pictures"):
        load(tmp_path)


def test_impossible_values_are_refused(tmp_path):
    sizes: list[Any] = [0, -3, 2.5, "28", True]
    for size in sizes:
        with pytest.raises(UsageError, match="size is"):
            load("digits", size=size)
    for threshold in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="threshold is .*; allowed are values above 0 and below 1"):
            load("digits", threshold=threshold)
    for name in ("a.xlsx", "a.png", "a.csv.zip", "a"):
        with pytest.raises(UsageError, match="unknown kind; allowed are .npy .npz .csv .data .amat .txt"):
            load(write(tmp_path / name, "0,1"))


def test_importing_is_light():
    code = "import sys, ptheta.data.binary; print([m for m in ('PIL', 'sklearn') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "[]", run.stderr


# ---------------------------------------------------------------- labels


def test_labels_follow_their_rows_through_the_split(tmp_path):
    x = np.random.RandomState(0).randint(0, 2, (100, 6))
    y = x[:, 0] + 2 * x[:, 1]
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", train=x, train_labels=y, test=x[:9])
    for data in (load({"x": x, "y": y}), load(tmp_path / "a.npz"), load(tmp_path / "b.npz")):
        for split in data.splits:
            rows, labels = data.split(split), data.labels(split)
            assert labels is None or torch.equal(labels, rows[:, 0].long() + 2 * rows[:, 1].long())
        assert data.labels("train").dtype == torch.int64
    assert load(tmp_path / "b.npz").labels("test") is None and load(x).labels("train") is None


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(5), "has 5 labels for 20 vectors"),
        (np.arange(20) - 3, "holds the label -3; allowed are 0, 1"),
        (np.arange(20) / 2, r"shape \(20,\) of float64; allowed as labels are whole numbers"),
        (np.zeros((20, 1), int), r"shape \(20, 1\)"),
        (np.full(20, 5000), "holds the label 5000; allowed are at most 1000 classes"),
    ],
)
def test_labels_that_are_none_are_refused(y, message, tmp_path):
    x = np.eye(20, 4)
    with pytest.raises(InputError, match=message):
        load({"x": x, "y": y})
    np.savez(tmp_path / "a.npz", x=x.astype(int), y=y)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="has 'valid_labels' but no 'valid'"):
        load({"train": x, "valid_labels": np.arange(20)})
