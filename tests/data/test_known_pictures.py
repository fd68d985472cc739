"""The sets of pictures that have a name: digits against scikit-learn, IDX files, emoji and photographs."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import idx, write

from ptheta.data import binary, known, known_pictures
from ptheta.data.known_pictures import base
from ptheta.data.pictures import PictureData, load
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")


def labels_of(data: PictureData, split: str) -> torch.Tensor:
    labels = data.labels(split)
    assert labels is not None
    return labels


def texts(part: list[str] | None) -> list[str]:
    assert part is not None
    return part


# ---------------------------------------------------------------- digits, MNIST, Fashion-MNIST


def test_digits_are_scikit_learns_in_255ths():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    theirs, data = datasets.load_digits(), load("digits")
    assert (data.shape, data.splits, data.classes) == ((1, 8, 8), ("train", "valid", "test"), tuple("0123456789"))
    known_rows = {}
    for pixels, label in zip(theirs.data, theirs.target):
        known_rows.setdefault(bytes(np.rint(pixels * 255 / 16).astype(np.uint8)), []).append(label)
    for split, count in (("train", 1257), ("valid", 270), ("test", 270)):
        assert len(data.split(split)) == count
        for x, y in zip(data.split(split).numpy(), labels_of(data, split).tolist()):
            known_rows[x.tobytes()].remove(y)
    assert not any(known_rows.values()), "each picture is there once, with its label"


def test_digits_are_split_as_the_binary_digits():
    """A model of one must not have seen test pictures of the other."""
    grey, black_and_white = load("digits"), binary.load("digits")
    for split in grey.splits:
        assert torch.equal((grey.split(split) >= 127).flatten(1).byte(), black_and_white.split(split))
        assert torch.equal(labels_of(grey, split), labels_of_binary(black_and_white, split))


def labels_of_binary(data: binary.BinaryData, split: str) -> torch.Tensor:
    labels = data.labels(split)
    assert labels is not None
    return labels


@pytest.fixture
def small_idx(tmp_path, monkeypatch):
    """Fashion-MNIST of 50 training and 20 test pictures, whose upper left pixel tells which it is."""
    pixels = {}
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    monkeypatch.setattr(known_pictures, "IDX_VALID", 10)
    monkeypatch.setattr(known, "IDX_VALID", 10)
    for half, count in (("train", 50), ("t10k", 20)):
        x = np.random.RandomState(count).randint(0, 256, (count, 28, 28))
        x[:, 0, 0] = np.arange(count)
        for module in (known, known_pictures):
            monkeypatch.setitem(module.IDX_COUNT, half, count)
        files = {f"{half}-images-idx3-ubyte.gz": x, f"{half}-labels-idx1-ubyte.gz": np.arange(count) % 10}
        for name, values in files.items():
            write(tmp_path / "fashion_mnist" / name, idx(values))
            packed = (tmp_path / "fashion_mnist" / name).read_bytes()
            monkeypatch.setitem(known.IDX_FILES["fashion_mnist"], name, (sha256(packed), len(packed)))
        pixels[half] = x
    return pixels


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(gzip.decompress(content)).hexdigest()


def test_idx_files_are_read_in_their_order_with_the_last_training_pictures_for_validation(small_idx):
    data = load("fashion_mnist")
    assert data.shape == (1, 28, 28) and data.splits == ("train", "valid", "test") and data.classes[9] == "ankle boot"
    for split, wanted in {
        "test": small_idx["t10k"], "train": small_idx["train"][:40], "valid": small_idx["train"][40:]
    }.items():  # fmt: skip
        assert np.array_equal(data.split(split)[:, 0].numpy(), wanted)
        assert torch.equal(labels_of(data, split), data.split(split)[:, 0, 0, 0].long() % 10)


def test_the_real_mnist_is_as_published(real):
    real(*(f"mnist/{name}" for name in known.IDX_FILES["mnist"]))
    data = load("mnist")
    counts = {split: torch.bincount(labels_of(data, split)).tolist() for split in ("train", "valid", "test")}
    assert counts["test"] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = np.add(counts["train"], counts["valid"]).tolist()
    assert both == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(data.split("valid")) == 10_000 and data.split("test").shape == (10_000, 1, 28, 28)
    mean = torch.cat([data.split("train"), data.split("valid")]).float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=5e-5), "the mean by which everybody normalises"


# ---------------------------------------------------------------- emoji


@pytest.mark.parametrize(
    ("code", "wanted"),
    [("1F383", "1F383"), ("1F9D1-1F3FC-200D-1F33E", "1F9D1-200D-1F33E"), ("1F3FB", "1F3FB"), ("263A-FE0F", "263A"),
     ("1F3CB-FE0F-200D-2642-FE0F", "1F3CB-200D-2642"), ("1F3CB-1F3FF-200D-2642-FE0F", "1F3CB-200D-2642"),
     ("1F469-1F3FC-200D-1F91D-200D-1F469-1F3FF", "1F469-200D-1F91D-200D-1F469"), ("1F3F0", "1F3F0")],
)  # fmt: skip
def test_the_base_of_a_code_has_neither_tones_nor_variations(code, wanted):
    assert base(code) == wanted and base(base(code)) == base(code)


def test_no_emoji_of_training_comes_back_in_another_tone(real, monkeypatch):
    real("emoji/captions.csv")

    def stand_in(files: list[Path], size: int, skip: bool):
        """Pictures of one value, the file's number: decoding 3,430 of them takes longer than all other tests here."""
        x = np.arange(len(files))[:, None, None, None] % 256
        return np.broadcast_to(x, (len(files), 3, size, size)).astype(np.uint8), files, ""

    monkeypatch.setattr(known_pictures.folders, "decoded", stand_in)
    data = load("emoji", size=8)
    names = {split: texts(data.names(split)) for split in data.splits}
    bases = {split: {base(Path(name).stem) for name in part} for split, part in names.items()}
    assert not bases["train"] & bases["valid"] and not bases["train"] & bases["test"]
    assert not bases["valid"] & bases["test"]
    of_bases = {split: len(part) / sum(map(len, bases.values())) for split, part in bases.items()}
    assert of_bases["train"] == pytest.approx(0.8, abs=0.005) and of_bases["test"] == pytest.approx(0.1, abs=0.005)
    every = sum(names.values(), [])
    assert len(every) == len(set(every)) == sum(1 for _ in (known_pictures.folder_of("emoji") / "images").iterdir())
    assert len(data.classes) == len(set(data.classes)) > 5


