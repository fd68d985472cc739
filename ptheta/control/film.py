r"""A film of episodes, drawn without a screen: pictures by the environment's own renderer, a GIF or an mp4 of them.

An environment's step is 1 / f of a second, with f its `render_fps`. One step in k is seen, so that speed stays as it
is with f / k pictures a second.

GIFs are written by Pillow, with one palette and, of each picture, the part that changed. An mp4 wants ffmpeg, of the
package imageio-ffmpeg or on the PATH.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptheta.control.envs import Environment, Envs
from ptheta.control.ids import told
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.results import save_whole

if TYPE_CHECKING:
    from PIL import Image

RATES = {".gif": 25.0, ".mp4": 60.0}  # pictures a second, at most
SIDES = {".gif": 400, ".mp4": 720}  # pixels of the longer side, at most


class Film:
    """Pictures of episodes, each with the step and the return so far below it.

    every: Steps from one picture to the next; the last of an episode is always seen, and stays for a second.
    """

    def __init__(self, name: str, rate: float, every: int, side: int, episodes: int):
        self.name, self.rate, self.every, self.side, self.episodes = name, rate, every, side, episodes
        self.size = (0, 0)
        self.kept: list[bytes] = []  # compressed: a thousand pictures take a gigabyte as they are
        self.steps: list[float] = []  # that each is shown for
        self.heard: Callable[[int], None] = lambda step: None
        self.episode, self.at, self.seen = 0, 0, None

    def watch(self, envs: Envs, limit: int) -> None:
        """Take pictures within the step: after it, the next episode has begun where one ended."""
        self.env = envs.envs[0]
        inner, step = envs.steps[0], 0

        def stepped(action: Any) -> Any:
            nonlocal step
            said, step = inner(action), step + 1
            over = len(said) == 5 and bool(said[2] or said[3]) or step == limit
            self.seen = picture(self.env, self.name) if over or step % self.every == 0 else None
            step = 0 if over else step
            return said

        envs.steps[0] = stepped
        follow(self.env)

    def begin(self) -> None:
        """With the first picture of an episode."""
        self.episode += 1
        self.seen = picture(self.env, self.name)
        self.after(0, 0.0, False)

    def after(self, step: int, total: float, last: bool) -> None:
        """Keep what was seen in this step, if there was something."""
        self.heard(step)
        if self.seen is None:
            return
        if step:
            self.steps[-1] = step - self.at
        framed = self.framed(self.seen, step, total)
        self.size, self.at, self.seen = framed.size, step, None
        self.kept.append(zlib.compress(framed.tobytes(), 1))
        self.steps.append(self.rate if last else self.every)

    def framed(self, shot: Image.Image, step: int, total: float) -> Image.Image:
        """The picture, no larger than it may be, over a line of text; sides are even, as mp4 wants them."""
        from PIL import Image, ImageDraw, ImageFont

        scale = min(1.0, self.side / max(shot.size))
        w, h = max(1, round(shot.width * scale)), max(1, round(shot.height * scale))
        if scale < 1:
            shot = shot.resize((w, h), Image.Resampling.LANCZOS)
        letters = min(24, max(11, w // 36))
        size = self.size if self.kept else (w + w % 2, (h + 2 * letters) // 2 * 2)
        page = Image.new("RGB", size, "white")
        page.paste(shot)
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(letters)
        y, edge = size[1] - letters, letters // 2
        places = ((f"step {step:,}", size[0] * 0.6, "rm"), (f"return {number(total)}", size[0] - edge, "rm"))
        which = f"{self.episode}/{self.episodes}  " if self.episodes > 1 else ""
        room = size[0] * 0.6 - draw.textlength("step 10,000", font) - 2 * edge
        title = next((t for t in (which + self.name, which) if draw.textlength(t, font) <= room), "")
        for text, x, anchor in ((title, edge, "lm"), *places):
            draw.text((x, y), text, fill=(70, 70, 70), font=font, anchor=anchor)
        return page

    def images(self, every: int = 1) -> Iterator[Image.Image]:
        """The pictures, or each `every`-th of them."""
        from PIL import Image

        return (Image.frombytes("RGB", self.size, zlib.decompress(one)) for one in self.kept[::every])


def picture(env: Any, name: str) -> Image.Image:
    """What the environment looks like now. InputError if it cannot be drawn."""
    from PIL import Image

    try:
        seen = env.render()
    except Exception as error:  # of the drivers and renderers of others
        raise InputError(f"{name} cannot be drawn: {told(error)}. Without --video, it plays.") from error
    if not (isinstance(seen, np.ndarray) and seen.dtype == np.uint8 and seen.ndim == 3 and seen.shape[2] in (3, 4)):
        what = f"{seen.dtype} {seen.shape}" if isinstance(seen, np.ndarray) else type(seen).__name__
        raise InputError(f"{name} draws a picture of {what}; allowed: bytes (H, W, 3). Without --video, it plays.")
    return Image.fromarray(np.ascontiguousarray(seen[..., :3]))


def filmed(environment: Environment) -> tuple[Environment, float]:
    """The same environment, able to be drawn without a display, and its steps a second.

    Raises InputError where that cannot be.
    """
    with closing(environment.make()) as env:
        about, core = getattr(env, "metadata", None) or {}, env.unwrapped
        modes = list(about.get("render_modes") or [])
        rate = float(about.get("render_fps") or 30)
        mujoco = hasattr(core, "mujoco_renderer")
    if "rgb_array" not in modes:
        has = f"only {', '.join(map(str, modes))}" if modes else "no way of drawing it"
        raise InputError(f"{environment.name} gives no pictures (rgb_array): it has {has}. Without --video, it plays.")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it would be among the results
    if not display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if mujoco:
        os.environ["MUJOCO_GL"] = opengl(environment.name)
    return Environment(environment.spec, "rgb_array"), rate


def display() -> bool:
    """Whether there is a screen, or may be."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def opengl(name: str) -> str:
    """What MuJoCo can draw with: MUJOCO_GL if that works, else the first that does. InputError if none does."""
    wish = os.environ.get("MUJOCO_GL", "").strip().lower()
    allowed = [*(["glfw"] if display() else []), "egl", "osmesa"]
    tried = [*([wish] if wish else []), *(backend for backend in allowed if backend != wish)]
    found = next((backend for backend in tried if works(backend)), None)
    if found is None:
        raise InputError(
            f"{name} cannot be drawn: MuJoCo finds no OpenGL here (tried {', '.join(tried)}). Install EGL or OSMesa "
            "(on Debian, libegl1 with libgl1-mesa-dri, or libosmesa6). Without --video, it plays."
        )
    if wish and found != wish:
        print(f"ptheta: MUJOCO_GL = {wish} does not work here; {found} does.", file=sys.stderr)
    return found


