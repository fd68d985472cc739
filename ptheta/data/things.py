r"""Things by themselves: crops of pictures around masks, and the set `things`, where each crop has a name.

A. Kirillov et al., "Segment Anything", ICCV 2023 (D.5: crops of masks for prompts in words).

A crop is a square around the mask's box, so many times as wide as the box's longer side, moved into the picture where
it reaches out of it, and scaled. `things` has the wholes of the scenes of `nested`, as they are called: "a red disc".
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ptheta.data import nested
from ptheta.data.pictures import Parts, PictureData

SCENES, SIDE = {"train": 1500, "valid": 100, "test": 200}, 128
WIDER = (1.0, 1.5, 2.0)


def crop(x: np.ndarray, mask: np.ndarray, size: int, wider: float = 1.0) -> np.ndarray:
    """Of a picture (3, H, W) and a mask (H, W) that is not empty, uint8 (3, size, size)."""
    from PIL import Image

    ends = []
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = min(float(wider * longer), *map(float, mask.shape))
    for at, most in ((columns, mask.shape[1]), (rows, mask.shape[0])):
        first = min(max((at[0] + at[-1] + 1 - side) / 2, 0.0), most - side)
        ends.append((first, first + side))
    (left, right), (top, bottom) = ends
    image = Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)))
    scaled = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, right, bottom))
    return np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))


def pictures(size: int) -> PictureData:
    """The set `things`."""
    counts = "/".join(f"{n:,}" for n in SCENES.values())
    origin = f"the wholes of {counts} scenes of nested, cut out and scaled to {size}x{size}, with their names."
    names = tuple(sorted({f"{colour} {kind}" for colour in nested.COLOURS for kind in nested.WHOLES}))
    read = {}
    for split in SCENES:
        read |= {key: partial(_read, split, size, names) for key in (split, f"{split}_labels", f"{split}_captions")}
    return PictureData("things", (3, size, size), origin, names, read)


def _read(split: str, size: int, names: tuple[str, ...]) -> Parts:
    x, said = [], []
    for i in range(SCENES[split]):
        scene = nested.scene(1, split, i, SIDE)  # others than those that masks are learned from
        for mask, level, name in zip(scene.masks, scene.level, scene.names):
            if level == 0:
                x.append(crop(scene.picture, mask, size, WIDER[len(x) % len(WIDER)]))
                said.append(name)
    y = np.array([names.index(name.split(" ", 1)[1]) for name in said])
    return {split: np.stack(x), f"{split}_labels": y, f"{split}_captions": said}
