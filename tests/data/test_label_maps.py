"""Pictures with label maps: layouts, partners, scaling, classes, the ignored label, and what is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ptheta.data import label_maps
from ptheta.data.label_maps import CAMVID, load
from ptheta.data.scenes import KINDS, scene
from ptheta.engine.errors import InputError, UsageError


def write(folder: Path, name: str, y: np.ndarray, ending: str = ".png") -> np.ndarray:
    """A picture of which the red channel is ten times the label, and its map; gives back the picture."""
    x = np.stack([10 * (y % 20), np.full_like(y, 7), np.zeros_like(y)], 2).astype(np.uint8)
    for path in (folder / f"images/{name}.png", folder / f"labels/{name}{ending}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(folder / f"images/{name}.png")
    if ending == ".npy":
        np.save(folder / f"labels/{name}.npy", y)
    else:
        Image.fromarray(y.astype(np.uint8)).save(folder / f"labels/{name}{ending}")
    return x


def labels(seed: int, h: int = 6, w: int = 9) -> np.ndarray:
    return np.random.RandomState(seed).choice([0, 1, 2, 255], size=(h, w), p=[0.4, 0.3, 0.2, 0.1])


def test_a_folder_of_images_and_labels_is_paired_by_name_and_split_by_the_rule(tmp_path):
    wrote = {}
    for i in range(20):
        name = f"{'deep/' if i % 3 == 0 else ''}{i}"
        wrote[name] = (write(tmp_path, name, labels(i), ".npy" if i % 2 else ".png"), labels(i))
    data = load(tmp_path)
    assert data.shape == (3, 6, 9) and data.classes == ("class 0", "class 1", "class 2")
    assert [len(data.split(s)) for s in ("train", "valid", "test")] == [16, 2, 2]
    seen = set()
    for split in data.splits:
        for name, x, y in zip(data.names(split), data.split(split), data.maps(split)):
            assert np.array_equal(x.numpy().transpose(1, 2, 0), wrote[name][0])
            assert np.array_equal(y.numpy(), wrote[name][1]) and str(y.dtype) == "torch.uint8"
            seen.add(name)
    assert seen == set(wrote)


@pytest.mark.parametrize("layout", ["camvid", "images"])
def test_splits_of_its_own_are_kept(tmp_path, layout):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            write(tmp_path, f"{split}/{i}", labels(i))
    if layout == "camvid":
        for split in ("train", "val", "test"):
            (tmp_path / f"images/{split}").rename(tmp_path / split)
            (tmp_path / f"labels/{split}").rename(tmp_path / f"{split}annot")
        (tmp_path / "images").rmdir(), (tmp_path / "labels").rmdir()
    (tmp_path / "classes.txt").write_text("ground\n\nsea\nsky\nmoon\n")
    data = load(tmp_path)
    assert data.splits == ("train", "valid", "test") and data.names("valid") == ["val/0", "val/1"]
    assert data.classes == ("ground", "sea", "sky", "moon") and "in its own splits" in data.origin
    assert np.array_equal(data.maps("test")[0].numpy(), labels(0))


def test_pictures_and_maps_are_scaled_together(tmp_path):
    y = np.zeros((8, 12), int)
    y[:4, 6:] = 3
    write(tmp_path, "a", y)
    write(tmp_path, "b", np.kron(y, np.ones((2, 2), int)))
    small, large = load(tmp_path).maps(
        "train"
    )  # the smaller one is continued, and there is nothing to be learned there
    assert np.array_equal(small[:8, :12], y) and (small == 255).sum() == 16 * 24 - 8 * 12 and not (large == 255).any()
    write(tmp_path, "c", np.zeros((4, 4), int))
    assert len(load(tmp_path).classes) == 4, "255 beyond smaller pictures is no label of the files"
    for file in tmp_path.rglob("c.png"):
        file.unlink()
    x = load(tmp_path).split("train")[0]
    assert (x[:, 8:, :12] == x[:, 7:8, :12]).all() and (x[:, :8, 12:] == x[:, :8, 11:12]).all()
    for size in ((4, 6), (8, 12), (16, 24), (5, 8)):
        data = load(tmp_path, size=size[0])
        for x, m in zip(data.split("train"), data.maps("train")):
            assert x.shape == (3, *size) and m.shape == size and set(m.unique().tolist()) == {0, 3}
            assert (x[0] > 15).float().sub((m == 3).float()).abs().mean() < 0.1, "edges may be half a pixel apart"
    a, b = load(tmp_path, size=4).maps("train")
    assert np.array_equal(a, b) and np.array_equal(a, y[::2, ::2])


def test_another_label_is_ignored_and_palettes_are_indices(tmp_path):
    y = np.array([[0, 1, 9], [2, 9, 0]])
    write(tmp_path, "a", y)
    palette = Image.fromarray(y.astype(np.uint8)).convert("P")
    palette.putdata(y.flatten().tolist())
    palette.putpalette([200, 100, 0] * 10)
    palette.save(tmp_path / "labels/a.png")
    data = load(tmp_path, ignore=9)
    assert data.maps("train")[0].tolist() == [[0, 1, 255], [2, 255, 0]] and len(data.classes) == 3
    with pytest.raises(InputError, match="a.png has labels 9; allowed: 0 to 2, and 255 for what is not learned"):
        (tmp_path / "classes.txt").write_text("a\nb\nc")
        load(tmp_path)


def test_pixels_of_a_class_called_void_are_not_learned_and_labels_stay(tmp_path):
    y = np.array([[0, 1, 2], [2, 255, 0]])
    write(tmp_path, "a", y)
    (tmp_path / "classes.txt").write_text("Void\nroad\nsky\n")
    data = load(tmp_path)
    assert data.classes == ("Void", "road", "sky")
    assert data.maps("train")[0].tolist() == [[255, 1, 2], [2, 255, 255]]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_pictures_of_few_bits_are_not_scaled(tmp_path, bits):
    """Pillow spreads 0 … 2^bits − 1 over 0 … 255, and 3 of 2 bits would be 255."""
    y = np.random.RandomState(0).randint(2**bits, size=(6, 9)).astype(np.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in y:
        packed = "".join(format(v, f"0{bits}b") for v in row)
        packed += "0" * (-len(packed) % 8)
        rows += b"\0" + bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
    header = struct.pack(">IIBBBBB", 9, 6, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "y.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert np.array_equal(label_maps.read_map(tmp_path / "y.png"), y)


def test_scenes_are_drawn_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(label_maps, "SCENES", {"train": 3, "valid": 2, "test": 1})
    data = load("scenes", size=32)
    assert data.classes == KINDS and data.shape == (3, 32, 32)
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        assert len(data.maps(split)) == len(data.split(split)) == count
        x, y = scene(0, split, count - 1, 32)
        assert np.array_equal(data.split(split)[-1], x) and np.array_equal(data.maps(split)[-1], y)


def test_camvid_has_its_classes_and_void_is_ignored(real):
    real("camvid/val/0016E5_07959.jpg")
    data = load("camvid", size=45)
    assert data.classes == CAMVID and [len(data.split(s)) for s in data.splits] == [367, 101]
    found = set(data.maps("train").unique().tolist())
    assert found == {*range(11), 255}


def refused(tmp_path: Path, message: str, **more) -> None:
    with pytest.raises((InputError, UsageError), match=message):
        load(tmp_path, **more)


def test_folders_that_cannot_be_used_are_told_by_file(tmp_path):
    refused(tmp_path / "none", "none is no folder; allowed: scenes, camvid, a folder")
    refused(tmp_path, "has no label maps; allowed: train/ with trainannot/ .* or images/ with labels/ or masks/")
    write(tmp_path, "a", labels(0))
    write(tmp_path, "b", labels(1))
    (tmp_path / "labels/b.png").unlink()
    refused(tmp_path, "labels lacks 1 of 2 names: b.")
    write(tmp_path, "b", labels(1))
    (tmp_path / "images/a.png").unlink()
    refused(tmp_path, "images lacks 1 of 2 names: a.")
    write(tmp_path, "a", labels(0))
    refused(tmp_path, "size = 0 is impossible; allowed: from 1 on", size=0)
    refused(tmp_path, "none.txt is no file", classes=tmp_path / "none.txt")
    Image.new("RGB", (9, 6)).save(tmp_path / "labels/b.png")
    refused(tmp_path, "b.png is an image of mode RGB; allowed: grey, palette or 16-bit")
    Image.new("L", (5, 5)).save(tmp_path / "labels/b.png")
    refused(tmp_path, "b.png is 6x9 and its map 5x5; allowed: the same size")
    (tmp_path / "labels/b.png").write_bytes(b"nothing")
    refused(tmp_path, r"labels/b.png cannot be read as a label map \(")
    write(tmp_path, "b", labels(1))
    (tmp_path / "images/b.png").write_bytes(b"nothing")
    refused(tmp_path, r"images/b.png cannot be read as a picture \(")
    write(tmp_path, "b", labels(1))
    (tmp_path / "labels/b.jpg").write_bytes(b"")
    refused(tmp_path, "b.jpg is stored with losses, which changes labels")
    (tmp_path / "labels/b.jpg").unlink()
    np.save(tmp_path / "labels/a.npy", labels(0))
    refused(tmp_path, "are both a; leave one of them")
    (tmp_path / "labels/a.png").unlink()
    np.save(tmp_path / "labels/a.npy", labels(0) / 2)
    refused(tmp_path, r"a.npy holds float64 of shape \(6, 9\); allowed: whole numbers")
    np.save(tmp_path / "labels/a.npy", np.full((6, 9), 300))
    refused(tmp_path, "has a label 300; allowed: 0 to 254")


def test_nothing_is_left_out_in_silence(tmp_path):
    write(tmp_path, "train/a", labels(0))
    (tmp_path / "labels/.ipynb_checkpoints").mkdir()
    Image.new("L", (9, 6)).save(tmp_path / "labels/.ipynb_checkpoints/a.png")
    assert load(tmp_path).names("train") == ["train/a"], "hidden folders are no data"
    write(tmp_path, "loose", labels(1))
    refused(tmp_path, "images/loose.png is in none of the splits beside it")
    (tmp_path / "images/loose.png").unlink(), (tmp_path / "labels/loose.png").unlink()
    (tmp_path / "images/val").mkdir()
    Image.new("RGB", (9, 6)).save(tmp_path / "images/val/b.png")
    refused(tmp_path, "labels/val is no folder")
    write(tmp_path, "val/b", labels(1))
    write(tmp_path, "valid/b", labels(1))
    refused(tmp_path, "images/val.* and .*images/val.* are both for valid; leave one of them")


def test_masks_of_0_and_255_are_not_one_class(tmp_path):
    write(tmp_path, "a", (labels(0) > 0) * 255)
    refused(tmp_path, "labels 0 and 255 alone, and 255 is what is not learned; if it is a class")


def test_a_folder_without_training_or_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    write(tmp_path, "val/a", labels(0))
    refused(tmp_path, "has valid and nothing for training")
    write(tmp_path, "train/a", labels(0))
    monkeypatch.setattr(label_maps, "memory", lambda: 100.0)
    refused(tmp_path, "2 pictures of 6x9 need 0.0 GiB, and 0.0 GiB are free; choose a smaller --size")