@functools.cache
def works(backend: str) -> bool:
    """Whether MuJoCo can draw with it: tried by another process, as PyOpenGL settles for one in each, and as drivers
    crash."""
    if backend not in ("glfw", "egl", "osmesa"):
        return False
    code = (
        f"import mujoco; from mujoco.{backend} import GLContext; c = GLContext(64, 64); c.make_current(); "
        "mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), mujoco.mjtFontScale.mjFONTSCALE_100)"
    )
    with tempfile.TemporaryDirectory() as folder, suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True,
            timeout=60,
        )  # fmt: skip
        return said.returncode == 0
    return False


def follow(env: Any) -> None:
    """Of MuJoCo: let the camera go along with what walks, over a floor without end.

    Left alone, that of gymnasium (1.4) stays where it is, and the floor is left after 40 m. Only what is seen changes:
    in the physics a plane is endless, whatever its size.
    """
    core = env.unwrapped
    if not hasattr(core, "mujoco_renderer"):
        return
    mujoco: Any = importlib.import_module("mujoco")
    model = core.model
    track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if track < 0:
        return
    core.mujoco_renderer.camera_id = track
    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    for g in np.flatnonzero(planes & (model.geom_size[:, :2] > 0).all(1)):
        whole_of, material = 2 * model.geom_size[g, :2], model.geom_matid[g]
        model.geom_size[g, :2] = 0
        if material >= 0 and not model.mat_texuniform[material] and (model.geom_matid == material).sum() == 1:
            model.mat_texrepeat[material] /= whole_of  # so often on the whole, to so often a metre


# ---------------------------------------------------------------- files


