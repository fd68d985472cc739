"""A folder of pictures as 0/1 vectors."""

from pathlib import Path
from typing import Any

import numpy as np

from ptheta.engine.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def image_files(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders below it, sorted by path; hidden ones are left out."""
    return [path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES]


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder and the folders below it, sorted by path; what is hidden is left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def on_white(image: Any) -> Any:
    """A Pillow image with 8 bits a channel, laid on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which convert("L") would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def read_images(files: list[Path], size: int, threshold: float) -> np.ndarray:
    """The pictures as (N, size * size) uint8: 1 where the grey value exceeds `threshold` (0 black to 1 white).

    Each is turned upright, laid on white where it is transparent, and shrunk or stretched to a square by averaging.
    Raises InputError, naming the file, for a picture that cannot be decoded.
    """
    return np.stack([(_grey(path, size) > threshold).reshape(-1) for path in files]).astype(np.uint8)


def _grey(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError("its pixels are floats of unknown range; save it as 8-bit grey")
            if image.mode.startswith("I"):  # 16-bit grey, which convert("L") would clip at 255
                values = np.asarray(image).astype(np.float32) / 65535
                image = Image.fromarray(values)
                return np.asarray(image.resize((size, size), Image.Resampling.BOX))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            grey = image.convert("L").resize((size, size), Image.Resampling.BOX)
            return np.asarray(grey, dtype=np.float32) / 255
    except Exception as error:  # Pillow raises whatever its decoders meet
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a picture ({reason}); repair or remove it") from error


def as_colour(image: Any, where: object) -> np.ndarray:
    """A Pillow image as uint8 (H, W, 3): upright, on white, grey as three channels alike. InputError, naming `where` it
    is from, for pixels whose range is not known."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{where} has pixels that are floats of unknown range; save it with 8 bits a channel.")
    return np.asarray(on_white(image).convert("RGB"))


def read_colour(path: Path) -> np.ndarray:
    """`as_colour` of a file. InputError, naming it, for a picture that cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return as_colour(opened, path)
    except InputError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders meet
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a picture ({reason}); repair or remove it.") from error
