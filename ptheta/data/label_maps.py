"""Sets of pictures with a label for every pixel: scenes that are drawn, CamVid, a user's folder, a COCO file.

A folder has one of two layouts; a picture and its map have the same name but for the ending:

    FOLDER/train/a.jpg    FOLDER/trainannot/a.png       and the same of val and test: CamVid's
    FOLDER/images/a.jpg   FOLDER/labels/a.png           or masks/ or annotations/; folders in folders are kept apart,
                                                        and those named train, val and test are the splits

Maps are whole numbers in a lossless format (`read_map`). `classes.txt` in the folder names the classes, one a line;
else there are as many as the greatest label tells. Pixels of the label 255, and of classes named void, unlabelled or
ignore, are not to be learned; in what is loaded their label is 255. Smaller pictures are continued to the size of the
largest by their edges, and there is nothing to be learned there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptheta.data import scenes
from ptheta.data.folders import SPLIT_FOLDERS, memory
from ptheta.data.images import image_files, on_white, visible_files
from ptheta.data.known_pictures import folder_of
from ptheta.data.pictures import Parts, PictureData, divided
from ptheta.engine.errors import InputError, UsageError

MAPS = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".gif", ".npy")
LOSSY = (".jpg", ".jpeg", ".webp")
BESIDE_IMAGES = ("labels", "masks", "annotations")
IGNORED = 255
VOID = ("void", "unlabelled", "unlabeled", "ignore")
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SCENES = {"train": 2000, "valid": 300, "test": 300}
Pairs = dict[str, tuple[Path, Any]]  # by name: the picture, and its map: a file, or a function that gives it


def load(
    spec: str | Path, *, size: int | None = None, ignore: int | None = None, classes: Path | None = None
) -> PictureData:
    """The set that `spec` means: `scenes`, `camvid`, a folder, or a COCO file (.json); its maps are
    `PictureData.maps`.

    size: The shorter side to which pictures and maps are scaled; as they are, if None.
    ignore: Label of the files that is not to be learned (default: 255; 11 of camvid).
    classes: File of the classes' names.
    Raises UsageError for impossible values, InputError for missing partners, other sizes and labels that are no class.
    """
    if isinstance(spec, PictureData):
        return spec
    if not isinstance(spec, str | Path):
        raise UsageError(f"data is a {type(spec).__name__}; allowed: a name, a path, or a PictureData with label maps.")
    if size is not None and size < 1:
        raise UsageError(f"size = {size} is impossible; allowed: from 1 on.")
    if str(spec) == "scenes":
        return of_scenes(96 if size is None else size)
    camvid = str(spec) == "camvid"
    source = folder_of("camvid") if camvid else Path(spec).expanduser()
    if source.suffix.lower() == ".json" and source.is_file():
        (pairs, told), own, origin = of_coco(source), None, f"the user's file {source}"
    elif source.is_dir():
        (pairs, own), told, origin = pairs_in(source), CAMVID if camvid else (), f"the user's folder {source}"
    else:
        raise InputError(
            f"{source} is no folder; allowed: scenes, camvid, a folder of pictures and label maps, or a COCO .json."
        )
    ignore = (11 if camvid else IGNORED) if ignore is None else ignore
    x, y = read_pairs(pairs, size)
    names = tuple(read_names(classes)) if classes else told or names_of(source, y, ignore)
    origin = "frames of CamVid (G. Brostow et al. 2009)" if camvid else origin
    y = as_labels(y, pairs, len(names), ignore, x.shape[2:])
    for label in (i for i, name in enumerate(names) if name.lower() in VOID):
        y[y == label] = IGNORED
    parts, rule = divided({"x": x, "maps": y, "names": list(pairs)}, own)
    text = f"{origin}, {len(x):,} pictures of {x.shape[2]}x{x.shape[3]} with label maps, {rule}."
    return PictureData(str(spec), x.shape[1:], text, names, {k: partial(dict, parts) for k in parts}, size=size)


def of_scenes(side: int) -> PictureData:
    """Scenes of `scenes.py`, drawn when a split is asked for."""

    def drawn(split: str) -> Parts:
        x, y = scenes.scenes(SCENES[split], split, side)
        return {split: x, f"{split}_maps": y}

    parts = {key: partial(drawn, split) for split in SCENES for key in (split, f"{split}_maps")}
    text = f"scenes of {side}x{side} drawn from seed 0, {'/'.join(f'{n:,}' for n in SCENES.values())}."
    return PictureData("scenes", (3, side, side), text, scenes.KINDS, parts, size=side)


# ---------------------------------------------------------------- which files


def pairs_in(folder: Path) -> tuple[Pairs, dict[str, list[int]] | None]:
    """Pictures with their maps, by name, and the rows of each split if the folder has splits of its own."""
    beside = next((folder / name for name in BESIDE_IMAGES if (folder / name).is_dir()), None)
    splits: dict[str, tuple[Path, Path]] = {}
    for name, split in SPLIT_FOLDERS.items():
        if (folder / name).is_dir() and (folder / f"{name}annot").is_dir():
            found = folder / name, folder / f"{name}annot"
        elif beside and (folder / "images" / name).is_dir():
            found = folder / "images" / name, beside / name
        else:
            continue
        if split in splits:
            raise InputError(f"{splits[split][0]} and {found[0]} are both for {split}; leave one of them.")
        splits[split] = found
    if splits:
        inside = [pictures for pictures, _ in splits.values() if pictures.parent == folder / "images"]
        if inside and (others := [f for f in image_files(folder / "images") if not set(f.parents) & set(inside)]):
            raise InputError(f"{others[0]} is in none of the splits beside it; move it into one, or elsewhere.")
        if "train" not in splits:
            raise InputError(
                f"{folder} has {', '.join(splits)} and nothing for training; name one of its folders train."
            )
        pairs: Pairs = {}
        own: dict[str, list[int]] = {}
        for split, (pictures, maps) in splits.items():
            found = matched(pictures, maps)
            own[split] = list(range(len(pairs), len(pairs) + len(found)))
            pairs |= {f"{pictures.name}/{name}": pair for name, pair in found.items()}
        return pairs, own
    if beside and (folder / "images").is_dir():
        return matched(folder / "images", beside), None
    raise InputError(
        f"{folder} has no label maps; allowed: train/ with trainannot/ (and val/, test/), or images/ with "
        f"{'/ or '.join(BESIDE_IMAGES)}/."
    )


def matched(pictures: Path, maps: Path) -> Pairs:
    """Each picture below a folder with the map of the same name below another."""
    x, y = by_name(image_files(pictures), pictures), maps_in(maps)
    if not x:
        raise InputError(f"{pictures} holds no pictures; name a folder that does.")
    return partners(x, y, pictures, maps, "names")


def partners(x: dict[str, Path], y: dict[str, Path], of_x: Path, of_y: Path, what: str) -> Pairs:
    """Files of two folders by their common names. InputError lists those that only one of them has."""
    for some, others, where in ((x, y, of_y), (y, x, of_x)):
        if missing := [name for name in some if name not in others]:
            more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
            raise InputError(f"{where} lacks {len(missing):,} of {len(some):,} {what}: {', '.join(missing[:5])}{more}.")
    return {name: (x[name], y[name]) for name in x}


def by_name(files: list[Path], folder: Path) -> dict[str, Path]:
    """Files by their path in a folder, without ending. InputError where two have one name."""
    found: dict[str, Path] = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {file} are both {name}; leave one of them.")
        found[name] = file
    return found


def maps_in(folder: Path) -> dict[str, Path]:
    """The label maps of a folder and of those in it, by their names without ending."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; allowed: a folder of label maps ({', '.join(MAPS)}).")
    files = visible_files(folder)
    if lossy := [f for f in files if f.suffix.lower() in LOSSY]:
        raise InputError(f"{lossy[0]} is stored with losses, which changes labels; allowed: {', '.join(MAPS)}.")
    found = by_name([f for f in files if f.suffix.lower() in MAPS], folder)
    if not found:
        raise InputError(f"{folder} has no label maps; allowed: files ending in {', '.join(MAPS)}.")
    return found


