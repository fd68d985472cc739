"""A user's folder of pictures: decoding, classes from sub-folders, splits from sub-folders, captions from a table."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptheta.data.images import image_files, on_white
from ptheta.data.pictures import Parts, PictureData, divided
from ptheta.engine.errors import InputError

TABLES = (".csv", ".jsonl")
FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "name")
AGAIN = "\x1e"  # between the texts of a picture that has several
TEXT_COLUMNS = ("caption", "text", "annotation", "description", "title")
TINY = 4  # pixels on the shorter side below which a picture shows nothing
SPLIT_FOLDERS = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
                 "test": "test"}  # fmt: skip


def load(folder: Path, size: int, skip_unreadable: bool = False, table: Path | None = None) -> PictureData:
    """The pictures below a folder; see `pictures.load`."""
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder} holds no pictures (png, jpg, bmp, gif, tif, webp); name a folder that does")
    table = table or next((t for s in TABLES if (t := folder / f"captions{s}").is_file()), None)
    captions = read_captions(table) if table else {}
    mute = 0
    if table:
        captioned = _captioned(files, captions, folder, table, skip_unreadable)
        mute, files = len(files) - len(captioned), captioned
    own_splits(folder, files)  # refused before the pictures are read
    x, kept, said = decoded(files, size, skip_unreadable)
    said += f" ({mute:,} without a caption left out)" if mute else ""
    own = own_splits(folder, kept)
    classes, y = _classes([path.relative_to(folder).parts[1 if own else 0 : -1] for path in kept])
    told: Parts = {"x": x, "names": [str(path.relative_to(folder)) for path in kept]}
    if y is not None:
        told["labels"] = y
    if table:
        told["captions"] = [captions[_key(path, folder, captions)] for path in kept]  # type: ignore[index]
    parts, rule = divided(told, own)
    origin = f"the pictures in the user's folder {folder}, {len(x):,} cut and scaled to {size}x{size}{said}, {rule}."
    return PictureData(str(folder), x.shape[1:], origin, classes, {key: partial(dict, parts) for key in parts})


def own_splits(folder: Path, files: list[Path]) -> dict[str, list[int]] | None:
    """The rows of each split where all files lie in folders for train, valid and test; None where there are no splits.

    One folder of such a name beside others is a class. Raises InputError where several are there, and not all is in
    them or nothing is for training.
    """
    rows: dict[str, list[int]] = {}
    for i, path in enumerate(files):
        top, *below = path.relative_to(folder).parts
        rows.setdefault(SPLIT_FOLDERS.get(top.lower(), "") if below else "", []).append(i)
    named = sorted(rows.keys() - {""})
    if "train" in rows and "" not in rows:
        return rows
    if len(named) > 1:
        what = f"the first elsewhere: {files[rows[''][0]].name}" if "train" in rows else "there is no folder train"
        raise InputError(
            f"{folder} holds folders for {' and '.join(named)}, and not all pictures lie in train, valid or test, or "
            f"none in train ({what}); move them there, or rename the folders"
        )
    return None


def decoded(files: list[Path], size: int, skip: bool) -> tuple[np.ndarray, list[Path], str]:
    """The pictures as uint8 (N, C, size, size), the files they are of, and what was left out.

    They are grey (C = 1) if all of them are. Raises InputError naming the pictures that cannot be read, unless they
    are to be skipped, and where all of them together would not fit into memory.
    """
    need, free = 2 * 3 * size * size * len(files), memory()  # twice: they are copied into one array, and into splits
    if need > 0.7 * free:
        raise InputError(
            f"{len(files):,} pictures of {size}x{size} need {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free; choose a smaller --size, or fewer pictures"
        )
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(partial(_decode, size=size), files))
    bad = [(path, result) for path, result in zip(files, results) if isinstance(result, str)]
    good = [(path, result) for path, result in zip(files, results) if not isinstance(result, str)]
    if bad and (not skip or not good):
        named = "; ".join(f"{path} ({reason})" for path, reason in bad[:3]) + ("; …" if len(bad) > 3 else "")
        fix = "repair or remove them, or add --skip-unreadable" if good else "repair them"
        raise InputError(f"{len(bad):,} of {len(files):,} pictures cannot be read: {named}; {fix}")
    grey = all(result.shape[0] == 1 for _, result in good)
    x = np.stack([result if grey or len(result) == 3 else result.repeat(3, 0) for _, result in good])
    said = f" ({len(bad):,} unreadable ones left out, the first of them {bad[0][0].name})" if bad else ""
    return x, [path for path, _ in good], said


def _decode(path: Path, size: int) -> np.ndarray | str:
    """A picture as uint8 (C, size, size), or why there is none: upright, on white, its middle square scaled."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if min(image.size) < TINY:
                return f"it is {image.size[0]}x{image.size[1]} pixels; at least {TINY}x{TINY} are needed"
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
            if image.mode == "F":
                return "its pixels are floats of unknown range"
            image = on_white(image).convert("L" if grey else "RGB")
            values = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
            return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
    except Exception as error:  # Pillow raises whatever its decoders meet
        return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def memory() -> float:
    """Bytes of memory that can be had, as far as the system says."""
    import os

    try:  # Linux counts with what it can give up: its copies of files may fill all memory, and be no hindrance
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(told["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")


def _classes(folders: list[tuple[str, ...]]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of classes and the class of each picture, from the first folder that each lies in; none if some lie in none
    or all lie in one."""
    if not all(folders):
        return (), None
    names = sorted({parts[0] for parts in folders})
    if len(names) < 2:
        return (), None
    number = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([number[parts[0]] for parts in folders])


# ---------------------------------------------------------------- captions


def read_captions(table: Path) -> dict[str, str]:
    """{file: text} of a .csv or .jsonl table with a column for the file and one for its text; several texts of a file
    in one, with AGAIN between. Raises InputError."""
    try:
        text = table.read_bytes().decode("utf-8-sig")  # ends of lines as they are: they may lie within a text
        if table.suffix.lower() == ".csv":
            rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a table ({error}); repair it") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{table} holds no rows with named columns; it needs {FILE_COLUMNS[0]} and {TEXT_COLUMNS[0]}")
    columns = list(rows[0])
    found = [next((c for c in names if c in columns), None) for names in (FILE_COLUMNS, TEXT_COLUMNS)]
    if None in found:
        allowed = f"one of {', '.join(FILE_COLUMNS)} and one of {', '.join(TEXT_COLUMNS)}"
        raise InputError(f"{table} has the columns {', '.join(map(str, columns))}; it needs {allowed}")
    file, caption = found
    if strange := [row for row in rows if isinstance(row.get(caption), list | dict)]:
        raise InputError(f"{table}: {len(strange):,} rows have no single text, the first {strange[0]}; give one each")
    told = [(str(row.get(file) or ""), str(row.get(caption) or "").replace(AGAIN, " ").strip()) for row in rows]
    if empty := [name for name, said in told if not name or not said]:
        raise InputError(f"{table}: {len(empty):,} rows have no file or no text, the first {empty[0]!r}; complete them")
    out: dict[str, str] = {}
    for name, said in told:
        out[name] = f"{out[name]}{AGAIN}{said}" if name in out else said
    return out


def _key(path: Path, folder: Path, captions: dict[str, str]) -> str | None:
    """How a table calls a picture: by its path, its name, or its name without ending."""
    relative = path.relative_to(folder).as_posix()
    return next((k for k in (relative, path.name, path.stem) if k in captions), None)


def _captioned(files: list[Path], captions: dict[str, str], folder: Path, table: Path, skip: bool) -> list[Path]:
    """The files that have a text; InputError for others, and for texts without a picture, unless they are skipped."""
    keys = {path: _key(path, folder, captions) for path in files}
    if twice := [key for key, count in Counter(key for key in keys.values() if key).items() if count > 1]:
        raise InputError(f"{table}: several pictures are called {twice[0]}; name each by its path below {folder}")
    dumb = [path for path, key in keys.items() if key is None]
    blind = sorted(set(captions) - set(keys.values()))  # type: ignore[arg-type]
    if (dumb or blind) and not skip or len(dumb) == len(files):
        what = [f"{len(dumb):,} pictures have no caption (the first: {dumb[0].name})"] if dumb else []
        what += [f"{len(blind):,} captions have no picture (the first: {blind[0]})"] if blind else []
        raise InputError(f"{table}: {' and '.join(what)}; complete it, or add --skip-unreadable to leave them out")
    return [path for path, key in keys.items() if key is not None]
