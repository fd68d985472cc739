r"""`ptheta segment`: masks of pictures, by points, a box, words, or without a prompt.

    ptheta segment dog.jpg --model sam_vit_b_01ec64.pth --point 320,240            three answers to one point
    ptheta segment dog.jpg --model facebook/sam-vit-base --box 10,20,400,300
    ptheta segment photos/ --model sam_vit_b_01ec64.pth --everything               all masks of each picture
    ptheta segment photos/ --model RUN --everything --sure 0.7                     each looked at twice
    ptheta segment scene.png --model RUN --text "a red disc" --words CLIP_RUN      of a run that learned with --words

A point is x,y, or x,y,0 for one that is outside of what is meant. Each picture NAME gives NAME.json, in the layout of
SA-1B's files (picture, and annotations with run lengths as COCO has them), and NAME-overlay.png, for a look; prompts
give masks as PNG besides, the best first.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from ptheta.data.images import image_files, read_colour
from ptheta.engine.checkpoint import full_disk_is_an_input_error
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.progress import Progress
from ptheta.sam import mask_sets
from ptheta.sam.overlays import overlay


def segment(
    pictures: Annotated[Path, tyro.conf.Positional], model: str, point: tyro.conf.UseAppendAction[list[str]],
    box: str | None = None, text: str | None = None, words: str | None = None, everything: bool = False,
    several: bool = True, points: int = 32, iou: float = 0.88, stability: float = 0.95, overlap: float = 0.7,
    layers: int = 0, least: int = 0, sure: float | None = None, out: Path | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:  # fmt: skip
    """Masks of what is meant by points, a box or words, or of everything.

    Args:
        pictures: A picture file, or a folder of them and of folders.
        model: A run, a model folder, an official .pth file, or a folder or Hub id as facebook/sam-vit-base.
        point: x,y in pixels, or x,y,0 for a point outside of what is meant; may be given several times.
        box: left,top,right,bottom in pixels.
        text: What is meant, in words.
        words: With --text: the run or model folder of clip that the model learned with.
        everything: All masks, by a grid of points.
        several: Three answers to a prompt (--no-several: one).
        points: With --everything: points a side of the grid.
        iou: With --everything: least IoU that the model expects.
        stability: With --everything: least stability of a mask.
        overlap: With --everything: greatest IoU of the boxes of two masks.
        layers: With --everything: layers of crops.
        least: With --everything: holes and islands of fewer pixels are removed.
        sure: With --everything: each mask is asked for again, closer, and of at least so much confidence, from 0 to 1
            (0.7 suits tiny); in place of iou, stability, layers and least.
        out: Folder for the results (default: segmented here, numbered when it exists).
        precision: bf16 is quicker on processors of 2022 and later.
    """
    from ptheta import api
    from ptheta.sam import checkpoint
    from ptheta.sam.everything import Everything
    from ptheta.sam.predictor import Predictor
    from ptheta.sam.twice import Twice

    if everything == bool(point or box or text):
        raise UsageError("what is to be segmented? allowed: --point, --box and --text, or --everything.")
    if (text is None) != (words is None):
        raise UsageError("--text and --words belong together: the text, and the run of clip that reads it.")
    asked = Everything(
        points=points, iou=iou, stability=stability, overlap=overlap, layers=layers, least=least
    )  # fmt: skip
    if sure is not None and not everything:
        raise UsageError("--sure is of all masks of a picture; add --everything, or leave it away.")
    if sure is not None and (layers or least):
        raise UsageError("--sure comes closer to each mask by itself; leave --layers and --least away, or --sure.")
    closer = None if sure is None else Twice(points=points, overlap=overlap, sure=sure)
    at = [numbers("point", one, (2, 3)) for one in point]
    prompt: dict[str, Any] = {}
    if at:
        prompt |= {"points": [p[:2] for p in at], "labels": [p[2] if len(p) == 3 else 1 for p in at]}
    if box:
        prompt["boxes"] = numbers("box", box, (4,))
    files = files_of(pictures)
    predictor = Predictor(checkpoint.read(model), precision)
    if text and words:
        prompt["words"] = said(api.load(words), text)
    folder = new_folder(out)
    with Progress(0, len(files), "pictures", visible=True) as progress:
        for step, (file, name) in enumerate(files.items(), 1):
            x = read_colour(file)
            masks = all_masks(predictor, x, closer or asked) if everything else answers(predictor, x, prompt, several)
            with full_disk_is_an_input_error(f"the masks of {file}"):
                written(folder / name, file, x, masks, apart=not everything)
            progress.advance(step)
    print(folder)


def numbers(what: str, text: str, counts: tuple[int, ...]) -> list[float]:
    """Of "x,y"."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts:
        form = "left,top,right,bottom" if what == "box" else "x,y, or x,y,0"
        raise UsageError(f"{what} {text!r} is impossible; allowed: {form}, in pixels.")
    return found


