"""COCO files: polygons, run lengths and panoptic segments become label maps, as a hand would paint them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ptheta.data.label_maps import load
from ptheta.engine.errors import InputError

pytest.importorskip("pycocotools")

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]  # in the order of their ids: cat 1, dog 2


def lengths(mask: np.ndarray) -> dict:
    """Uncompressed run lengths, column by column, zeros first."""
    counts, now = [0], 0
    for bit in mask.T.ravel().astype(int).tolist():
        if bit != now:
            counts.append(0)
            now = bit
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def instances(
    folder: Path, annotations: list[dict], pictures: int = 1, at: str = "images", name="instances.json"
) -> Path:
    (folder / at).mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(pictures):
        x = np.random.RandomState(i).randint(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(x).save(folder / at / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 20, "width": 30})
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return file


def square(r: int, c: int, side: int) -> list[list[float]]:
    return [[c, r, c + side, r, c + side, r + side, c, r + side]]


def annotation(i: int, category: int, segmentation, image: int = 0) -> dict:
    return {"id": i, "image_id": image, "category_id": category, "segmentation": segmentation}


def test_polygons_and_run_lengths_are_painted_the_smallest_on_top(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[12:18, 20:28] = True
    data = load(instances(tmp_path, [
        annotation(0, 3, square(4, 5, 3)),  # a cat on a dog, listed first
        annotation(1, 7, square(2, 3, 10)),
        annotation(2, 3, lengths(mask)),
    ]))  # fmt: skip
    want = np.zeros((20, 30), int)
    want[2:12, 3:13], want[4:7, 5:8], want[12:18, 20:28] = 2, 1, 1
    assert data.classes == ("background", "cat", "dog")
    assert np.array_equal(data.maps("train")[0], want)


def test_compressed_run_lengths_are_read(tmp_path):
    from pycocotools import mask as tool

    mask = np.random.RandomState(0).rand(20, 30) < 0.3
    told = tool.encode(np.asfortranarray(mask.astype(np.uint8)))
    told = {"size": [20, 30], "counts": told["counts"].decode()}
    data = load(instances(tmp_path, [annotation(0, 7, told)]))
    assert np.array_equal(data.maps("train")[0].numpy() == 2, mask)


def test_a_polygon_of_any_shape_is_close_to_pillows(tmp_path):
    points = [3.0, 2.0, 27.0, 5.0, 15.0, 18.0]
    image = Image.new("L", (30, 20))
    ImageDraw.Draw(image).polygon(points, fill=1)
    got = load(instances(tmp_path, [annotation(0, 3, [points])])).maps("train")[0].numpy() == 1
    want = np.asarray(image) == 1
    assert (got & want).sum() / (got | want).sum() > 0.8


@pytest.mark.parametrize(
    ("at", "name"), [(".", "a.json"), ("images", "a.json"), ("val2017", "annotations/instances_val2017.json")]
)
def test_pictures_are_found_where_coco_has_them(tmp_path, at, name):
    file = instances(tmp_path, [annotation(0, 3, square(1, 1, 5)), annotation(1, 7, square(1, 1, 5), 1)], 3, at, name)
    data = load(file)
    assert sum(len(data.split(s)) for s in data.splits) == 3
    assert sum(int((data.maps(s) > 0).any((1, 2)).sum()) for s in data.splits) == 2, "one is all background"


def test_panoptic_segments_have_the_class_of_their_id(tmp_path):
    ids = np.random.RandomState(0).choice([0, 5, 70_000, 300], (20, 30))
    (tmp_path / "panoptic_val").mkdir(), (tmp_path / "val").mkdir()
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], 2).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "panoptic_val/0.png")
    Image.fromarray(rgb).save(tmp_path / "val/0.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "panoptic_val").rename(tmp_path / "annotations/panoptic_val")
    segments = [{"id": 5, "category_id": 7}, {"id": 70_000, "category_id": 3}, {"id": 300, "category_id": 7}]
    (tmp_path / "annotations/panoptic_val.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "0.jpg", "height": 20, "width": 30}], "categories": CATEGORIES,
        "annotations": [{"image_id": 1, "file_name": "0.png", "segments_info": segments}],
    }))  # fmt: skip
    data = load(tmp_path / "annotations/panoptic_val.json")
    want = np.select([ids == 0, ids == 70_000], [255, 0], 1)
    assert data.classes == ("cat", "dog") and np.array_equal(data.maps("train")[0], want)


def test_what_is_no_coco_file_is_told(tmp_path):
    def refused(file: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            load(file)
        assert "\n" not in str(error.value)

    good = json.loads(instances(tmp_path, [annotation(0, 3, square(1, 1, 5))]).read_text())
    file = tmp_path / "some.json"
    for content, message in (
        ("{", "some.json is no COCO file"),
        (json.dumps([1]), "some.json is no COCO file"),
        (json.dumps({k: good[k] for k in ("images", "categories")}), "no 'annotations'"),
        (json.dumps({**good, "annotations": []}), "has no picture with an annotation"),
        (json.dumps({**good, "annotations": [annotation(0, 3, square(1, 1, 5), 99)]}), "is no COCO file"),
        (json.dumps({**good, "annotations": [annotation(4, 99, square(1, 1, 5))]}), "a category 99 that is not among"),
        (json.dumps({**good, "images": [{"id": 0, "file_name": "0.png"}]}), "no 'height'"),
        (
            json.dumps({**good, "annotations": [{"image_id": 0, "segments_info": [{"id": 1, "category_id": 3}]}]}),
            "no 'file_name'",
        ),
        (json.dumps({**good, "annotations": [{"image_id": 0, "segments_info": []}, *good["annotations"]]}), "no '"),
        (json.dumps({**good, "annotations": [annotation(4, 3, {"counts": "x"})]}), "annotation 4 cannot be drawn"),
    ):
        file.write_text(content)
        refused(file, message)
    (tmp_path / "images/0.png").rename(tmp_path / "images/1.png")
    refused(tmp_path / "instances.json", "names 0.png, which is in none of")
    Image.new("RGB", (9, 9)).save(tmp_path / "images/0.png")
    refused(tmp_path / "instances.json", "0.png is 9x9 and its map 20x30; allowed: the same size")
