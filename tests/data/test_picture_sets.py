"""Sets of pictures from arrays and array files: shapes, values, splits, labels; what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import binary
from ptheta.data.pictures import PictureData, as_pictures, divided, load
from ptheta.engine.errors import InputError, UsageError

pytestmark = pytest.mark.usefixtures("alone")

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (30, 5, 6)).astype(np.uint8)
COLOUR = RANDOM.randint(0, 256, (30, 5, 6, 3)).astype(np.uint8)


def numbered(count: int, channels: int = 1) -> np.ndarray:
    """Pictures (N, C, 2, 2) whose upper left pixel is their number."""
    x = RANDOM.randint(0, 256, (count, channels, 2, 2)).astype(np.uint8)
    x[:, :, 0, 0] = np.arange(count)[:, None]
    return x


def all_pictures(data: PictureData) -> np.ndarray:
    return np.concatenate([data.split(split).numpy() for split in data.splits])


def labels_of(data: PictureData, split: str) -> torch.Tensor:
    labels = data.labels(split)
    assert labels is not None
    return labels


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("array", "shape"),
    [(GREY, (1, 5, 6)), (GREY[..., None], (1, 5, 6)), (GREY[:, None], (1, 5, 6)), (COLOUR, (3, 5, 6)),
     (COLOUR.transpose(0, 3, 1, 2), (3, 5, 6)), (GREY[:, :1, :1], (1, 1, 1))],
)  # fmt: skip
def test_every_layout_becomes_channels_first_bytes(array, shape):
    data = load(array)
    assert data.shape == shape and data.n == np.prod(shape) and data.split("train").dtype == torch.uint8
    x = as_pictures(array, "x")
    wanted = COLOUR if shape[0] == 3 else array.reshape(30, *shape[1:], 1)
    for c in range(shape[0]):
        assert np.array_equal(x[:, c], wanted[..., c])
    assert sorted(map(bytes, all_pictures(data))) == sorted(map(bytes, x))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_of_0_to_1_are_the_nearest_bytes(dtype):
    assert np.array_equal(as_pictures((GREY / 255).astype(dtype), "x")[:, 0], GREY)
    assert as_pictures(np.array([[[0, 0.0019, 0.0021, 1]]], dtype), "x").tolist() == [[[[0, 0, 1, 255]]]]


def test_arrays_tensors_and_files_are_one(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    np.savez(tmp_path / "a.npz", x=GREY)
    tensor = torch.from_numpy(GREY)
    specs = [GREY, np.asfortranarray(GREY), GREY / 255, tensor, tensor.float() / 255, (tensor / 255).requires_grad_(),
             tmp_path / "a.npy", str(tmp_path / "a.npz")]  # fmt: skip
    assert {load(spec).fingerprint() for spec in specs} == {load(GREY).fingerprint()}
    assert np.array_equal(as_pictures(GREY > 99, "x")[:, 0], 255 * (GREY > 99)), "true is white"
    assert str(tmp_path / "a.npy") in load(tmp_path / "a.npy").origin and "30 pictures" in load(GREY).origin
    data = load(GREY)
    assert load(data) is data and data.split("train") is data.split("train")
    mine = GREY.copy()
    data = load(mine)
    mine[:] = 0
    assert data.fingerprint() == load(GREY).fingerprint(), "the caller's array is copied"


@pytest.mark.parametrize(
    ("array", "message"),
    [(GREY[0], r"x of array has shape \(5, 6\); allowed: \(N, H, W\) or \(N, H, W, C\) with C = 1 or 3"),
     (GREY[0, 0], r"shape \(6,\)"), (np.zeros(()), r"shape \(\)"), (np.zeros((2, 5, 5, 4)), r"\(2, 5, 5, 4\)"),
     (np.zeros((2, 2, 5, 5), np.uint8), r"\(2, 2, 5, 5\)"), (GREY[None, None], r"\(1, 1, 30, 5, 6\)"),
     (GREY[:0], r"is empty: its shape is \(0, 1, 5, 6\); at least one picture"), (GREY[:, :0], "is empty"),
     (GREY.astype(np.int64), "holds int64 from 0 to 255; allowed: bytes"), (GREY.astype(np.uint16), "uint16 from 0"),
     (GREY * 1.0, "holds float64 from 0 to 255"), (GREY / 255 - 0.5, "from -0.5 to 0.5; .*convert it"),
     (np.full((2, 3, 3), np.nan), "float64 from nan"), (np.full((2, 3, 3), np.inf), "from inf"),
     (np.full((2, 3, 3), "white"), "holds <U5; allowed: bytes"), (GREY * 1j, "holds complex128; allowed"),
     (np.full((2, 3, 3), None), "holds object; allowed")],
)  # fmt: skip
def test_what_is_no_set_of_pictures_is_refused(array, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load(array)
    assert "\n" not in str(error.value)
    if array.dtype != object:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InputError, match=r"a\.npy (holds|has|is)"):
            load(tmp_path / "a.npy")


@pytest.mark.parametrize("y", [np.arange(20) % 3, (np.arange(20) % 3).astype(np.uint8)])
def test_labels_in_a_file_belong_to_their_pictures(tmp_path, y):
    x = numbered(20)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load(tmp_path / "a.npz")
    assert data.classes == ("0", "1", "2") and data.splits == ("train", "valid", "test")
    for split in data.splits:
        labels = labels_of(data, split)
        assert labels.dtype == torch.int64 and torch.equal(labels, data.split(split)[:, 0, 0, 0].long() % 3)
        assert data.names(split) is None and data.captions(split) is None
    assert load(x).labels("train") is None and load(x).classes == ()


@pytest.mark.parametrize(
    ("y", "message"),
    [(np.arange(5), "y of .*a.npz has 5 labels for 20"), (np.arange(20) - 3, "holds the label -3"),
     (np.arange(20) / 2, "whole numbers"), (np.zeros((20, 1), int), r"shape \(20, 1\)"),
     (np.full(20, 5000), "holds the label 5000; allowed are at most 1000 classes")],
)  # fmt: skip
def test_labels_that_are_none_are_refused(tmp_path, y, message):
    np.savez(tmp_path / "a.npz", x=numbered(20), y=y)
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array")
    np.savez(tmp_path / "b.npz", train=GREY)
    np.savez(tmp_path / "c.npz", x=GREY, y=np.zeros(30, int), z=GREY)
    np.savez(tmp_path / "d.npz")
    np.save(tmp_path / "e.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "f.txt").write_text("0 1")
    for name, message in [("a.npy", "cannot be read as an array"), ("b.npz", "holds train; allowed: x, and perhaps y"),
                          ("c.npz", "holds x, y, z; allowed"), ("d.npz", "holds nothing"),
                          ("e.npy", "cannot be read"), ("g.npy", "g.npy does not exist; give the path")]:  # fmt: skip
        with pytest.raises(InputError, match=message) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="f.txt is of an unknown kind; allowed are .npy .npz of pictures, .csv .jsonl"):
        load(tmp_path / "f.txt")


def test_impossible_requests_are_refused(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    sizes: list[Any] = [0, -3, 2.5, "28", True]
    for size in sizes:
        with pytest.raises(UsageError, match="size is"):
            load(GREY, size=size)
    specs: list[Any] = [3, None, [GREY], {"x": GREY}]
    for spec in specs:
        with pytest.raises(UsageError, match="allowed are a name, a path or an array of pictures"):
            load(spec)
    with pytest.raises(
        UsageError, match="set of pictures 'mnits' is unknown; .*Did you mean 'mnist'.*path of a folder"
    ):
        load("mnits")
    with pytest.raises(UsageError, match="set of pictures '' is unknown"):
        load("")  # which is not the folder that one is in
    with pytest.raises(InputError, match="nowhere/at_all does not exist"):
        load("nowhere/at_all")


# ---------------------------------------------------------------- splits


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 250))
def test_pictures_are_split_as_vectors_are(count):
    """The same rows in the same order as the sets of 0/1 vectors have them, here by the bits of their numbers."""
    x = numbered(count)
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    data, vectors = load(x), binary.load(bits)
    assert data.splits == vectors.splits
    for split in data.splits:
        rows = vectors.split(split).long() @ 2 ** torch.arange(8)
        assert torch.equal(data.split(split)[:, 0, 0, 0].long(), rows)
        assert np.array_equal(data.split(split).numpy(), x[rows.numpy()])
    assert ("too few to split" in data.origin) == (count < 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_labels_names_and_captions_follow_their_pictures(channels):
    x = numbered(45, channels)
    told = {"x": x, "labels": np.arange(45) * 2, "names": [f"{i}.png" for i in range(45)],
            "captions": [f"picture {i}" for i in range(45)]}  # fmt: skip
    parts, _ = divided(told)
    data = PictureData("all", (channels, 2, 2), "", tuple(map(str, range(90))), {k: lambda: parts for k in parts})
    seen = []
    for split in ("train", "valid", "test"):
        numbers = data.split(split)[:, 0, 0, 0].tolist()
        assert labels_of(data, split).tolist() == [2 * i for i in numbers]
        assert data.names(split) == [f"{i}.png" for i in numbers]
        assert data.captions(split) == [f"picture {i}" for i in numbers]
        seen += numbers
    assert sorted(seen) == list(range(45))


def test_a_split_that_does_not_exist_is_refused():
    data = load(GREY[:5])
    assert data.splits == ("train",)
    for ask in (data.split, data.labels, data.names, data.captions):
        with pytest.raises(UsageError, match="split of array 'valid' is unknown; allowed: train"):
            ask("valid")


def test_the_fingerprint_is_of_the_training_pictures():
    other = COLOUR[:5].copy()
    other[4, 3, 2, 1] ^= 1
    arrays = [COLOUR[:5], COLOUR[:4], other, 255 - COLOUR[:5], GREY[:5], GREY[:5].reshape(5, 6, 5), GREY[:5, :1],
              COLOUR[:5][::-1]]  # fmt: skip
    assert len({load(array).fingerprint() for array in arrays}) == len(arrays)
    held = numbered(20)
    first = load(held).split("test")[0, 0, 0, 0]
    changed = held.copy()
    changed[first, 0, 1, 1] ^= 1
    assert load(changed).fingerprint() == load(held).fingerprint(), "a test picture is not trained on"
