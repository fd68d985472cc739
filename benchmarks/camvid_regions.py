"""CamVid's labels as masks that a click can mean: `python benchmarks/camvid_regions.py OUT`, for fine-tuning of `sam`.

Each connected region of a class that has at least a thousandth of the frame is a mask of its own; `ptheta train sam
--data OUT` reads them. Every `EVERY`-th frame, as those that follow each other are all but the same; of CamVid's
validation frames the first half for validation, the second for the test.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ptheta.data.known_pictures import folder_of
from ptheta.engine.errors import InputError
from ptheta.sam.regions import regions

LEAST, VOID, EVERY = 1 / 1000, 11, 3


def numbered(y: np.ndarray) -> np.ndarray:
    """Regions from 1 on, 0 for what is none."""
    found = np.zeros(y.shape, np.uint16)
    for of in np.unique(y[y != VOID]):
        labels, areas = regions(y == of)
        for k in np.flatnonzero(areas >= LEAST * y.size) + 1:
            found[labels == k] = found.max() + 1
    return found


def main(out: Path) -> None:
    if out.exists():
        sys.exit(f"{out} is there already; name another folder.")
    try:
        source = folder_of("camvid")
    except InputError as error:
        sys.exit(str(error))
    train, valid = (sorted((source / split).iterdir())[::EVERY] for split in ("train", "val"))
    half = len(valid) // 2
    for theirs, ours, files in (
        ("train", "train", train),
        ("val", "valid", valid[:half]),
        ("val", "test", valid[half:]),
    ):
        for kind in ("images", "masks"):
            (out / kind / ours).mkdir(parents=True)
        for file in files:
            y = np.asarray(Image.open(source / f"{theirs}annot" / f"{file.stem}.png"))
            Image.open(file).convert("RGB").save(out / "images" / ours / f"{file.stem}.png")
            Image.fromarray(numbered(y)).save(out / "masks" / ours / f"{file.stem}.png")
        print(f"{ours}: {len(files)} frames")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name one folder that is not there yet.")
    main(Path(sys.argv[1]))
