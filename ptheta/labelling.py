"""What a person does with a trained network that labels pixels: evaluate, predict."""

from __future__ import annotations

import json as json_module
import math
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from ptheta import api
from ptheta.engine.checkpoint import full_disk_is_an_input_error
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import flat
from ptheta.engine.progress import Progress
from ptheta.use import Source, open_source


def evaluate(
    run: Source, data: str | None = None, split: str | None = None, policy: str = "mmseg", limit: int | None = None,
    json: bool = False,
) -> None:  # fmt: skip
    """Score a network that labels pixels: accuracy and IoU of each class, and their means, of all pictures together.

    Args:
        run: Run directory, model folder or Hub id.
        data: Other pictures with label maps than the run was trained on.
        split: One split, or all (default: test, or the last there is).
        policy: What classes count that are absent from the truth: mmseg, detectron2, torchvision, segnet, torchmetrics.
        limit: Use only so many pictures.
        json: Print one JSON object.
    """
    from ptheta.segmentation.learning import judged, maps_of, matrices
    from ptheta.segmentation.metrics import policy_of, scores
    from ptheta.segmentation.score import TITLES, number

    policy_of(policy)
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} is impossible; allowed: at least 1 (option --limit).")
    model, observations = open_source(run, data)
    if tuple(observations.classes) != tuple(model.classes):
        raise InputError(
            f"{observations.name} has the classes {', '.join(observations.classes)} and the model "
            f"{', '.join(model.classes)}; name fitting --data, or give it the same classes.txt."
        )
    part = split or observations.splits[-1]
    parts = observations.splits if part == "all" else (part,)
    x, y = (
        torch.cat([read(name) for name in parts])[:limit]
        for read in (observations.split, partial(maps_of, observations))
    )
    each = matrices(model, x, y)
    found, total = judged(each, policy), scores(torch.stack(each).sum(0), policy)
    if json:
        classes = {
            name: {"pixels": int(total.truth[c]), "accuracy": number(total.accuracy[c]), "iou": number(total.iou[c])}
            for c, name in enumerate(model.classes)
        }
        about = {"method": model.name, "data": observations.name, "split": part}
        figures = {k: number(v) for k, v in flat(found).items()}
        print(json_module.dumps({**about, "policy": policy, "metrics": figures, "classes": classes}))
        return
    width = max(len(n) for n in [*TITLES.values(), *model.classes])
    print(f"{'class':{width}} {'pixels':>13} {'accuracy':>9} {'IoU':>9}")
    for c, name in enumerate(model.classes):
        pair = (number(total.accuracy[c]), number(total.iou[c]))
        shown = " ".join(f"{'-' if value is None else format(value, '.4f'):>9}" for value in pair)
        print(f"{name:{width}} {int(total.truth[c]):13,} {shown}")
    print(f"\n{len(each):,} pictures of {observations.name}, {part}; absent classes as in {policy}")
    for key, value in found.items():
        error = "" if math.isnan(value.standard_error) else f" ± {value.standard_error:.4f}"
        print(f"{TITLES[key]:{width}} {value.mean:.4f}{error}")


