"""The sets with a name: their files, checksums and splits; the real ones where they are at hand."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import X, all_rows, idx, same_rows, text, write

from ptheta.data import known
from ptheta.data.binary import BinaryData, load
from ptheta.engine.errors import InputError, UsageError

pytestmark = pytest.mark.usefixtures("alone")


def labels_of(data: BinaryData, split: str) -> torch.Tensor:
    labels = data.labels(split)
    assert labels is not None
    return labels


def test_digits_is_scikit_learns(monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    theirs = datasets.load_digits()
    with np.load(Path(known.__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        assert np.array_equal(stored["pixels"], theirs.data) and np.array_equal(stored["labels"], theirs.target)
    data = load("digits")
    assert same_rows(all_rows(data), (theirs.data >= 8).astype(np.uint8))
    by_class = [np.zeros(64, int) for _ in range(10)]  # labels go with their rows
    for split in data.splits:
        for row, label in zip(data.split(split).numpy(), labels_of(data, split), strict=True):
            by_class[label] += row
    for digit in range(10):
        assert np.array_equal(by_class[digit], (theirs.data[theirs.target == digit] >= 8).sum(0))


def test_digits_as_documented():
    data = load("digits")
    assert (data.name, data.n, data.shape, data.splits) == ("digits", 64, (8, 8), ("train", "valid", "test"))
    assert [len(data.split(split)) for split in data.splits] == [1257, 270, 270]
    assert data.split("train").dtype == torch.uint8 and set(data.split("train").unique().tolist()) == {0, 1}
    assert labels_of(data, "test").dtype == torch.int64 and labels_of(data, "test").shape == (270,)
    assert data.fingerprint() == "91a239cece053bc801fe3c653ad24e4c1440b47e9a546f24b9ffc2aa1c157d79", (
        "runs of earlier versions would not be resumed"
    )
    assert "CC BY 4.0" in data.origin and "at least 8" in data.origin
    assert data.split("train") is data.split("train")
    assert load("digits", threshold=0.25).split("train").sum() > data.split("train").sum()
    assert "at least 4" in load("digits", threshold=0.25).origin


def test_the_set_says_which_splits_there_are():
    with pytest.raises(
        UsageError, match="split of digits 'vaild' is unknown; allowed: test, train, valid. Did you mean"
    ):
        load("digits").split("vaild")
    with pytest.raises(UsageError, match="split of array 'valid' is unknown; allowed: train"):
        load(X[:5]).labels("valid")


def test_the_mnist_files_are_read_and_split(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "IDX_COUNT", {"train": 50, "t10k": 20})
    monkeypatch.setattr(known, "IDX_VALID", 10)
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    random = np.random.RandomState(0)
    pixels = {half: random.randint(0, 256, (count, 28, 28)) for half, count in known.IDX_COUNT.items()}
    for half, values in pixels.items():
        write(tmp_path / "mnist" / f"{half}-images-idx3-ubyte{'.gz' if half == 'train' else ''}", idx(values))
    write(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", idx(np.arange(50) % 10))
    data = load("mnist")
    assert (data.n, data.shape, data.splits) == (784, (28, 28), ("train", "valid", "test"))
    valid = pixels["train"][40:].reshape(10, 784)
    assert np.array_equal(data.split("valid").numpy(), valid > 127)
    assert np.array_equal(data.split("test").numpy(), pixels["t10k"].reshape(20, 784) > 127)
    assert np.array_equal(data.split("train").numpy(), pixels["train"][:40].reshape(40, 784) > 127)
    assert labels_of(data, "valid").tolist() == list(range(10))
    assert np.array_equal(load("mnist", threshold=0.2).split("valid").numpy(), valid > 51)
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte.gz .*offline"):
        labels_of(data, "test")


def test_binarized_mnist_needs_only_the_split_that_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    monkeypatch.setitem(known.BINARIZED_MNIST, "train", (3, "", 0))
    values = np.eye(3, 784, dtype=np.uint8)
    write(tmp_path / "binarized_mnist" / "binarized_mnist_train.amat.gz", text(values, " "))
    data = load("binarized_mnist")
    assert data.shape == (28, 28) and data.labels("train") is None
    assert np.array_equal(data.split("train").numpy(), values)
    with pytest.raises(
        InputError, match="binarized_mnist_test.amat.*http://www.cs.toronto.edu/.*_test.amat.*by hand|by hand"
    ):
        data.split("test")


def test_a_named_set_that_is_cut_short_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    write(tmp_path / "debd" / "nltcs" / "nltcs.train.data", text(np.ones((5, 16), int)))
    with pytest.raises(InputError, match="nltcs.train.data holds 5 rows of 16 values; expected 16,181 of 16"):
        load("debd:nltcs").split("train")


def test_another_debd_set_works_where_the_user_has_placed_it(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match="'mine' is unknown; allowed: book, dna, jester, mushrooms, nltcs, plants.*mine.train"
    ):
        load("debd:mine")
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    folder = tmp_path / "debd" / "mine"
    write(folder / "mine.train.data", text(X))
    write(folder / "mine.test.data.gz", text(X[:3]))
    data = load("debd:mine")
    assert (data.n, data.splits, data.shape) == (6, ("train", "test"), None)
    assert np.array_equal(data.split("test").numpy(), X[:3])
    write(folder / "mine.valid.data", text(X[:, :5]))
    with pytest.raises(InputError, match="debd:mine: split valid has 5 columns; expected 6"):
        load("debd:mine").split("valid")
    for name in ("debd:../debd/mine", "debd:", "debd:nltc"):
        with pytest.raises(UsageError, match="is unknown; allowed: book"):
            load(name)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="'mnits' is unknown; allowed: .*digits.*Did you mean 'mnist'"):
        load("mnits")
    for name in ("", "digit"):
        with pytest.raises(UsageError, match="is unknown"):
            load(name)
    for path in ("no/such", "missing.csv", Path("digit")):
        with pytest.raises(InputError, match="does not exist"):
            load(path)


# -- real sets -------------------------------------------------------------------------------------------------------

MNIST_FILES = [f"{{}}/{half}-{kind}-ubyte.gz" for half in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_mnist(real, name):
    real(*(file.format(name) for file in MNIST_FILES))
    data = load(name)
    assert [len(data.split(split)) for split in data.splits] == [50_000, 10_000, 10_000]
    labels = torch.cat([labels_of(data, "train"), labels_of(data, "valid")])
    if name == "fashion_mnist":
        assert labels.bincount().tolist() == [6000] * 10
    else:  # the published class counts and first labels
        assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert labels_of(data, "train")[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        assert labels_of(data, "test")[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_real_binarized_mnist(real):
    real(*(f"binarized_mnist/binarized_mnist_{split}.amat.gz" for split in ("train", "valid")))
    data = load("binarized_mnist")
    for split, count in (("train", 50_000), ("valid", 10_000)):
        values = data.split(split)
        assert values.shape == (count, 784)
        # Writing the text again proves that reading lost nothing: the sum is that of the original file.
        characters = np.full((count, 2 * 784), ord(" "), np.uint8)
        characters[:, ::2] = values.numpy() + ord("0")
        characters[:, -1] = ord("\n")
        assert hashlib.sha256(characters.tobytes()).hexdigest() == known.BINARIZED_MNIST[split][1]


@pytest.mark.parametrize("name", list(known.DEBD))
def test_real_debd(real, name):
    real(*(f"debd/{name}/{name}.{split}.data.gz" for split in ("train", "valid", "test")))
    columns, splits = known.DEBD[name]
    data = load(f"debd:{name}")
    for split, (count, sha256) in splits.items():
        values = data.split(split).numpy()
        assert values.shape == (count, columns) == (count, data.n)
        assert hashlib.sha256(text(values).encode()).hexdigest() == sha256


def test_sampled_mnist_draws_each_pixel_once(tmp_path, monkeypatch):
    """1 with probability grey/255, by fixed numbers; white is always 1 and black always 0."""
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    monkeypatch.setattr("ptheta.data.known.IDX_COUNT", {"train": 50, "t10k": 50})
    monkeypatch.setattr("ptheta.data.known.IDX_VALID", 10)
    grey = np.repeat(np.uint8([0, 51, 128, 255]), 196).reshape(1, 28, 28).repeat(50, 0)
    write(tmp_path / "mnist" / "t10k-images-idx3-ubyte", idx(grey))
    data = load("sampled_mnist")
    x = data.split("test").float().reshape(50, 4, 196)
    shares = x.mean((0, 2))
    assert shares[0] == 0 and shares[3] == 1
    assert shares[1:3].tolist() == pytest.approx([0.2, 128 / 255], abs=0.02)
    assert x[:, 2].std(0).min() > 0, "each picture is drawn for itself"
    assert torch.equal(load("sampled_mnist").split("test"), data.split("test"))
    assert "probability grey/255" in data.origin