# ---------------------------------------------------------------- what is in them


def read_map(file: Path) -> np.ndarray:
    """The labels of a file as they are stored, of a palette image its indices: 1, 8, 16 or 32 bits, or .npy."""
    from PIL import Image

    try:
        if file.suffix.lower() == ".npy":
            return np.load(file, allow_pickle=False)
        with Image.open(file) as opened:
            if opened.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
                scale = scale_of(file, opened)
                return np.array(opened) if scale == 1 else np.array(opened) // scale
            mode = opened.mode
    except Exception as error:  # Pillow and numpy raise whatever their readers meet
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{file} cannot be read as a label map ({reason}); repair or remove it.") from None
    raise InputError(f"{file} is an image of mode {mode}; allowed: grey, palette or 16-bit images of labels.")


def scale_of(file: Path, opened: Any) -> int:
    """By what Pillow has multiplied the labels of a grey PNG of 2 or 4 bits, to fill 0 to 255."""
    if opened.format != "PNG" or opened.mode != "L":
        return 1
    with file.open("rb") as stream:
        depth = stream.read(25)[24]  # of the header: signature, length, "IHDR", width, height, depth
    return {2: 85, 4: 17}.get(depth, 1)


def read_picture(file: Path) -> np.ndarray:
    """A picture as uint8 (H, W, 3), on white, as its pixels are stored: so is its map."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return np.asarray(on_white(opened).convert("RGB"))
    except Exception as error:  # Pillow raises whatever its decoders meet
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{file} cannot be read as a picture ({reason}); repair or remove it.") from None


def of_coco(file: Path) -> tuple[Pairs, tuple[str, ...]]:
    """Pictures and maps of a COCO file, by the pictures' paths, and the classes."""
    from ptheta.data import coco

    pictures, maps, names = coco.read(file, IGNORED)
    return {str(picture): (picture, one) for picture, one in zip(pictures, maps)}, names