def test_a_small_folder_of_emoji_keeps_pictures_groups_and_texts_together(tmp_path, monkeypatch):
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    (tmp_path / "emoji" / "images").mkdir(parents=True)
    lines = ["hexcode,annotation,tags,group,subgroup,skintone"]
    for i in range(20):
        for code in (f"1F4{i:02X}", f"1F4{i:02X}-1F3FD"):
            Image.new("RGBA", (8, 8), (i, 0, 0, 255)).save(tmp_path / "emoji" / "images" / f"{code}.png")
            lines.append(f'{code},thing {i},"{"a, b" if i % 2 else ""}",{"odd-one" if i % 2 else "even"},,')
    write(tmp_path / "emoji" / "captions.csv", "\n".join(lines))
    data = load("emoji", size=4)
    assert data.classes == ("even", "odd-one") and data.shape == (3, 4, 4) and "CC BY-SA" in data.origin
    sizes = []
    for split in data.splits:
        rows = zip(data.split(split)[:, 0, 0, 0].tolist(), labels_of(data, split).tolist(), texts(data.names(split)),
                   texts(data.captions(split)), strict=True)  # fmt: skip
        for i, group, name, text in rows:
            assert group == i % 2 and name.startswith(f"1F4{i:02X}")
            assert text == (f"thing {i}, a, b, odd one" if i % 2 else f"thing {i}, even")
        sizes.append(len(data.split(split)))
    assert sizes == [32, 4, 4]
    for content in ("", "hexcode,annotation\nA,b\n", b"\xff\xfe\xff", "hexcode,annotation,tags,group\n"):
        write(tmp_path / "emoji" / "captions.csv", content)
        with pytest.raises(InputError, match="is no OpenMoji folder") as error:
            load("emoji")
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------- photographs


def test_photographs_without_their_label_maps_in_the_splits_they_come_in(tmp_path, monkeypatch):
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    for place, count in (("camvid/train", 12), ("camvid/val", 3), ("bsds500/train", 12)):
        folder = tmp_path / place
        for path in (folder, folder.with_name(folder.name + "annot")):
            path.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 6), (20 * i, 0, 0)).save(folder / f"{i:02}.jpg")
            Image.new("L", (8, 6), i).save(folder.with_name(folder.name + "annot") / f"{i:02}.png")
            Image.new("L", (8, 6), i).save(folder / f"{i:02}_1.png")
    drive, scenes = load("camvid", size=4), load("bsds500", size=4)
    assert [len(drive.split(s)) for s in drive.splits] == [12, 3] and drive.splits == ("train", "valid")
    assert [len(scenes.split(s)) for s in scenes.splits] == [10, 1, 1], "it has one folder, which the rule divides"
    assert all(name.startswith("val") for name in texts(drive.names("valid")))
    for data in (drive, scenes):
        assert data.shape == (3, 4, 4) and data.labels("train") is None
        for x, name in zip(data.split("train"), texts(data.names("train"))):
            assert abs(int(x[0].float().mean()) - 20 * int(Path(name).stem)) <= 2


def test_what_is_not_at_hand_is_told_how_to_bring(tmp_path, monkeypatch):
    for name in known_pictures.FOLDERS:
        with pytest.raises(
            InputError, match=f"{name} is not at hand: .*; place its folder as {name} in the folder that"
        ):
            load(name)
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    (tmp_path / "camvid").mkdir()
    with pytest.raises(InputError, match="holds no .jpg"):
        load("camvid")