def predict(
    run: Source, pictures: Annotated[Path, tyro.conf.Positional], out: Path | None = None, size: int | None = None,
    tile: int = 1024, overlap: int = 128, overlays: bool = True, precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> None:  # fmt: skip
    """Label every pixel of pictures: NAME.png, a palette image of the labels, and NAME-overlay.png, for a look.

    Args:
        run: Run directory, model folder or Hub id.
        pictures: A picture file, or a folder of them and of folders.
        out: Folder for the results (default: predictions in the run or here, numbered when it exists).
        size: Scale the shorter sides to so many pixels first (default: as in training); labels have the pictures' own.
        tile: Pictures with a longer side are labelled by tiles of this side, in pixels.
        overlap: Pixels that neighbouring tiles share.
        overlays: Also write the overlays.
        precision: Of convolutions; auto: bf16 on GPUs that have it. On CPUs of 2022 and later, bf16 is quicker.
    """
    from ptheta.data.images import image_files
    from ptheta.data.label_maps import read_picture
    from ptheta.engine.hardware import detect
    from ptheta.segmentation.tiling import possible, tiled

    if size is not None and size < 16:
        raise UsageError(f"size = {size} is impossible; allowed: at least 16 (option --size).")
    possible(tile, overlap)
    if not pictures.exists():
        raise InputError(f"{pictures} does not exist; give the path of a picture or of a folder of them.")
    files = image_files(pictures) if pictures.is_dir() else [pictures]
    if not files:
        raise InputError(f"{pictures} holds no pictures; give the path of a picture or of a folder of them.")
    names = {f: f.relative_to(pictures if pictures.is_dir() else pictures.parent).with_suffix("") for f in files}
    written = Counter(f"{name}{ending}" for name in names.values() for ending in ["", "-overlay"][: 1 + overlays])
    if twice := [name for name, count in written.items() if count > 1]:
        raise InputError(f"{pictures} holds several pictures called {twice[0]}; rename one of them.")
    model, hardware = api.load(run), detect("auto", precision, None)
    model, size = model.to(hardware.device), size or model.size
    for file in files:
        if min(sides := sides_of(file)) < 16 and size is None:
            raise InputError(f"{file} is {sides[0]}x{sides[1]}; allowed: sides from 16, or a --size to scale it to.")
    folder = new_folder(run, out)
    with Progress(0, len(files), "pictures", visible=True) as progress:
        for step, file in enumerate(files, 1):
            x = read_picture(file)
            y = labelled(model, x, size, hardware, lambda x: tiled(model, x, tile, overlap))
            write(folder / names[file], x if overlays else None, y)
            progress.advance(step)
    print(folder)


def sides_of(file: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header where that can be read."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return opened.height, opened.width
    except Exception:  # reading it will tell what is wrong with it
        return 16, 16


def labelled(model: Any, x: np.ndarray, size: int | None, hardware: Any, label: Any) -> np.ndarray:
    """The labels (H, W) of a picture (H, W, 3), seen at another size if one is asked for."""
    from PIL import Image

    h, w = x.shape[:2]
    seen = Image.fromarray(x)
    if size is not None and size != min(h, w):
        seen = seen.resize((max(1, round(w * size / min(h, w))), max(1, round(h * size / min(h, w)))))
    if model.shape[0] == 1:
        seen = seen.convert("L")
    pixels = np.array(seen).reshape(seen.height, seen.width, -1).transpose(2, 0, 1)
    with hardware.autocast():
        y = label(torch.from_numpy(pixels)).numpy()
    if y.shape == (h, w):
        return y
    rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip((h, w), y.shape))
    return y[rows[:, None], columns]


def write(path: Path, x: np.ndarray | None, y: np.ndarray) -> None:
    """PATH.png with the labels y, and the picture x with their colours over it as PATH-overlay.png."""
    from PIL import Image

    from ptheta.segmentation.pictures import overlay, palette

    labels = Image.frombytes("P", (y.shape[1], y.shape[0]), np.ascontiguousarray(y).tobytes())
    labels.putpalette(palette().tobytes())
    images = {".png": labels} | ({} if x is None else {"-overlay.png": Image.fromarray(overlay(x, y))})
    with full_disk_is_an_input_error(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending, image in images.items():
            part = path.with_name(f".part-{os.getpid()}-{path.name}{ending}")
            try:
                image.save(part, format="png")
                os.replace(part, path.with_name(path.name + ending))
            finally:
                part.unlink(missing_ok=True)


def new_folder(run: str, out: Path | None) -> Path:
    """The folder that results go to, made. Raises UsageError where `out` holds something already."""
    if out is None:
        where, k = Path(run) if Path(run).is_dir() else Path("."), 1
        while (out := where / ("predictions" if k == 1 else f"predictions-{k}")).exists():
            k += 1
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already; name another --out.")
    with full_disk_is_an_input_error(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    return out
