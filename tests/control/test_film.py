"""Films that `play` makes."""

import os
import re
import stat
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from commands import done, files, refused, run
from PIL import Image
from worlds_that_count import CODE

import ptheta
from ptheta.control import film
from ptheta.control.envs import Environment


def shots(file: str) -> tuple[list[np.ndarray], list[int]]:
    """Pictures and milliseconds of a GIF."""
    pictures, lasting = [], []
    with Image.open(file) as image:
        for i in range(image.n_frames):
            image.seek(i)
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
            lasting.append(image.info["duration"])
    return pictures, lasting


def code(picture: np.ndarray) -> float:
    """The step that a picture of Counting is of."""
    return (picture[5:50, 5:80, 1].mean() - CODE[1]) / 16


@pytest.mark.parametrize(("fps", "every"), [(None, 2), ("30", 1), ("10", 3), ("7", 5)])
def test_a_film_shows_each_episode_to_its_last_step_and_at_its_speed(folders, here, fps, every):
    more = [] if fps is None else ["--fps", fps]
    lines = done("play", folders["counting"], "--episodes", "3", "--seed", "2", "--video", "a.gif", *more)
    assert lines[-1] == "a.gif" and lines[:3] == done("play", folders["counting"], "--episodes", "3", "--seed", "2")
    lengths = [int(text.split()[5]) for text in lines[:3]]
    expected = [t for length in lengths for t in range(length + 1) if t % every == 0 or t == length]
    pictures, lasting = shots("a.gif")
    assert [code(p) for p in pictures] == pytest.approx(expected, abs=0.45)
    assert sum(lasting) == pytest.approx(1000 * (sum(lengths) / 30 + 3), abs=5)
    ends = np.cumsum([(b - a if b > a else 30) for a, b in zip(expected, [*expected[1:], 0])])
    assert np.cumsum(lasting) == pytest.approx(1000 * ends / 30, abs=5.1)


def test_below_the_picture_there_is_a_line_of_text_that_changes(folders, here):
    done("play", folders["counting"], "--video", "a.gif", "--fps", "30")
    pictures, _ = shots("a.gif")
    assert all(p.shape == (82, 90, 3) for p in pictures)
    texts = [p[60:] for p in pictures]
    assert all((text > 245).mean() > 0.6 and (text < 140).mean() > 0.005 for text in texts)
    assert all((a != b).any() for a, b in zip(texts, texts[1:]))