def read_pair(pair: tuple[Path, Any], size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A picture (3, H, W) and its map (H, W), scaled together: the picture by cubics, the map by nearest labels."""
    from PIL import Image

    x = read_picture(pair[0])
    y: Any = pair[1]() if callable(pair[1]) else read_map(pair[1])
    if y.ndim != 2 or y.dtype.kind not in "uib":
        raise InputError(f"{pair[1]} holds {y.dtype} of shape {y.shape}; allowed: whole numbers (height, width).")
    if x.shape[:2] != y.shape:
        raise InputError(
            f"{pair[0]} is {x.shape[0]}x{x.shape[1]} and its map {y.shape[0]}x{y.shape[1]}; allowed: the same size."
        )
    if size is not None and size != min(y.shape):
        h, w = (max(1, round(side * size / min(y.shape))) for side in y.shape)
        x = np.asarray(Image.fromarray(x).resize((w, h), Image.Resampling.BICUBIC))
        rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip((h, w), y.shape))
        y = y[rows[:, None], columns]
    return x.transpose(2, 0, 1), y.astype(np.int64)


def read_pairs(pairs: Pairs, size: int | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """All pictures, (N, 3, H, W), continued to one size, and their maps. InputError where memory does not suffice."""

    def fit(h: int, w: int) -> None:
        need, free = 12 * len(pairs) * h * w, memory()
        if need > 0.7 * free:
            raise InputError(
                f"{len(pairs):,} pictures of {h}x{w} need {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; "
                "choose a smaller --size, or fewer pictures."
            )

    fit(*read_pair(next(iter(pairs.values())), size)[1].shape)
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(partial(read_pair, size=size), pairs.values()))
    h, w = (max(y.shape[axis] for _, y in read) for axis in (0, 1))
    fit(h, w)
    x = np.empty((len(read), 3, h, w), np.uint8)
    for i, (picture, y) in enumerate(read):
        x[i] = np.pad(picture, ((0, 0), (0, h - y.shape[0]), (0, w - y.shape[1])), mode="edge")
        read[i] = picture[:0], y
    return x, [y for _, y in read]


def names_of(folder: Path, maps: list[np.ndarray], ignore: int) -> tuple[str, ...]:
    """The lines of classes.txt in the folder; else one name for each label up to the greatest."""
    if not (folder / "classes.txt").is_file():
        greatest = max(int(y[y != ignore].max(initial=0)) for y in maps)
        if greatest >= IGNORED:
            raise InputError(
                f"{folder} has a label {greatest}; allowed: 0 to 254, and {ignore} for what is not learned."
            )
        if greatest == 0 and any((y == ignore).any() for y in maps):
            raise InputError(
                f"{folder} has labels 0 and {ignore} alone, and {ignore} is what is not learned; if it is a class, "
                "store its label as 1."
            )
        return tuple(f"class {i}" for i in range(greatest + 1))
    return tuple(read_names(folder / "classes.txt"))


def read_names(file: Path) -> list[str]:
    """The lines of a file of text, without empty ones."""
    if not file.is_file():
        raise InputError(f"{file} is no file; allowed: a file with a class name a line.")
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names:
        raise InputError(f"{file} has no lines of text; allowed: a class name a line.")
    return names


def as_labels(maps: list[np.ndarray], pairs: Pairs, classes: int, ignore: int, sides: tuple[int, ...]) -> np.ndarray:
    """Maps as uint8 (N, *sides) with 255 for what is ignored, and beyond smaller ones. InputError names the first file
    with a label that is no class."""
    if classes > IGNORED:
        raise InputError(f"{classes} classes are too many; allowed: up to {IGNORED}.")
    for y, (_, file) in zip(maps, pairs.values()):
        if (bad := (y != ignore) & ((y < 0) | (y >= classes))).any():
            values = ", ".join(str(v) for v in np.unique(y[bad])[:5])
            raise InputError(
                f"{file} has labels {values}; allowed: 0 to {classes - 1}, and {ignore} for what is not learned (or "
                "of a class that classes.txt calls void)."
            )
    out = np.full((len(maps), *sides), IGNORED, np.uint8)
    for one, y in zip(out, maps):
        one[: y.shape[0], : y.shape[1]] = np.where(y == ignore, IGNORED, y)
    return out
