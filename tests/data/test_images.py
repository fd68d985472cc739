"""Folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
from samples import write

from ptheta.data.binary import load
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")


def picture(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


HALF = np.repeat(np.array([[255, 255, 0, 0]], np.uint8), 4, axis=0)  # left half white


def test_a_folder_of_pictures(tmp_path):
    for name in ("b.png", "c.bmp", "d.gif", "e.tif", "deep/er/a.PNG", "f.webp", "g.jpg"):
        picture(tmp_path / name, np.kron(HALF, np.ones((8, 8), np.uint8)))
    write(tmp_path / ".hidden.png", "not a picture")
    write(tmp_path / "notes.txt", "not a picture")
    data = load(tmp_path, size=2)
    assert (data.n, data.shape, data.splits) == (4, (2, 2), ("train",))
    assert data.split("train").tolist() == [[1, 0, 1, 0]] * 7
    assert "2x2" in data.origin and "0.5 of white" in data.origin and "7 rows" in data.origin
    assert load(tmp_path, size=8).split("train").sum() == 7 * 32


def test_pictures_are_sorted_and_split_like_rows(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i:02}.png", np.full((2, 2), 255 * (i % 3 == 0), np.uint8))
    data = load(tmp_path, size=1)
    assert [len(data.split(split)) for split in data.splits] == [16, 2, 2]
    wanted = load(np.array([[i % 3 == 0] for i in range(20)]))
    assert data.fingerprint() == wanted.fingerprint()


def test_the_threshold_is_of_the_mean_grey_value(tmp_path):
    picture(tmp_path / "a.png", np.array([[0, 0], [255, 153]], np.uint8))  # mean 0.4
    assert load(tmp_path, size=1, threshold=0.39).split("train").tolist() == [[1]]
    assert load(tmp_path, size=1, threshold=0.41).split("train").tolist() == [[0]]


def test_pictures_of_every_mode(tmp_path):
    transparent = np.zeros((4, 4, 4), np.uint8)
    transparent[:, 2:, 3] = 255  # the left half shows the white ground, the right is black
    picture(tmp_path / "rgba.png", transparent)
    picture(tmp_path / "one.png", HALF, "1")
    picture(tmp_path / "palette.png", HALF, "P")
    picture(tmp_path / "rgb.png", HALF, "RGB")
    picture(tmp_path / "cmyk.tif", HALF, "CMYK")
    picture(tmp_path / "sixteen.png", HALF.astype(np.uint16) * 200)  # 0.78 of white
    sixteen = picture(tmp_path / "dark.png", HALF.astype(np.uint16) * 100)  # 0.39 of white, black by the threshold
    rows = load(tmp_path, size=2).split("train").tolist()
    assert rows.count([1, 0, 1, 0]) == 6 and rows.count([0, 0, 0, 0]) == 1 and sixteen.exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "damaged", "float"])
def test_a_broken_picture_is_named(tmp_path, damage):
    random = np.random.RandomState(0).randint(0, 256, (40, 40)).astype(np.uint8)
    picture(tmp_path / "a.png", random)
    whole = picture(tmp_path / "fine.png", random).read_bytes()
    broken = tmp_path / "deep" / ("broken.tif" if damage == "float" else "broken.png")
    if damage == "float":
        picture(broken, random.astype(np.float32))
    else:
        middle = len(whole) // 2
        content = {"truncated": whole[:middle], "text": b"no picture", "empty": b""}
        write(broken, content.get(damage, whole[:middle] + bytes(200) + whole[middle + 200 :]))
    with pytest.raises(InputError, match="deep/broken.* cannot be read as a picture") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