def destination(video: Path) -> tuple[Path, tuple[str, str] | None]:
    """The file to write, and the encoder if it is an mp4: a GIF beside it where there is none.

    Raises UsageError for another ending, and for a file that exists.
    """
    if video.suffix.lower() not in RATES:
        raise UsageError(f"--video {video} is of an unknown kind; allowed: names that end with .mp4 or .gif.")
    if not (folder := next(p for p in video.absolute().parents if p.exists())).is_dir():
        raise UsageError(f"{folder} is no folder; name another --video.")
    if video.exists():
        raise UsageError(f"{video} exists; name another --video.")
    encoder = mp4_encoder() if video.suffix.lower() == ".mp4" else None
    if encoder or video.suffix.lower() == ".gif":
        return video, encoder
    gif = video.with_suffix(".gif")
    print(
        f"ptheta: mp4 needs an encoder, and none is here; {gif} is written instead. To have one: pip install "
        "imageio-ffmpeg",
        file=sys.stderr,
    )
    if gif.exists():
        raise UsageError(f"{gif} exists; name another --video.")
    return gif, None


def mp4_encoder() -> tuple[str, str] | None:
    """An ffmpeg program and its best codec."""
    program = shutil.which("ffmpeg")
    with suppress(ImportError, RuntimeError):
        program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    if program is None:
        return None
    try:
        said = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(((program, codec) for codec in ("libx264", "mpeg4") if f" {codec} " in said.stdout), None)


def write(film: Film, file: Path, encoder: tuple[str, str] | None) -> None:
    """The film as a file, whole or not at all; its name goes to stdout."""
    if encoder:
        try:
            save_whole(file.with_suffix(""), {file.suffix: lambda part: write_mp4(film, part, *encoder)})
            return
        except RuntimeError as error:
            file = file.with_suffix(".gif")
            print(f"ptheta: {error}; {file} is written instead.", file=sys.stderr)
            if file.exists():
                raise InputError(f"{file} exists, and mp4 cannot be written; name another --video.") from error
    save_whole(file.with_suffix(""), {file.suffix: lambda part: write_gif(film, part)})


def write_gif(film: Film, path: Path) -> None:
    """One palette for all pictures, and of each picture only what changed."""
    from PIL import Image

    sample = list(film.images(max(1, len(film.kept) // 16)))
    w, h = film.size
    sheet = Image.new("RGB", (w, h * len(sample)))
    for i, one in enumerate(sample):
        sheet.paste(one, (0, i * h))
    found = np.array(sheet.quantize(255, Image.Quantize.FASTOCTREE).getpalette(), np.uint8).reshape(-1, 3)
    colours = np.unique(found, axis=0).tobytes()  # Pillow is slow where one is there twice
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    ends = np.round(100 * np.cumsum(film.steps) / film.rate).astype(int)  # a GIF counts hundredths of a second
    lasting = np.maximum(2, np.diff(ends, prepend=0))  # what is shorter, browsers show for 10 of them
    images = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in film.images())
    next(images).save(
        path, format="GIF", save_all=True, append_images=images, duration=(10 * lasting).tolist(), loop=0, disposal=1,
        optimize=False, palette=colours,
    )  # fmt: skip


def write_mp4(film: Film, path: Path, program: str, codec: str) -> None:
    """By ffmpeg. RuntimeError if it fails."""
    w, h = film.size
    quality = ["-crf", "20"] if codec == "libx264" else ["-q:v", "3"]
    command = [
        program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r",
        f"{film.rate / film.every:.6f}", "-i", "-", "-an", "-c:v", codec, *quality, "-pix_fmt", "yuv420p",
        "-movflags", "+faststart", "-f", "mp4", str(path),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        with suppress(BrokenPipeError):
            for one, steps in zip(film.images(), film.steps):
                process.stdin.write(one.tobytes() * max(1, round(steps / film.every)))
        with suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode or not path.exists():
        raise RuntimeError(f"{Path(program).name} failed ({said[-1] if said else f'code {process.returncode}'})")


def number(value: float) -> str:
    """1200 -> '1,200'; 12.345 -> '12.35'; -1234.56 -> '-1,234.6'."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{2 if abs(value) < 100 else 1}f}"
