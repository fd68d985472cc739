"""Tables of real numbers: what is read, how it is split, and the place that is named for what is wrong."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptheta.data import binary
from ptheta.data.real import RealData, load
from ptheta.engine.errors import InputError, UsageError

pytestmark = pytest.mark.usefixtures("alone")

X = np.random.RandomState(0).randn(57, 3).astype(np.float32)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def csv(separator: str = ",", header: str = "") -> str:
    return header + "".join(separator.join(f"{v:.9g}" for v in row) + "\n" for row in X)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", ["", "a{0}b{0}c\n"])
def test_text_of_every_kind_is_read_and_split_as_binary_sets_are(tmp_path, separator, header):
    path = written(tmp_path / "a.csv", csv(separator, header.format(separator)))
    data = load(str(path))
    assert (data.n, data.shape, data.splits) == (3, None, ("train", "valid", "test"))
    assert data.names == (("a", "b", "c") if header else ()) and ("header" in data.origin) == bool(header)
    order = np.random.RandomState(binary.SPLIT_SEED).permutation(57)
    for split, rows in zip(data.splits, np.split(order, [47, 52])):
        assert np.array_equal(data.split(split).numpy(), X[rows]) and data.split(split).dtype == torch.float32
    assert binary.SPLIT_RULE in data.origin
    assert np.array_equal(binary.file_order(data)[0].numpy(), X)  # type: ignore[arg-type]


def test_arrays_tensors_dicts_and_their_files_are_one(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", x=X)
    np.savez(tmp_path / "only.npz", anything=X)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv().encode()))
    files = [tmp_path / name for name in ("a.npy", "a.npz", "only.npz", "a.csv.gz")]
    for spec in (X, X.astype(np.float64), torch.from_numpy(X), {"x": X}, *files):
        assert load(spec).fingerprint() == load(X).fingerprint()
    assert load(X + 1).fingerprint() != load(X).fingerprint()
    data = load(X)
    assert load(data) is data and isinstance(data, RealData)


def test_splits_of_their_own_and_labels_are_kept(tmp_path):
    y = np.arange(57) % 4
    np.savez(tmp_path / "a.npz", train=X, train_labels=y, test=X[:5])
    data = load(tmp_path / "a.npz")
    train: Any = data.labels("train")
    assert data.splits == ("train", "test") and np.array_equal(data.split("train").numpy(), X)
    assert train.tolist() == y.tolist() and data.labels("test") is None
    data = load({"x": np.repeat(y[:, None], 2, 1) + 0.5, "y": y})
    for split in data.splits:
        labels: Any = data.labels(split)
        assert torch.equal(data.split(split)[:, 0] - 0.5, labels.float())
    with pytest.raises(UsageError, match="split of .* 'tset' is unknown; allowed: test, train, valid. Did you mean"):
        data.split("tset")


def test_the_digits_are_their_grey_levels_with_noise_below_one():
    data, black_or_white = load("digits"), binary.load("digits")
    assert data.n == 64 and data.splits == black_or_white.splits
    for split in data.splits:
        x = data.split(split)
        grey = x.floor()
        assert (
            grey.min() >= 0
            and grey.max() <= 16
            and torch.equal((grey >= 8).to(torch.uint8), black_or_white.split(split))
        )
        labels: list[Any] = [of.labels(split) for of in (data, black_or_white)]
        assert torch.equal(*labels)
        noise = x - grey
        assert noise.mean().item() == pytest.approx(0.5, abs=0.01) and noise.var().item() == pytest.approx(
            1 / 12, abs=2e-3
        )
    assert data.fingerprint() == load("digits").fingerprint()


WRONG_TEXT = [
    ("1,2\n3,x\n", "line 2, column 2 is 'x'; allowed are finite numbers"),
    ("a,b\n1,2\n3,\n", "line 3, column 2 is empty"),
    ("1,2\n3,nan\n", "line 2, column 2 is 'nan'"),
    ("1.5,2\ninf,4\n", "line 2, column 1 is 'inf'"),
    ("1.5,2\n1e39,4\n", "line 2, column 1 is '1e39'"),
    ("1.5,2\n3,4,5\n", "line 2 has 3 values and line 1 has 2"),
    ("a,2\n3,4\n", "line 1, column 1 is 'a'"),
    ("a,b\n", "is empty but for a header line"),
    ("\n \n", "is empty"),
    ("1.5,2\n", "has one training row; at least 2 are needed"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_TEXT)
def test_what_is_wrong_in_a_text_is_told_with_its_place(tmp_path, text, message):
    path = written(tmp_path / "a.csv", text)
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value) and "a.csv" in str(error.value)


WRONG_ARRAYS = [
    (X[0], r"shape \(3,\); expected \(N, n\)"),
    (np.zeros((0, 5)), r"is empty: its shape is \(0, 5\)"),
    (np.array([[0, 1], [1, np.nan]]), "holds nan in row 1, column 1 .counted from 0.; allowed are finite numbers"),
    (np.array([[0, -np.inf]]), "holds -inf in row 0, column 1"),
    (np.array([[1e300, 0]]), "holds 1e.300 in row 0, column 0"),
    (np.array([["0", "1"]]), "values of type <U1; allowed are finite numbers"),
    (X[:1], "has one training row; at least 2"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_ARRAYS)
def test_what_is_wrong_in_an_array_is_told_with_its_place(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", train=values)
    for spec in (values, {"train": values}, tmp_path / "a.npy", tmp_path / "a.npz"):
        with pytest.raises(InputError, match=message) as error:
            load(spec)
        assert "\n" not in str(error.value)


def test_what_is_no_set_at_all_is_refused(tmp_path):
    wrong: list[tuple[Any, type, str]] = [
        ("digit", UsageError, "data set of real vectors 'digit' is unknown; allowed: digits. Did you mean 'digits'"),
        ("mnist", UsageError, "'mnist' is unknown; allowed: digits"),
        ("gone.csv", InputError, "gone.csv does not exist"),
        ("folder/gone.npy", InputError, "gone.npy does not exist"),
        (tmp_path, UsageError, "is a folder; allowed are files"),
        (written(tmp_path / "a.xlsx", "0"), UsageError, "of an unknown kind; allowed are files .npy"),
        (written(tmp_path / "a.npy", "0,1"), InputError, "no whole file of plain arrays"),
        (written(tmp_path / "a.npz", "0,1"), InputError, "no whole file of plain arrays"),
        ({"valid": X}, InputError, "the dict of arrays holds 'valid'; expected 'train'"),
        ({"train": X, "valid": X[:, 1:]}, InputError, "train has 3 columns, valid has 2 columns"),
        ({"x": X, "y": np.arange(5)}, InputError, "has 5 labels for 57 vectors"),
        (3, UsageError, "data is a int"),
        (binary.load("digits"), UsageError, r"data is a BinaryData \(digits\)"),
    ]
    for spec, kind, message in wrong:
        with pytest.raises(kind, match=message) as error:
            load(spec)
        assert "\n" not in str(error.value)
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="no whole file of plain arrays .*Object arrays"):
        load(tmp_path / "b.npy")
