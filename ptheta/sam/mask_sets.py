r"""Files of masks, one beside each picture, as SA-1B has them, with how each mask came to be.

    NAME.jpg          the picture
    NAME.json         {"image": {"file_name", "height", "width", …}, "annotations": [{"segmentation", "source", …}]}
    provenance.json   of a finished set: its number, stage, the weights that helped, what was counted

`ptheta train sam --data FOLDER` learns from such a folder. A file is replaced as a whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ptheta.data import rle
from ptheta.engine.checkpoint import write_text
from ptheta.engine.errors import InputError


def write(file: Path, name: str, size: tuple[int, int], masks: list[dict[str, Any]], **about: Any) -> None:
    """The masks of the picture `name` of height and width `size`; about: What else is to be said of the picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = {"file_name": name, "height": size[0], "width": size[1], **about}
    told = [{"id": i, **one, "segmentation": rle.compressed(one["segmentation"])} for i, one in enumerate(masks, 1)]
    write_text(file, json.dumps({"image": image, "annotations": told}) + "\n")


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is said of the picture, and its masks. Raises InputError for another file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["image"]), [dict(one) for one in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no file of masks ({error!r}); allowed: image and annotations.") from None


def write_picture(file: Path, x: Any) -> None:
    """Bytes (H, W, 3) as a PNG, unless it is there."""
    from PIL import Image

    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".part-{file.name}")
    try:
        Image.fromarray(x).save(part, format="PNG")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
