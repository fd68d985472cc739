"""A user's folder of pictures: every mode, damage, classes, splits, captions."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import write

from ptheta.data import folders
from ptheta.data.pictures import PictureData, load
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")

HALF = np.repeat(np.array([[255, 255, 255, 255, 0, 0, 0, 0]], np.uint8), 8, axis=0)  # left half white


def picture(path: Path, values=HALF, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def flat(path: Path, value: int, colour: bool = False) -> Path:
    """A picture of one value, by which it is known again; in the red channel if it is in colour."""
    values = np.full((8, 8, 3), (value, 0, 0), np.uint8) if colour else np.full((8, 8), value, np.uint8)
    return picture(path, values)


def told(data: PictureData) -> dict[str, list]:
    """{split: [(name, value, class or None, caption or None), …]} of flat pictures."""
    out = {}
    for split in data.splits:
        x, y, captions = data.split(split), data.labels(split), data.captions(split)
        classes = [None] * len(x) if y is None else [data.classes[c] for c in y.tolist()]
        names = data.names(split) or []
        assert len(names) == len(classes) == len(x) == len(captions or x)
        out[split] = list(zip(names, x[:, 0, 0, 0].tolist(), classes, captions or [None] * len(x)))
    return out


# ---------------------------------------------------------------- pictures


def test_grey_pictures_of_every_mode_are_read_as_what_one_sees(tmp_path):
    alpha = np.stack([np.zeros_like(HALF), 255 - HALF], -1)  # black, and transparent where HALF is white
    picture(tmp_path / "l.png")
    picture(tmp_path / "one.png", HALF, "1")
    picture(tmp_path / "sixteen.png", HALF.astype(np.uint16) * 257)
    picture(tmp_path / "sixteen.tif", HALF.astype(np.uint16) * 257)
    picture(tmp_path / "la.png", alpha)
    picture(tmp_path / "bmp.bmp")
    data = load(tmp_path, size=8)
    assert data.shape == (1, 8, 8), "grey with transparency is grey"
    assert all(np.array_equal(x[0], HALF) for x in data.split("train")) and len(data.split("train")) == 6


def test_pictures_in_colour_of_every_mode_are_read_as_what_one_sees(tmp_path):
    rgb = np.stack([HALF, HALF // 5, 255 - HALF], -1)
    see_through = np.concatenate([rgb, HALF[..., None]], -1)  # blue shows only where it does not
    palette = Image.fromarray(see_through).quantize(4, Image.Quantize.FASTOCTREE)
    picture(tmp_path / "a.png", rgb)
    picture(tmp_path / "b.tif", rgb, "CMYK")
    picture(tmp_path / "c.png", rgb, "P")
    picture(tmp_path / "d.webp", rgb, lossless=True)
    picture(tmp_path / "e.png", see_through)
    picture(tmp_path / "f.png", palette)
    picture(tmp_path / "g.png")
    x, seen = load(tmp_path, size=8).split("train"), rgb.transpose(2, 0, 1).astype(int)
    for i in range(4):
        assert np.abs(x[i].numpy().astype(int) - seen).max() <= 8
    white = np.where(HALF > 0, seen, 255)
    assert np.array_equal(x[4], white) and np.abs(x[5].numpy().astype(int) - white).max() <= 8
    assert np.array_equal(x[6], [HALF] * 3), "a grey picture among those in colour is that in three channels"


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path):
    values = np.full((8, 8), 200 * 257, np.uint16)
    picture(tmp_path / "a.png", values)
    picture(tmp_path / "b.tif", values.astype(np.int32))
    assert load(tmp_path, size=1).split("train").flatten().tolist() == [200] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    corner = np.zeros((16, 16), np.uint8)
    corner[:8, :8] = 200  # stored: the upper left quarter is light
    image = Image.fromarray(corner)
    exif = image.getexif()
    exif[0x0112] = orientation
    picture(tmp_path / "a.png", image, exif=exif)
    seen = load(tmp_path, size=2).split("train")[0, 0].tolist()
    row, column = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert [[v > 100 for v in line] for line in seen] == [[(r, c) == (row, column) for c in range(2)] for r in range(2)]


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_square_is_cut_out(tmp_path, turned):
    long = np.zeros((4, 12), np.uint8)
    long[:, 4:8] = 255
    picture(tmp_path / "a.png", long.T if turned else long)
    assert load(tmp_path, size=4).split("train").unique().tolist() == [255]


def test_what_cannot_be_read_is_named_and_left_out_only_when_asked(tmp_path):
    whole = picture(tmp_path / "good" / "a.png", np.random.RandomState(0).randint(0, 256, (40, 40)).astype(np.uint8))
    for name, content in {"cut.png": whole.read_bytes()[:700], "text.jpg": b"no picture", "void.gif": b""}.items():
        write(tmp_path / name, content)
    picture(tmp_path / "thin.png", HALF[:3])
    picture(tmp_path / "float.tif", HALF.astype(np.float32))
    with pytest.raises(
        InputError, match="5 of 6 pictures cannot be read: .*cut.png.*; …; .*--skip-unreadable"
    ) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    data = load(tmp_path, skip_unreadable=True)
    assert data.names("train") == [os.path.join("good", "a.png")]
    assert "5 unreadable ones left out, the first of them cut.png" in data.origin and "1 cut and scaled" in data.origin
    for name, reason in [("thin", "it is 8x3 pixels; at least 4x4"), ("float", "floats of unknown range")]:
        path = next(tmp_path.glob(f"{name}.*"))
        assert reason in str(folders._decode(path, 8))
    whole.unlink()
    with pytest.raises(InputError, match="5 of 5 pictures cannot be read: .*; repair them$"):
        load(tmp_path, skip_unreadable=True)


def test_a_folder_without_pictures_is_refused(tmp_path):
    write(tmp_path / "notes.txt", "nothing")
    write(tmp_path / ".hidden.png", "nothing")
    with pytest.raises(InputError, match=r"holds no pictures \(png, jpg"):
        load(tmp_path)


def test_pictures_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    write(tmp_path / "a.png", "not even a picture")
    monkeypatch.setattr(folders, "memory", lambda: 2.0**30)
    with pytest.raises(InputError, match=r"1 pictures of 20000x20000 need 2.2 GiB, and 1.0 GiB are free; .*--size"):
        load(tmp_path, size=20_000)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path, size=10_000)  # 0.56 GiB


def test_memory_that_holds_copies_of_files_counts_as_free(monkeypatch):
    told = "MemTotal:  900 kB\nMemFree:     1 kB\nMemAvailable:  50 kB\n"
    monkeypatch.setattr(folders.Path, "read_text", lambda path: told if str(path) == "/proc/meminfo" else "")
    assert folders.memory() == 50 * 1024
    monkeypatch.setattr(folders.Path, "read_text", lambda path: "on another system")
    assert folders.memory() > 2**20


# ---------------------------------------------------------------- classes and splits


def test_sub_folders_are_classes(tmp_path):
    kinds = ["cat", "dog", "emu"]
    for i in range(30):
        flat(tmp_path / kinds[i % 3] / "deep" / f"{i}.png", i)
    data = load(tmp_path, size=4)
    assert data.classes == ("cat", "dog", "emu") and data.splits == ("train", "valid", "test")
    rows = [row for split in told(data).values() for row in split]
    assert sorted(value for _, value, _, _ in rows) == list(range(30))
    assert all(kind == kinds[v % 3] and name == os.path.join(kind, "deep", f"{v}.png") for name, v, kind, _ in rows)
    flat(tmp_path / "loose.png", 99)
    assert load(tmp_path).classes == () and load(tmp_path).labels("train") is None


def test_folders_of_splits_are_splits_and_those_below_them_classes(tmp_path):
    places = {"train/b": 1, "train/c": 2, "Val/c": 3, "TEST/a": 4}
    for place, value in places.items():
        flat(tmp_path / place / "x.png", value, colour=value == 3)
    data = load(tmp_path, size=4)
    assert data.classes == ("a", "b", "c") and data.shape == (3, 4, 4) and "own splits" in data.origin
    assert {s: [(v, c) for _, v, c, _ in rows] for s, rows in told(data).items()} == {
        "train": [(1, "b"), (2, "c")], "valid": [(3, "c")], "test": [(4, "a")],
    }  # fmt: skip
    flat(tmp_path / "test" / "loose.png", 5)
    assert load(tmp_path).labels("test") is None, "where one has no class, none has"


def test_folders_of_splits_beside_other_pictures_are_not_mixed_silently(tmp_path):
    for i in range(12):
        flat(tmp_path / "train" / f"{i}.png", i)
    flat(tmp_path / "bus" / "x.png", 99)
    assert load(tmp_path).classes == ("bus", "train"), "a train may be a class"
    flat(tmp_path / "test" / "x.png", 98)
    with pytest.raises(InputError, match="folders for test and train, and not .*the first elsewhere: x.png.*move"):
        load(tmp_path)
    (tmp_path / "bus" / "x.png").unlink()
    assert load(tmp_path).splits == ("train", "test")
    (tmp_path / "train").rename(tmp_path / "val")
    with pytest.raises(InputError, match="folders for test and valid, .*there is no folder train"):
        load(tmp_path)


# ---------------------------------------------------------------- captions


@pytest.mark.parametrize("key", ["path", "name", "stem"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("apart", [False, True])
def test_captions_belong_to_their_pictures(tmp_path, ending, key, apart):
    """As a table calls them, with commas, quotes and line separators in the text."""
    rows = []
    for i in range(25):
        path = flat(tmp_path / ("even" if i % 2 == 0 else "odd") / f"{i}.png", i)
        name = {"path": path.relative_to(tmp_path).as_posix(), "name": path.name, "stem": path.stem}[key]
        rows.append((name, f'picture, "{i}"\u2028of many\nall grey'))
    table = tmp_path / ("mine" if apart else "captions")
    if ending == "csv":
        lines = ["\ufefftitle,file,more"] + [f'"{text.replace(chr(34), chr(34) * 2)}",{n},1' for n, text in rows]
    else:
        lines = [json.dumps({"text": text, "image": n}, ensure_ascii=False) for n, text in rows]
    table = write(table.with_suffix(f".{ending}"), "\r\n".join(lines) + "\n\n")
    data = load(table if apart else tmp_path, size=4)
    assert data.classes == ("even", "odd")
    for split in told(data).values():
        for _, i, kind, text in split:
            assert text == f'picture, "{i}"\u2028of many\nall grey' and kind == ("even", "odd")[i % 2]
    assert sum(map(len, told(data).values())) == 25


def test_captions_and_pictures_without_each_other(tmp_path):
    for i in range(3):
        flat(tmp_path / f"{i}.png", i)
    table = write(tmp_path / "captions.csv", "file,caption\n0.png,nought\n2.png,two\n7.png,seven\n")
    for spec in (tmp_path, table):
        with pytest.raises(
            InputError,
            match="1 pictures have no caption .the first: 1.png. and 1 captions have no picture .the first: 7.png",
        ) as error:
            load(spec)
        assert "\n" not in str(error.value)
        data = load(spec, skip_unreadable=True)
        assert told(data) == {"train": [("0.png", 0, None, "nought"), ("2.png", 2, None, "two")]}
        assert "1 without a caption left out" in data.origin
    write(table, "file,caption\n7.png,seven\n")
    with pytest.raises(InputError, match="3 pictures have no caption"):
        load(tmp_path, skip_unreadable=True)
    write(tmp_path / "2.png", "damaged")
    write(table, "file,caption\n1.png,one\n2.png,two\n0.png,nought\n0.png,zero\n")
    data = load(tmp_path, skip_unreadable=True)
    assert told(data) == {"train": [("0.png", 0, None, "nought\x1ezero"), ("1.png", 1, None, "one")]}


def test_pictures_of_one_name_are_not_given_one_text(tmp_path):
    flat(tmp_path / "cat" / "1.png", 1)
    flat(tmp_path / "dog" / "1.png", 2)
    table = write(tmp_path / "captions.csv", "file,caption\n1.png,a cat\n1.png,a dog\n")
    with pytest.raises(InputError, match="several pictures are called 1.png; name each by its path below"):
        load(tmp_path)
    write(table, "file,caption\ncat/1.png,a cat\ndog/1.png,a dog\n")
    assert load(tmp_path).captions("train") == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.csv", "", "holds no rows with named columns; it needs file and caption"),
     ("a.csv", "x,y\n1,2\n", r"has the columns x, y; it needs one of file, .* and one of caption, text"),
     ("a.csv", "file,caption\n1.png,\n", "1 rows have no file or no text, the first '1.png'"),
     ("a.csv", "file,caption\n1.png,a\n,b\n", "1 rows have no file or no text, the first ''"),
     ("a.csv", b"file,caption\n1.png,\xff\n", "cannot be read as a table"),
     ("a.jsonl", "{]", "cannot be read as a table"), ("a.jsonl", "[1]\n", "no rows with named columns"),
     ("a.jsonl", '{"file": "1.png", "caption": null}', "no file or no text"),
     ("a.jsonl", '{"file": "1.png", "caption": ["a", "b"]}', "1 rows have no single text")],
)  # fmt: skip
def test_tables_that_say_nothing_are_refused(tmp_path, name, content, message):
    flat(tmp_path / "1.png", 1)
    with pytest.raises(InputError, match=message) as error:
        load(write(tmp_path / name, content))
    assert "\n" not in str(error.value) and name in str(error.value)


def test_order_does_not_depend_on_how_they_were_written(tmp_path):
    for folder, order in (("a", range(15)), ("b", reversed(range(15)))):
        for i in order:
            flat(tmp_path / folder / f"{i:02}.png", i)
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    assert told(one) == told(other) and torch.equal(one.split("test"), other.split("test"))
