r"""Sets of pictures with the masks of the things in them: scenes that are drawn, COCO's files, SA-1B's, region maps.

| spec | what |
|---|---|
| `nested` | scenes of wholes, parts and subparts (`nested.py`), drawn when they are asked for |
| `FILE.json` | COCO's instances: polygons or run lengths; where pictures are looked for, `coco.py` says |
| a folder with `a.jpg` and `a.json` | SA-1B's layout, which `ptheta segment` and `ptheta annotate` write too |
| a folder with `a.jpg` and `a.png`, or `a_0.png`, `a_1.png`, … | maps of region numbers, of several people several |
| a folder with `images/` and `labels/`, `masks/` or `annotations/` | the same, maps in a folder of their own |
| `bsds500` | that of the Berkeley segmentation data |
| `A+B` | sets of which each gives as many pictures to a batch; named twice, twice as many |

Folders in it that are called train, val and test are its splits. A picture's longer side is scaled to `size`, its masks
with it. Every number of a region map is a mask, but 0 beside others and 255 (65535 of 16 bits), which are nothing's.
Masks of other people are kept as alternatives: each has the number of who drew it, and those of one person may overlap
only where things have parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptheta.data import nested, rle
from ptheta.data.binary import split_rows
from ptheta.data.folders import memory, own_splits
from ptheta.data.formats import SPLITS
from ptheta.data.images import image_files
from ptheta.data.known_pictures import folder_of
from ptheta.engine.errors import InputError, UsageError, unknown

SIZE = 256
SCENES = {"train": 3000, "valid": 100, "test": 200}


@dataclass(frozen=True)
class Example:
    """A picture and its masks."""

    name: str
    picture: np.ndarray
    """(3, h, w) uint8."""
    masks: tuple[dict[str, Any], ...]
    """Run lengths of n masks (h, w)."""
    annotator: tuple[int, ...]
    """Who drew each."""
    names: tuple[str, ...] = ()
    """What each is called, "" where it has no name; or nothing."""

    def mask(self, i: int) -> np.ndarray:
        """(h, w), bool."""
        return rle.decode(self.masks[i])


@dataclass(frozen=True, eq=False)
class InstanceData:
    """A set: `_read` has for each split a function that gives its examples. `parts` are the sets that were joined."""

    name: str
    size: int
    origin: str
    _read: Mapping[str, Callable[[], Sequence[Example]]]
    parts: tuple[InstanceData, ...] = ()
    words: Any = None
    """A model of pictures and texts, as `clip`, for prompts in words."""
    _cache: dict[str, Sequence[Example]] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Numbers in a picture of full size."""
        return 3 * self.size**2

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self._read)

    def split(self, name: str) -> Sequence[Example]:
        """The examples of a split. Raises UsageError for one that does not exist."""
        if name not in self.splits:
            raise unknown(f"split of {self.name}", name, self.splits)
        if name not in self._cache:
            self._cache[name] = self._read[name]()
        return self._cache[name]

    def masked(self, name: str) -> Sequence[int]:
        """The rows of a split whose pictures have masks. Raises InputError where none has."""
        examples = self.split(name)
        if isinstance(examples, Drawn):  # not to draw them all
            return range(len(examples))
        if rows := [i for i, one in enumerate(examples) if one.masks]:
            return rows
        raise InputError(f"{self.name} has no mask in {name}; give pictures with masks.")

    def spoken(self, model: Any) -> InstanceData:
        """The same set with a model of words. Raises UsageError where it has no common space of pictures and texts."""
        if not (hasattr(model, "image") and hasattr(model, "text")):
            raise UsageError(f"a model of {model.name} has no words; give a run of clip (option --words).")
        return replace(self, words=model.eval())

    def fingerprint(self) -> str:
        """SHA-256 (hex) by which a run knows its data again: of all training pictures and masks that were read from
        files, of the first of those that are drawn."""
        if self.parts:
            return "+".join(part.fingerprint() for part in self.parts)
        train = self.split("train")
        digest = hashlib.sha256(f"{len(train)} {self.size}".encode())
        for i in range(min(len(train), 2 if isinstance(train, Drawn) else len(train))):
            digest.update(np.ascontiguousarray(train[i].picture).data)
            digest.update(repr((train[i].masks, train[i].annotator)).encode())
        return digest.hexdigest()