def said(model: Any, text: str) -> Any:
    """What a model of pictures and texts says of a text, (e,)."""
    if not hasattr(model, "text"):
        raise UsageError(f"a model of {model.name} reads no text; give a run of clip (option --words).")
    return model.text([text])[0]


def files_of(pictures: Path) -> dict[Path, Path]:
    """Picture files, and under what name their masks are written."""
    if not pictures.exists():
        raise InputError(f"{pictures} does not exist; give the path of a picture or of a folder of them.")
    files = image_files(pictures) if pictures.is_dir() else [pictures]
    if not files:
        raise InputError(f"{pictures} holds no pictures; give the path of a picture or of a folder of them.")
    within = pictures if pictures.is_dir() else pictures.parent
    names = {file: file.relative_to(within).with_suffix("") for file in files}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f"{pictures} holds several pictures called {twice[0]}; rename one of them.")
    return names


def new_folder(out: Path | None) -> Path:
    """It is made with the first result; one that holds something is refused."""
    if out is None:
        k = 1
        while (out := Path("segmented" if k == 1 else f"segmented-{k}")).exists():
            k += 1
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; name another folder (option --out).")
    return out


def all_masks(predictor: Any, x: np.ndarray, asked: Any) -> list[dict[str, Any]]:
    """`everything` with progress, or `twice`."""
    from ptheta.sam.everything import Everything, everything
    from ptheta.sam.twice import twice

    with Progress(0, 1000, "‰ of the picture", visible=True) as progress:
        if not isinstance(asked, Everything):
            return twice(predictor, x, asked, lambda share: progress.advance(int(1000 * share)))
        return everything(predictor, x, asked, lambda done, of: progress.advance(1000 * done // of))


def answers(predictor: Any, x: np.ndarray, prompt: dict[str, Any], several: bool) -> list[dict[str, Any]]:
    """The masks of a prompt, that of the greatest expected IoU first."""
    from ptheta.data import rle

    predictor.set_image(x)
    answer = predictor.predict(**prompt, several=several)
    found = []
    for i in answer.ious.argsort(descending=True).tolist():
        mask = answer.masks[i].numpy()
        rows, columns = np.nonzero(mask)
        box = [0, 0, 0, 0]
        if len(rows):
            box = [int(v) for v in (columns.min(), rows.min(), np.ptp(columns), np.ptp(rows))]
        found.append(
            {"segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": box,
             "predicted_iou": float(answer.ious[i]), "point_coords": prompt.get("points", [])}
        )  # fmt: skip
    return found


def written(at: Path, file: Path, x: np.ndarray, masks: list[dict[str, Any]], apart: bool) -> None:
    """The masks of one picture."""
    from PIL import Image

    from ptheta.data import rle

    mask_sets.write(at.with_name(f"{at.name}.json"), file.name, (x.shape[0], x.shape[1]), masks)
    shown = masks[:1] if apart else masks
    Image.fromarray(overlay(x, [rle.decode(one["segmentation"]) for one in shown])).save(
        at.with_name(f"{at.name}-overlay.png")
    )
    for i, one in enumerate(masks if apart else [], 1):
        mask = rle.decode(one["segmentation"])
        Image.fromarray(255 * mask.astype(np.uint8)).save(at.with_name(f"{at.name}-mask-{i}.png"))


def command(argv: list[str]) -> int:
    """`ptheta segment PICTURES --model M [options]`."""
    tyro.cli(segment, args=argv, prog="ptheta segment", description=(__doc__ or "").split("\n\n")[0])
    return 0
