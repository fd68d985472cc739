"""The sets of pictures that have a name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ptheta.data import folders, things
from ptheta.data.fetch import cache_folder, data_folder
from ptheta.data.formats import read_idx
from ptheta.data.known import IDX_COUNT, IDX_FILES, IDX_ORIGIN, IDX_VALID, idx_path, read_idx_labels
from ptheta.data.pictures import Parts, PictureData, divided
from ptheta.engine.errors import InputError

CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FOLDERS = {
    "emoji": "OpenMoji pictures and their annotations (openmoji.org, CC BY-SA 4.0)",
    "camvid": "CamVid, frames of a drive (G. Brostow et al. 2009; SegNet's copy, CC BY-NC 4.0)",
    "bsds500": "BSDS500, photographs (D. Martin, P. Arbeláez et al., Berkeley; research use)",
}
NAMES = ("digits", "things", *IDX_FILES, *FOLDERS)
HELD_OUT = 10  # one in so many base emoji is for test, another for validation


def load(name: str, size: int, skip_unreadable: bool) -> PictureData | None:
    """The set of this name, None if there is none. InputError where it is not at hand."""
    if name == "digits":
        return _digits()
    if name == "things":
        return things.pictures(size)
    if name in IDX_FILES:
        return _idx(name)
    if name not in FOLDERS:
        return None
    folder = folder_of(name)
    return (
        _emoji(folder, size, skip_unreadable) if name == "emoji" else _photographs(name, folder, size, skip_unreadable)
    )


def folder_of(name: str) -> Path:
    """Where the folder of a set of FOLDERS is; InputError where it is not at hand."""
    mine = data_folder()
    for root in ([mine] if mine else []) + [cache_folder() / "data"]:
        if (root / name).is_dir():
            return root / name
    raise InputError(
        f"{name} is not at hand: {FOLDERS[name]}; place its folder as {name} in the folder that PTHETA_DATA names"
    )


def _digits() -> PictureData:
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        pixels, y = stored["pixels"], stored["labels"]
    x = (pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    parts, rule = _digit_splits({"x": x, "labels": y.astype(np.int64)})
    origin = (
        "the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (E. Alpaydin and C. Kaynak, UCI, "
        f"CC BY 4.0), {rule}."
    )
    names = tuple(str(c) for c in range(10))
    return PictureData("digits", (1, 8, 8), origin, names, {key: partial(dict, parts) for key in parts})


def _digit_splits(told: Parts) -> tuple[Parts, str]:
    """1,257/270/270, as the binary digits are split."""
    order = np.random.RandomState(0).permutation(len(told["x"]))
    parts: Parts = {}
    for split, chosen in zip(("train", "valid", "test"), np.split(order, [1257, 1527]), strict=True):
        parts |= {split: told["x"][chosen], f"{split}_labels": told["labels"][chosen]}
    return parts, "split 1,257/270/270 by a fixed permutation (seed 0)"


def _idx(name: str) -> PictureData:
    names = CLOTHES if name == "fashion_mnist" else tuple(str(c) for c in range(10))
    readers: dict[str, Callable[[], Parts]] = {
        "train": partial(_idx_images, name, "train"),
        "test": partial(_idx_images, name, "t10k"),
        "train_labels": partial(read_idx_labels, name, "train"),
        "test_labels": partial(read_idx_labels, name, "t10k"),
    }
    readers |= {"valid": readers["train"], "valid_labels": readers["train_labels"]}
    text = f"{IDX_ORIGIN[name]}; train and valid are the first 50,000 and the last 10,000 of the training file."
    return PictureData(name, (1, 28, 28), text, names, readers)


def _idx_images(name: str, half: str) -> Parts:
    x = read_idx(idx_path(name, f"{half}-images-idx3-ubyte.gz"), (IDX_COUNT[half], 28, 28))[:, None]
    return {"test": x} if half == "t10k" else {"train": x[:-IDX_VALID], "valid": x[-IDX_VALID:]}


def _photographs(name: str, folder: Path, size: int, skip: bool) -> PictureData:
    """The JPEGs of a set of photographs, in its own splits where it has several (frames of a drive resemble their
    neighbours); its label maps, which are PNGs, are left out."""
    files = sorted(folder.rglob("*.jpg"))
    if not files:
        raise InputError(f"{folder} holds no .jpg; place the pictures of {name} there")
    x, kept, said = folders.decoded(files, size, skip)
    own = folders.own_splits(folder, kept)
    told: Parts = {"x": x, "names": [str(path.relative_to(folder)) for path in kept]}
    parts, rule = divided(told, own if own and len(own) > 1 else None)
    origin = f"{FOLDERS[name]}, {len(x):,} pictures cut and scaled to {size}x{size}{said}, {rule}."
    return PictureData(name, x.shape[1:], origin, (), {key: partial(dict, parts) for key in parts})


def _emoji(folder: Path, size: int, skip: bool) -> PictureData:
    """Pictures, their groups as classes, and as texts their annotations, tags and groups. Emoji of one base code stand
    together, so that no test picture is a skin tone of a training picture."""
    try:
        rows = list(csv.DictReader((folder / "captions.csv").read_text(encoding="utf-8").splitlines()))
        files = {row["hexcode"]: folder / "images" / f"{row['hexcode']}.png" for row in rows}
        told = {row["hexcode"]: (row["annotation"], row["tags"], row["group"] or "none") for row in rows}
        if not rows:
            raise ValueError("captions.csv has no rows")
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{folder} is no OpenMoji folder (images/HEX.png, captions.csv): {error}") from error
    x, kept, skipped = folders.decoded(list(files.values()), size, skip)
    codes = [path.stem for path in kept]
    names = tuple(sorted({group for _, _, group in told.values()}))
    number = {name: i for i, name in enumerate(names)}
    y = np.array([number[told[code][2]] for code in codes])
    bases = sorted({base(code) for code in codes})
    order = np.random.RandomState(0).permutation(len(bases))
    turn = {bases[i]: place * HELD_OUT // len(bases) for place, i in enumerate(order)}
    parts: Parts = {}
    for split, turns in (("train", range(2, HELD_OUT)), ("valid", (1,)), ("test", (0,))):
        rows_of = [i for i, code in enumerate(codes) if turn[base(code)] in turns]
        parts |= {
            split: x[rows_of], f"{split}_labels": y[rows_of], f"{split}_names": [f"{codes[i]}.png" for i in rows_of],
            f"{split}_captions": [said(*told[codes[i]]) for i in rows_of],
        }  # fmt: skip
    rule = "a tenth of the base codes each for validation and test"
    origin = f"{FOLDERS['emoji']}, {len(x):,} at {size}x{size}{skipped}; {rule}."
    return PictureData("emoji", x.shape[1:], origin, names, {key: partial(dict, parts) for key in parts})


def said(annotation: str, tags: str, group: str) -> str:
    """The text of an emoji: "red apple, apple, fruit, red, food drink"."""
    return ", ".join(part for part in (annotation, tags, group.replace("-", " ")) if part)


def base(code: str) -> str:
    """An emoji's code without skin tones (1F3FB to 1F3FF) and variation selectors (FE0F)."""
    tones = {f"1F3F{digit}" for digit in "BCDEF"} | {"FE0F"}
    return "-".join(part for part in code.split("-") if part not in tones) or code
