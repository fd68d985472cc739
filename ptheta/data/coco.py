r"""Label maps from a COCO file: instances (polygons, run lengths) and panoptic segments.

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
A. Kirillov, K. He, R. Girshick, C. Rother and P. Dollár, "Panoptic Segmentation", CVPR 2019.

Of instances, a pixel has the category of the smallest annotation that covers it, and the class "background", 0, where
none does; a picture without annotations is all background. Of panoptic segments, a pixel's id is R + 256 G + 65536 B of
the PNG beside the file, what no segment has is not to be learned, and a picture without annotation is left out. Classes
are the categories in the order of their ids.

Pictures are looked for by their file_name in the file's folder, in images/ there, and where COCO has them: of
annotations/instances_val2017.json in val2017/ beside annotations/. The PNGs of panoptic_val2017.json are in
panoptic_val2017/ beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ptheta.data import rle
from ptheta.engine.errors import InputError

Read = tuple[list[Path], list[Any], tuple[str, ...]]  # pictures, a function that gives each one's map, names of classes


def read(file: Path, unlearned: int) -> Read:
    """The pictures of a COCO file, a function for each that gives its label map (H, W), and the classes.

    Raises InputError for a file that is not COCO's, a picture that is nowhere, and an annotation that cannot be drawn.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images, annotations, categories = (content[k] for k in ("images", "annotations", "categories"))
        categories = sorted(categories, key=lambda c: c["id"])
        index = {c["id"]: i for i, c in enumerate(categories)}
        names = tuple(str(c["name"]) for c in categories)
        of_image: dict[Any, list[dict]] = {one["id"]: [] for one in images}
        panoptic = any("segments_info" in one for one in annotations)
        for one in annotations:
            of_image[one["image_id"]].append(one)
            for part in one["segments_info"] if panoptic else [one]:
                if part["category_id"] not in index:
                    raise ValueError(f"a category {part['category_id']} that is not among its categories")
            if panoptic:
                str(one["file_name"])
        sides = {one["id"]: (int(one["height"]), int(one["width"])) for one in images if not panoptic}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file} is no COCO file ({what}); allowed: images, annotations and categories.") from None
    if not annotations:
        raise InputError(f"{file} has no picture with an annotation; give another file.")
    images = [one for one in images if of_image[one["id"]] or not panoptic]
    pictures = [found(one, file) for one in images]
    if panoptic:
        folder = file.with_suffix("")
        maps = [Panoptic(folder, of_image[one["id"]][0], index, unlearned, file) for one in images]
        return pictures, maps, names
    index = {k: i + 1 for k, i in index.items()}
    maps = [Instances(sides[one["id"]], of_image[one["id"]], index, file) for one in images]
    return pictures, maps, ("background", *names)


def instances(file: Path) -> dict[Path, list[tuple[Any, str]]]:
    """The segmentations of each picture of a COCO file of instances that has some, and the names of their categories,
    "" where there is none. Raises InputError for another file, or a picture that is nowhere."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        of_image: dict[Any, list[tuple[Any, str]]] = {one["id"]: [] for one in content["images"]}
        called = {one["id"]: str(one.get("name", "")) for one in content.get("categories", [])}
        for one in content["annotations"]:
            if told := one.get("segmentation"):
                of_image[one["image_id"]].append((told, called.get(one.get("category_id"), "")))
        masked = [one for one in content["images"] if of_image[one["id"]]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file} is no COCO file ({what}); allowed: images, annotations and categories.") from None
    return {found(one, file): of_image[one["id"]] for one in masked}


def polygons(told: list[Any], shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) within any of several polygons. Raises InputError where what draws them is not installed."""
    try:
        from pycocotools import mask
    except ImportError:
        raise InputError("polygons need pycocotools; install it: pip install 'ptheta[segmentation]'.") from None
    return mask.decode(mask.merge(mask.frPyObjects(told, *shape))).astype(bool)


def found(image: dict, file: Path) -> Path:
    """The picture of an entry of "images"."""
    split = file.stem.rsplit("_", 1)[-1]
    folders = [file.parent, file.parent / "images", file.parent.parent / split, file.parent.parent / "images" / split,
               file.parent.parent / "images"]  # fmt: skip
    for folder in folders:
        if (path := folder / str(image.get("file_name"))).is_file():
            return path
    looked = ", ".join(dict.fromkeys(map(str, folders)))
    raise InputError(f"{file} names {image.get('file_name')}, which is in none of {looked}.")


class Instances:
    """The map of one picture's instances."""

    def __init__(self, shape: tuple[int, int], annotations: list[dict], index: dict[Any, int], file: Path):
        self.shape, self.annotations, self.index, self.file = shape, annotations, index, file

    def __call__(self) -> np.ndarray:
        drawn = []
        for one in self.annotations:
            told: Any = one.get("segmentation")
            try:
                inside = polygons(told, self.shape) if isinstance(told, list) else rle.decode(told)
                drawn.append((int(inside.sum()), self.index[one["category_id"]], inside))
            except Exception as error:  # pycocotools raises whatever it meets
                reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
                raise InputError(
                    f"{self.file}: annotation {one.get('id')} cannot be drawn ({reason}); repair or remove it."
                ) from None
        y = np.zeros(self.shape, np.int64)
        for _, label, inside in sorted(drawn, key=lambda d: -d[0]):
            if inside.shape != self.shape:
                raise InputError(f"{self.file}: a mask is {inside.shape}, its picture {self.shape}; allowed: the same.")
            y[inside] = label
        return y


class Panoptic:
    """The map of one picture's segments."""

    def __init__(self, folder: Path, annotation: dict, index: dict[Any, int], unlearned: int, file: Path):
        self.path, self.segments = folder / str(annotation["file_name"]), annotation["segments_info"]
        self.index, self.unlearned, self.file = index, unlearned, file

    def __call__(self) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(self.path) as opened:
                rgb = np.array(opened.convert("RGB")).astype(np.int64)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error}); the PNGs of {self.file.name} belong there."
            ) from None
        ids, at = np.unique(rgb @ [1, 256, 65536], return_inverse=True)
        label = {one["id"]: self.index[one["category_id"]] for one in self.segments}
        return np.array([label.get(i, self.unlearned) for i in ids.tolist()])[at].reshape(rgb.shape[:2])