def load(spec: Any, size: int | None = None) -> InstanceData:
    """The set that `spec` means, see above. Raises InputError for files that cannot be used, and says which."""
    if isinstance(spec, InstanceData):
        return spec
    if not isinstance(spec, str | Path):
        raise UsageError(f"data is a {type(spec).__name__}; allowed: a name, a path, or an InstanceData.")
    size, text = SIZE if size is None else size, str(spec)
    if "+" in text and not Path(text).expanduser().exists():
        names = text.split("+")
        known = {name: load(name, size) for name in dict.fromkeys(names)}
        return joined(text, [known[name] for name in names])
    if text == "nested":
        return of_scenes(size)
    path = folder_of("bsds500") if text == "bsds500" else Path(text).expanduser()
    if path.is_file() and path.suffix.lower() == ".json":
        return of_files(text, size, of_coco(path), None)
    if not path.is_dir():
        raise InputError(
            f"{path} is no folder; allowed: nested, bsds500, a folder of pictures with masks beside them, or a COCO "
            ".json."
        )
    sources, own = in_folder(path)
    return of_files(text, size, sources, own)


def joined(name: str, parts: list[InstanceData]) -> InstanceData:
    """Several sets as one, their examples in turns."""

    def read(split: str) -> Sequence[Example]:
        return Turns([part.split(split) for part in dict.fromkeys(parts) if split in part.splits])

    splits = [split for split in SPLITS if any(split in part.splits for part in parts)]
    text = " With: ".join(part.origin for part in parts)
    return InstanceData(name, parts[0].size, text, {s: partial(read, s) for s in splits}, tuple(parts))


def together(folders: Sequence[Path], size: int, valid: Sequence[Example]) -> InstanceData:
    """Folders of masks as one set, each picture as often as any other; `valid`: examples to measure by."""
    sources = [source for folder in folders for source in in_folder(folder)[0]]
    name = "+".join(folder.name for folder in folders)
    data = of_files(name, size, sources, {"train": list(range(len(sources)))})
    read = {**data._read, "valid": lambda: valid} if valid else data._read
    return InstanceData(name, size, data.origin, read)


def unmasked(file: Path) -> Example:
    """A picture as it is, without masks."""
    from ptheta.data.images import read_colour

    return Example(str(file), np.ascontiguousarray(read_colour(file).transpose(2, 0, 1)), (), ())


class Turns(Sequence[Example]):
    """The first of each of several sequences, then the second of each, and so on."""

    def __init__(self, of: list[Sequence[Example]]):
        self.of = of
        self.order = sorted((i, k) for k, one in enumerate(of) for i in range(len(one)))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i, k = self.order[at]
        return self.of[k][i]


# ---------------------------------------------------------------- what is drawn


class Drawn(Sequence[Example]):
    """Scenes of `nested.py`, each drawn when it is first asked for."""

    def __init__(self, split: str, count: int, size: int, seed: int = 0):
        self.about, self.size, self.length = (seed, split), size, count
        self.known: dict[int, Example] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.length))]
        if not 0 <= at < self.length:
            raise IndexError(at)
        if at not in self.known:
            number = at
            while not len((scene := nested.scene(*self.about, number, self.size)).masks):
                number += self.length  # where all is hidden, another one
            masks = tuple(rle.encode(mask) for mask in scene.masks)
            names = tuple("" if level else name for name, level in zip(scene.names, scene.level))
            self.known[at] = Example(f"{self.about[1]} {at}", scene.picture, masks, (0,) * len(masks), names)
        return self.known[at]


def of_scenes(size: int) -> InstanceData:
    """The set `nested`."""
    counts = "/".join(f"{n:,}" for n in SCENES.values())
    text = f"scenes of wholes, parts and subparts, {size}x{size}, drawn from seed 0, {counts}."
    return InstanceData("nested", size, text, {s: partial(Drawn, s, n, size) for s, n in SCENES.items()})


# ---------------------------------------------------------------- files

Told = tuple[int, np.ndarray, str]
"""Who drew a mask, the mask (h, w), and what it is called, or ""."""
Source = tuple[Path, Callable[[tuple[int, int]], list[Told]]]
"""A picture, and what gives its masks for its height and width."""


def of_files(name: str, size: int, sources: list[Source], own: dict[str, list[int]] | None) -> InstanceData:
    """The examples of files, in the splits of their folder or divided by the rule of `binary.py`."""
    need, free = 3 * size * size * len(sources), memory()
    if need > 0.7 * free:
        raise InputError(
            f"{len(sources):,} pictures of {size}x{size} need {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free; choose a smaller --size, or fewer pictures."
        )
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(partial(opened, size=size), sources))
    if not any(one.masks for one in read):
        raise InputError(f"{name} has no mask in any of its {len(read):,} pictures.")
    rows, rule = (own, "in its own splits") if own else split_rows(np.arange(len(read)))
    masks = sum(len(one.masks) for one in read)
    text = f"{len(read):,} pictures of {name} with {masks:,} masks, the longer side {size} pixels, {rule}."
    return InstanceData(name, size, text, {s: partial(lambda of: [read[i] for i in of], of) for s, of in rows.items()})