@pytest.mark.parametrize(("size", "side"), [(None, 400), ("64", 64), ("3000", 1806)])
def test_pictures_are_scaled_down_and_never_up(folders, here, size, side):
    more = [] if size is None else ["--size", size]
    done("play", folders["counting"], "--env", "test-playing/Wide-v0", "--limit", "1", "--video", "a.gif", *more)
    pictures, _ = shots("a.gif")
    h, w, _ = pictures[0].shape
    assert w == side and h % 2 == 0 and h - 2 * min(24, max(11, side // 36)) == pytest.approx(900 * side / 1805, abs=2)


def test_a_film_of_the_cart_is_small_and_needs_no_display(folders, here, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT"):
        monkeypatch.delenv(name, raising=False)
    argv = ("play", folders["balance"], "--env", "CartPole-v0", "--video", "a.gif")
    assert done(*argv) == ["episode 1   return 200   length 200   truncated", "a.gif"]
    assert os.stat("a.gif").st_size < 150_000 and files() == ["a.gif"]
    pictures, lasting = shots("a.gif")
    assert sum(lasting) == 5_000 and (pictures[0][:20] > 250).all() and (pictures[3] < 10).any()


@pytest.mark.parametrize("fails", [False, True])
def test_an_mp4_is_made_of_what_a_gif_is_made_of(folders, tmp_path, tmp_path_factory, monkeypatch, fails):
    program = tmp_path_factory.mktemp("bin") / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "if '-encoders' in sys.argv: sys.exit(print(' V..... mpeg4  x'))\n"
        "given = sys.stdin.buffer.read()\n"
        + ("sys.exit('no room')\n" if fails else "open(sys.argv[-1], 'wb').write(given)\n")
        + "open('argv', 'w').write(' '.join(sys.argv))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    left, out, err = run("play", folders["counting"], "--episodes", "2", "--video", "film.v1.mp4", "--fps", "15")
    assert left == 0, err
    if fails:
        assert "ffmpeg failed (no room); film.v1.gif is written instead" in err and out.endswith("film.v1.gif\n")
        assert files() == ["film.v1.gif"]
        return
    assert out.endswith("film.v1.mp4\n") and files() == ["argv", "film.v1.mp4"]
    argv = Path("argv").read_text()
    assert "-s 90x82 -r 15.000000 -i -" in argv and "-c:v mpeg4" in argv
    pictures = np.frombuffer(Path("film.v1.mp4").read_bytes(), np.uint8).reshape(-1, 82, 90, 3).astype(int)
    lengths = [int(text.split()[5]) for text in out.splitlines()[:2]]
    expected = [t for n in lengths for t in [*range(0, n, 2), *[n] * 15]]
    assert [code(p) for p in pictures] == expected


def test_where_no_encoder_is_a_gif_stands_in_and_it_is_said(folders, here):
    left, out, err = run("play", folders["counting"], "--video", "a.mp4")
    assert left == 0 and out.endswith("a.gif\n") and files() == ["a.gif"]
    assert "mp4 needs an encoder, and none is here; a.gif is written instead" in err.splitlines()[0]
    left, out, err = run("play", folders["counting"], "--video", "a.mp4")
    assert left == 2 and out == "" and err.splitlines()[-1] == "ptheta: a.gif exists; name another --video."


def test_a_real_encoder_writes_an_mp4(folders, tmp_path, monkeypatch):
    if film.mp4_encoder() is None:
        pytest.skip("there is no ffmpeg")
    monkeypatch.chdir(tmp_path)
    assert done("play", folders["counting"], "--video", "a.mp4")[-1] == "a.mp4"
    assert Path("a.mp4").read_bytes()[4:8] == b"ftyp"


# ---------------------------------------------------------------- MuJoCo


def test_the_camera_goes_along_and_the_physics_stay_what_they_are():
    envs = [gymnasium.make("HalfCheetah-v5", render_mode="rgb_array") for _ in range(2)]
    film.follow(envs[1])
    core = envs[1].unwrapped
    assert core.model.camera(core.mujoco_renderer.camera_id).name == "track"
    assert (core.model.geom("floor").size[:2] == 0).all() and (envs[0].unwrapped.model.geom("floor").size[:2] > 0).all()
    seen = [env.reset(seed=3)[0] for env in envs]
    g = np.random.RandomState(0)
    for _ in range(120):
        assert np.array_equal(*seen)
        action = g.uniform(-1, 1, 6)
        (a, r, *_), (b, q, *_) = (env.step(action) for env in envs)
        seen = [a, b]
        assert r == q
    film.follow(gymnasium.make("CartPole-v1"))  # nothing of it is MuJoCo's


def test_what_walked_far_is_still_seen_over_a_floor(monkeypatch):
    """Without a display: 80 m from home, a cheetah looks as it does there, and half a square further the squares are
    others. The floor of its model ends after 40 m, which are 30 pairs of squares."""
    if not film.works("egl"):
        pytest.skip("there is no EGL")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    environment, rate = film.filmed(Environment("HalfCheetah-v5"))
    env = environment.make()
    env.reset(seed=0)
    film.follow(env)
    core, pictures = env.unwrapped, []
    for x in (0.0, 80.0, 80.0 + 2 / 3):
        core.set_state(core.init_qpos + x * np.eye(9)[0], core.init_qvel)
        pictures.append(np.asarray(film.picture(env, "cheetah")).astype(int))
    env.close()
    home, far, further = pictures
    assert rate == 20 and home[400:].std() > 30, "a floor of squares"
    assert np.abs(home - far).mean() < 2
    assert np.abs(far - further)[400:].mean() > 50 and np.abs(far - further)[:200].mean() < 1


def test_openGL_is_what_was_wished_for_or_the_first_that_works(monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(film.sys, "platform", "linux")
    monkeypatch.setattr(film, "works", {"egl": False, "osmesa": True, "glfw": True}.get)
    assert film.opengl("X") == "osmesa" and capsys.readouterr().err == ""
    monkeypatch.setenv("MUJOCO_GL", "EGL")
    assert film.opengl("X") == "osmesa"
    assert capsys.readouterr().err == "ptheta: MUJOCO_GL = egl does not work here; osmesa does.\n"
    monkeypatch.setenv("DISPLAY", ":0")
    assert film.opengl("X") == "glfw"
    monkeypatch.setattr(film, "works", lambda backend: False)
    with pytest.raises(ptheta.InputError, match=r"X cannot be drawn: .* \(tried egl, glfw, osmesa\). Install EGL or"):
        film.opengl("X")


def test_a_backend_is_tried_by_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not film.works("off") and not film.works("osmesa; import os")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nonsense")  # with which no backend of PyOpenGL loads
    film.works.cache_clear()
    assert not film.works("egl")
    film.works.cache_clear()
    assert not files(), "MuJoCo's log is not left here"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("exits", "says", "argv"),
    [
        (2, "episodes = 0 is impossible; allowed: at least 1 .*--episodes", ("evaluate", "cart", "--episodes", "0")),
        (2, "episodes = -1 is impossible; allowed: at least 1", ("play", "cart", "--episodes", "-1")),
        (2, "limit = 0 is impossible; allowed: at least 1", ("play", "cart", "--limit", "0")),
        (2, "'CartPol-v1' is unknown; .*Did you mean 'CartPole-v1'", ("play", "cart", "--env", "CartPol-v1")),
        (2, "'CartPol-v1' is unknown; .*Did you mean 'CartPole-v1'", ("evaluate", "cart", "--env", "CartPol-v1")),
        (1, "Acrobot-v1 has observations 6, 3 actions, and the policy of .* observations 4, 2 actions; name a fitting",
         ("evaluate", "cart", "--env", "Acrobot-v1")),
        (1, "Pendulum-v1 has observations 3, actions of 1 numbers", ("play", "cart", "--env", "Pendulum-v1")),
        (1, r"has actions from \(-4.0,\) to \(4.0,\), and .* from \(-2.0,\) to \(2.0,\); name a fitting --env",
         ("play", "pendulum", "--env", "test-playing/Strong-v0")),
        (2, "taken.gif exists; name another --video", ("play", "cart", "--video", "taken.gif")),
        (2, "a.avi is of an unknown kind; allowed: names that end with .mp4 or .gif",
         ("play", "cart", "--video", "a.avi")),
        (2, "--video gif is of an unknown kind", ("play", "cart", "--video", "gif")),
        (2, "taken.gif is no folder; name another --video", ("play", "cart", "--video", "taken.gif/b.gif")),
        (2, "--size and --fps are of a film; name its file with --video", ("play", "cart", "--fps", "10")),
        (2, "fps = 0.0; allowed: .*above 0", ("play", "cart", "--video", "a.gif", "--fps", "0")),
        (2, "size = 10, .*from 64", ("play", "cart", "--video", "a.gif", "--size", "10")),
        (1, "Blind-v0 gives no pictures .rgb_array.: it has only ansi. Without --video, it plays",
         ("play", "cart", "--env", "test-playing/Blind-v0", "--video", "a.gif")),
        (1, "nowhere is neither a folder nor a Hub id", ("play", "nowhere", "--video", "a.gif")),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_one_line(folders, here, exits, says, argv):
    Path("taken.gif").write_text("mine")
    refused(exits, says, *(folders.get(word, word) for word in argv))
    assert Path("taken.gif").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("Broken", "cannot be drawn: pygame is not installed, run `pip install pygame`. Without --video, it plays"),
        ("Strange", r"draws a picture of float64 \(4, 4\); allowed: bytes \(H, W, 3\). Without --video, it plays"),
    ],
)
def test_a_renderer_that_fails_is_one_line_and_no_file(folders, here, kind, says):
    argv = ("play", folders["counting"], "--env", f"test-playing/{kind}-v0")
    assert done(*argv)[0].endswith("terminated")
    left, out, err = run(*argv, "--video", "a.gif")
    assert left == 1 and out == "" and files() == [] and "Traceback" not in err
    assert re.fullmatch(rf"ptheta: [^\n]*{says}.\n", err), err
