"""Pictures with masks, from every layout; what is wrong with a file is told by its name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ptheta.data import instances, nested, rle
from ptheta.engine.errors import InputError, UsageError

PICTURE = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
LEFT, DISC = np.zeros((40, 60), bool), np.hypot(*(np.mgrid[:40, :60] - np.array([20, 40])[:, None, None])) < 9
LEFT[:, :20] = True


def sa_1b(folder: Path, masks=(LEFT, DISC), name="a", picture=PICTURE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    told = [{"segmentation": rle.compressed(rle.encode(mask))} for mask in masks]
    about = {"file_name": f"{name}.jpg", "height": 40, "width": 60}
    (folder / f"{name}.json").write_text(json.dumps({"image": about, "annotations": told}))
    return folder


def coco(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PICTURE).save(folder / "a.jpg")
    Image.fromarray(PICTURE).save(folder / "empty.jpg")
    images = [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}, {"id": 8, "file_name": "empty.jpg"}]
    told = [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 40, 0, 40]]},
        {"id": 2, "image_id": 7, "category_id": 1, "segmentation": rle.encode(DISC)},
    ]
    about = {"description": "x" * 100_000}  # what comes first is not always the images
    content = {"info": about, "annotations": told, "images": images, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def of(data: instances.InstanceData) -> list[np.ndarray]:
    return [one.mask(i) for one in data.split("train") for i in range(len(one.masks))]


@pytest.mark.parametrize("layout", [sa_1b, coco, lambda folder: coco(folder) / "instances.json"])
def test_masks_of_files_are_those_that_were_written(layout, tmp_path):
    data = instances.load(layout(tmp_path / "set"), size=60)
    assert [one.picture.shape for one in data.split("train")] == [(3, 40, 60)]
    found = of(data)
    assert len(found) == 2 and all(np.array_equal(a, b) for a, b in zip(found, (LEFT, DISC)))


def test_masks_are_called_by_their_category_or_name(tmp_path):
    assert instances.load(coco(tmp_path / "coco"), size=60).split("train")[0].names == ("thing", "thing")
    folder = sa_1b(tmp_path / "set")
    assert instances.load(folder, size=60).split("train")[0].names == ()
    told = json.loads((folder / "a.json").read_text())
    told["annotations"][1]["name"] = "a disc"
    (folder / "a.json").write_text(json.dumps(told))
    assert instances.load(folder, size=60).split("train")[0].names == ("", "a disc")


def test_every_persons_regions_are_masks_of_theirs(tmp_path):
    """1 and 2 are masks; 0 beside them is nothing, and 65535 neither."""
    Image.fromarray(PICTURE).save(tmp_path / "b.jpg")
    first = np.where(DISC, 2, np.where(LEFT, 1, 0)).astype(np.uint16)
    second = np.where(DISC, 65535, 3).astype(np.uint16)
    for k, y in enumerate((first, second)):
        Image.fromarray(y).save(tmp_path / f"b_{k}.png")
    (example,) = instances.load(tmp_path, size=60).split("train")
    assert example.annotator == (0, 0, 1)
    wanted = (LEFT & ~DISC, DISC, ~DISC)
    assert all(np.array_equal(example.mask(i), mask) for i, mask in enumerate(wanted))


def test_maps_may_lie_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "masks").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "images/c.png")
    Image.fromarray(DISC.astype(np.uint8)).save(tmp_path / "masks/c.png")
    assert np.array_equal(of(instances.load(tmp_path, size=60))[0], DISC)
    Image.fromarray(PICTURE).save(tmp_path / "images/d.png")
    with pytest.raises(InputError, match=r"images/d.png has no masks beside it; allowed: d.json, d.png or _0.png"):
        instances.load(tmp_path, size=60)


def test_pictures_and_masks_are_scaled_together(tmp_path):
    (example,) = instances.load(sa_1b(tmp_path), size=120).split("train")
    assert example.picture.shape == (3, 80, 120)
    assert np.array_equal(example.mask(0), LEFT.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(example.mask(1), DISC.repeat(2, 0).repeat(2, 1))


def test_splits_are_those_of_the_folder_or_drawn_once(tmp_path):
    for split in ("train", "val"):
        sa_1b(tmp_path / "own" / split, name=split)
    own = instances.load(tmp_path / "own", size=64)
    assert own.splits == ("train", "valid") and own.split("valid")[0].name.endswith("val.jpg")
    for i in range(20):
        sa_1b(tmp_path / "drawn", name=str(i))
    drawn = instances.load(tmp_path / "drawn", size=64)
    assert [len(drawn.split(s)) for s in drawn.splits] == [16, 2, 2]
    names = [one.name for s in drawn.splits for one in drawn.split(s)]
    assert len(set(names)) == 20 and names == [
        one.name for s in drawn.splits for one in instances.load(tmp_path / "drawn", size=64).split(s)
    ]


def test_scenes_are_those_of_nested():
    data = instances.load("nested", size=64)
    assert [len(data.split(s)) for s in data.splits] == [3000, 100, 200]
    example, scene = data.split("valid")[5], nested.scene(0, "valid", 5, 64)
    assert np.array_equal(example.picture, scene.picture)
    assert np.array_equal(np.stack([example.mask(i) for i in range(len(example.masks))]), scene.masks)
    assert data.split("valid")[5] is example and len(data.split("test")[2:4]) == 2
    with pytest.raises(IndexError):
        data.split("valid")[100]


def test_two_sets_are_joined_in_turns(tmp_path):
    data = instances.load(f"nested+{sa_1b(tmp_path)}", size=64)
    assert [part.name for part in data.parts] == ["nested", str(tmp_path)]
    first = data.split("train")[:3]
    assert [Path(one.name).name for one in first] == ["train 0", "a.jpg", "train 1"]
    assert len(data.split("train")) == 3001 and len(data.split("valid")) == 100
    assert data.fingerprint() == "+".join(part.fingerprint() for part in data.parts)


def test_a_fingerprint_knows_a_mask_that_changed(tmp_path):
    before = instances.load(sa_1b(tmp_path / "a"), size=64).fingerprint()
    assert instances.load(tmp_path / "a", size=64).fingerprint() == before
    assert instances.load(sa_1b(tmp_path / "b", (LEFT, ~DISC)), size=64).fingerprint() != before


def test_sets_of_an_engine_are_put_together(tmp_path):
    for name in ("1-assisted", "2-semi"):
        sa_1b(tmp_path / name)
    valid = instances.load("nested", size=64).split("valid")[:2]
    data = instances.together([tmp_path / "1-assisted", tmp_path / "2-semi"], 64, valid)
    assert (len(data.split("train")), list(data.split("valid"))) == (2, list(valid))
    assert instances.together([tmp_path / "2-semi"], 64, []).splits == ("train",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: sa_1b(f, picture=PICTURE[:30]), r"a.json, mask 1, is of \(40, 60\), its picture of \(30, 60\)"),
        (lambda f: (sa_1b(f) / "a.json").write_text("{}"), r"a.json has no masks \(KeyError\('annotations'\)\)"),
        (lambda f: (sa_1b(f) / "a.json").write_text('{"annotations": [{"segmentation": {"size": [2, 2]}}]}'),
         "run-length"),
        (lambda f: sa_1b(f, masks=()), "has no mask in any of its 1 pictures"),
        (lambda f: f.mkdir(), "has no picture with masks; allowed: a.jpg with a.json"),
        (lambda f: (sa_1b(f) / "a.json").unlink(), "a.jpg has no masks beside it"),
        (lambda f: (coco(f) / "instances.json").write_text('{"images": [], "annotations": 3}'), "no COCO file"),
        (lambda f: (coco(f) / "a.jpg").unlink(), "names a.jpg, which is in none of"),
        (lambda f: (sa_1b(f) / "a.jpg").write_bytes(b"no"), "a.jpg cannot be read as a picture"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_file(spoil, message, tmp_path):
    spoil(tmp_path / "set")
    with pytest.raises(InputError, match=message) as error:
        instances.load(tmp_path / "set", size=64)
    assert "\n" not in str(error.value)


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="allowed: nested, bsds500"):
        instances.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="data is a int"):
        instances.load(3)
    with pytest.raises(UsageError, match="split of nested 'vaild' is unknown.*Did you mean 'valid'"):
        instances.load("nested").split("vaild")