def opened(source: Source, size: int) -> Example:
    """The example of a file, scaled."""
    from PIL import Image

    from ptheta.data.images import read_colour

    file, masks_of = source
    x = read_colour(file)
    h, w = x.shape[:2]
    H, W = (max(1, int(side * size / max(h, w) + 0.5)) for side in (h, w))
    rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in ((H, h), (W, w)))
    told = [(who, mask[rows[:, None], columns], name) for who, mask, name in masks_of((h, w))]
    told = [one for one in told if one[1].any()]
    picture = np.asarray(Image.fromarray(x).resize((W, H), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    masks, names = tuple(rle.encode(mask) for _, mask, _ in told), tuple(name for _, _, name in told)
    who = tuple(who for who, _, _ in told)
    return Example(str(file), np.ascontiguousarray(picture), masks, who, names if any(names) else ())


def in_folder(folder: Path) -> tuple[list[Source], dict[str, list[int]] | None]:
    """The pictures of a folder with their masks, and the rows of each split if it has splits of its own."""
    from ptheta.data.label_maps import BESIDE_IMAGES

    whole = [f for f in sorted(folder.glob("*.json")) if is_coco(f)]
    if whole:
        return [source for file in whole for source in of_coco(file)], None
    beside = next((folder / name for name in BESIDE_IMAGES if (folder / name).is_dir()), None)
    if beside and (folder / "images").is_dir():
        base = folder / "images"
        found = {f: f for f in image_files(base)}
        partners = {f: beside / f.relative_to(base) for f in found}
    else:
        base = folder
        found = {f: f for f in image_files(folder)}
        partners = found
    sources, taken = [], set()
    for picture in found:
        if picture in taken:
            continue
        at = partners[picture]
        if (told := at.with_suffix(".json")).is_file():
            sources.append((picture, partial(of_json, told)))
        elif maps := region_maps(at, picture):
            taken |= set(maps)
            sources.append((picture, partial(of_maps, maps)))
        elif picture.suffix.lower() != ".png" or beside is not None:
            raise InputError(f"{picture} has no masks beside it; allowed: {at.stem}.json, {at.stem}.png or _0.png, ….")
    if not sources:
        raise InputError(
            f"{folder} has no picture with masks; allowed: a.jpg with a.json (SA-1B), a.png or a_0.png, a_1.png "
            "(region maps), images/ with masks/, or a COCO .json."
        )
    own = own_splits(base, [picture for picture, _ in sources])
    return sources, own if own and len(own) > 1 else None


def region_maps(at: Path, picture: Path) -> list[Path]:
    """The maps that belong to a picture: a.png, or a_0.png, a_1.png, …; not the picture itself."""
    one = at.with_suffix(".png")
    if one.is_file() and one != picture:
        return [one]
    several = [f for f in at.parent.glob(f"{at.stem}_*.png") if f.stem[len(at.stem) + 1 :].isdigit()]
    return sorted(several, key=lambda f: int(f.stem[len(at.stem) + 1 :]))


def of_maps(files: list[Path], shape: tuple[int, int]) -> list[Told]:
    """The regions of each file."""
    from ptheta.data.label_maps import read_map

    found = []
    for who, file in enumerate(files):
        y = read_map(file)
        if y.shape != shape:
            raise InputError(f"{file} is {y.shape}, its picture {shape}; allowed: the same height and width.")
        nothing = {255 if y.dtype.itemsize == 1 else 65535, *([0] if (y > 0).any() else [])}
        found += [(who, y == number, "") for number in np.unique(y).tolist() if number not in nothing]
    return found


def of_json(file: Path, shape: tuple[int, int]) -> list[Told]:
    """The masks of a file as SA-1B's; `name` of an annotation is what it is called."""
    import json

    try:
        annotations = json.loads(file.read_text(encoding="utf-8"))["annotations"]
        told = [(one["segmentation"], str(one.get("name") or "")) for one in annotations]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} has no masks ({error!r}); allowed: annotations, each with a segmentation.") from None
    return [(0, drawn(one, shape, f"{file}, mask {i + 1},"), name) for i, (one, name) in enumerate(told)]


def drawn(told: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """A mask (H, W) of polygons or run lengths. Raises InputError for one of another size than its picture."""
    from ptheta.data import coco

    mask = coco.polygons(told, shape) if isinstance(told, list) else rle.decode(told)
    if mask.shape != shape:
        raise InputError(f"{where} is of {mask.shape}, its picture of {shape}; allowed: the same height and width.")
    return mask


def is_coco(file: Path) -> bool:
    """Whether a file has a list of images; SA-1B's have one image."""
    return b'"images"' in file.read_bytes()


def of_coco(file: Path) -> list[Source]:
    """The pictures of a COCO file that have masks."""
    from ptheta.data import coco

    def masks(told: list[tuple[Any, str]], of: str, shape: tuple[int, int]) -> list[Told]:
        return [(0, drawn(one, shape, f"{file}, mask {i + 1} of {of},"), name) for i, (one, name) in enumerate(told)]

    return [(picture, partial(masks, told, picture.name)) for picture, told in coco.instances(file).items()]
