"""Folders of small pictures that the contract's methods learn from: with captions, with label maps, with masks."""

import atexit
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ptheta.data import rle


def painted() -> str:
    """A folder of 200 small coloured pictures, each of one of four colours and kinds, with captions that say which."""
    folder = Path(tempfile.mkdtemp(prefix="painted-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    g, lines = np.random.RandomState(0), ["file,caption"]
    colours = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "yellow": (230, 220, 40)}
    for i in range(200):
        colour, kind = list(colours)[i % 4], ("bar", "square", "frame", "cross")[i // 4 % 4]
        x = g.randint(0, 60, (12, 12, 3))
        at = {"bar": np.s_[4:8, :], "square": np.s_[3:9, 3:9], "frame": np.s_[::11, :], "cross": np.s_[:, 5:7]}[kind]
        x[at] = np.array(colours[colour]) - g.randint(0, 40, x[at].shape)
        Image.fromarray(x.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,a {colour} {kind}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def labelled() -> str:
    """A folder of 60 small pictures of red and blue rectangles on grey noise, and maps of which pixels are which."""
    folder = Path(tempfile.mkdtemp(prefix="labelled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "images").mkdir(), (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("ground\nred\nblue\n")
    g = np.random.RandomState(0)
    for i in range(60):
        x, y = g.randint(60, 120, (24, 24, 3)), np.zeros((24, 24), np.uint8)
        for label, colour in ((1, (220, 40, 40)), (2, (40, 60, 220))):
            row, column, h, w = (*g.randint(0, 14, 2), *g.randint(6, 10, 2))
            x[row : row + h, column : column + w] = np.array(colour) - g.randint(0, 30, 3)
            y[row : row + h, column : column + w] = label
        Image.fromarray(x.astype(np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(y).save(folder / f"labels/{i}.png")
    return str(folder)


def masked() -> str:
    """A folder of 40 small pictures of a bright square in the dark, each with a file of its mask and its middle's."""
    folder = Path(tempfile.mkdtemp(prefix="masked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    g = np.random.RandomState(0)
    for i in range(40):
        x, masks = g.randint(0, 50, (64, 64, 3)).astype(np.uint8), np.zeros((2, 64, 64), bool)
        row, column = g.randint(2, 26, 2)
        masks[0, row : row + 36, column : column + 36] = True
        masks[1, row + 12 : row + 24, column + 12 : column + 24] = True
        x[masks[0]] += 150
        x[masks[1], 0] += 50
        Image.fromarray(x).save(folder / f"{i}.png")
        told = [{"segmentation": rle.compressed(rle.encode(mask))} for mask in masks]
        about = {"file_name": f"{i}.png", "height": 64, "width": 64}
        (folder / f"{i}.json").write_text(json.dumps({"image": about, "annotations": told}))
    return str(folder)
