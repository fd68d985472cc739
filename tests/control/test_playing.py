"""`evaluate` and `play` of a policy, as a user types them, and the films that `play` makes."""

import hashlib
import io
import json
import math
import os
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import done, files, refused, run
from PIL import Image

import ptheta
from ptheta import api, cli, playing
from ptheta.control import film
from ptheta.control.a2c import Model
from ptheta.control.envs import Environment
from ptheta.control.episodes import judged
from ptheta.engine.progress import Progress

CODE = (200, 40, 40)  # of the first picture; each step is 16 brighter in green


class Counting(gymnasium.Env):
    """Two for each step, and an episode of 4 to 12 of them; the picture tells the step. The last of them is seen once,
    as the next episode begins with 0 again."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    shape = (60, 90, 3)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.length = 0, int(self.np_random.integers(4, 13))
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.full(4, self.at, np.float32), 2.0, self.at == self.length, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.full(self.shape, (CODE[0], min(255, CODE[1] + 16 * self.at), CODE[2]), np.uint8)


class Wide(Counting):
    """With a picture that is too large for a film."""

    shape = (900, 1805, 3)


class Endless(Counting):
    """Without an end of its own."""

    def reset(self, *, seed=None, options=None):
        said = super().reset(seed=seed)
        self.length = -1
        return said


class Blind(Counting):
    """Without any way of drawing it."""

    metadata = {"render_modes": ["ansi"]}


class Broken(Counting):
    """That lacks what it draws with."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")


class Strange(Counting):
    """That draws what is no picture."""

    def render(self):
        return np.zeros((4, 4))


class Strong(gymnasium.Env):
    """A pendulum's spaces, but for twice the torque."""

    def __init__(self, render_mode: str | None = None):
        pendulum = gymnasium.make("Pendulum-v1").unwrapped
        self.observation_space = pendulum.observation_space
        self.action_space = gymnasium.spaces.Box(-4.0, 4.0, (1,), np.float32)


KINDS = (Counting, Wide, Endless, Blind, Broken, Strange, Strong)


@pytest.fixture(scope="module", autouse=True)
def registered():
    for kind in KINDS:
        gymnasium.register(f"test-playing/{kind.__name__}-v0", kind)
    yield
    for kind in KINDS:
        del gymnasium.registry[f"test-playing/{kind.__name__}-v0"]


def saved(folder: Path, environment: str, weight: tuple[float, ...] | None = None) -> str:
    """An untrained linear policy as a model folder; of two actions, it prefers the second where weight · s > 0."""
    model = Model(environment, Environment(environment).spaces.to_dict(), hidden=(), seed=3)
    if weight is not None:
        with torch.no_grad():
            matrix, bias = model.policy.net.parameters()
            bias.zero_(), matrix.zero_()
            matrix[1] = torch.tensor(weight)
    model.save_pretrained(folder, about={"data": environment})
    return str(folder)


@pytest.fixture(scope="module")
def folders(registered, tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    return {
        "balance": saved(at / "balance", "CartPole-v1", (0.05, 0.3, 1.0, 1.0)),
        "cart": saved(at / "cart", "CartPole-v1", (0.0, 0.0, 0.0, 0.0)),
        "pendulum": saved(at / "pendulum", "Pendulum-v1"),
        "counting": saved(at / "counting", "test-playing/Counting-v0"),
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(film, "mp4_encoder", lambda: None)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a2c, and what was said after its training."""
    out = tmp_path_factory.mktemp("runs") / "run"
    argv = ("train", "a2c", "--env", "CartPole-v1", "--steps", "480", "--hidden", "8", "--eval-every", "160")
    return str(out), run(*argv, "--threads", "1", "--out", out)


# ---------------------------------------------------------------- evaluate


def test_training_says_what_the_best_policy_got_and_what_comes_next(trained):
    path, (code, out, err) = trained
    assert code == 0, err
    best, where = out.splitlines()
    said = re.fullmatch(r"best valid return (\S+) ± (\S+) at step ([\d,]+)", best)
    assert said and where == path
    measured = [m for m in ptheta.Run.open(path).metrics() if "return_mean" in m]
    top = max(measured, key=lambda m: m["return_mean"])
    assert len(measured) > 2 and float(said[1]) == pytest.approx(top["return_mean"], rel=1e-5)
    assert float(said[2]) == pytest.approx(top["return_mean_se"], rel=1e-3)
    assert int(said[3].replace(",", "")) == top["step"]
    assert err.splitlines()[-1] == f"next: ptheta evaluate {path}   ptheta play {path} --video {path}/play.gif"


def test_a_run_is_judged_as_it_was_while_it_trained(trained):
    path, _ = trained
    best = max((m for m in ptheta.Run.open(path).metrics() if "return_mean" in m), key=lambda m: m["return_mean"])
    for source in (path, f"{path}/model"):
        told = json.loads(done("evaluate", source, "--split", "valid", "--episodes", "10", "--json")[0])
        assert (told["method"], told["data"], told["split"]) == ("a2c", "CartPole-v1", "valid")
        for name in ("return_mean", "return_mean_se", "length_mean", "length_mean_se"):
            assert told["metrics"][name] == pytest.approx(best[name], rel=1e-12)


def test_figures_are_those_of_the_single_episodes(folders):
    model, environment = playing.opened(folders["counting"])
    returns, lengths = (x.double().numpy() for x in judged(model, environment, "test", 22))
    assert len(set(lengths)) > 3 and np.array_equal(returns, 2 * lengths)
    assert np.median(lengths) not in lengths, "the median of an even count is between two"
    metrics = json.loads(done("evaluate", folders["counting"], "--episodes", "22", "--json")[0])["metrics"]
    assert metrics["episodes"] == 22
    for name, values in (("return", returns), ("length", lengths)):
        expected = {
            "mean": values.mean(), "mean_se": values.std(ddof=1) / math.sqrt(22), "min": values.min(),
            "median": np.median(values), "max": values.max(),
        }  # fmt: skip
        for which, value in expected.items():
            assert metrics[f"{name}_{which}"] == pytest.approx(value, rel=1e-9), (name, which)
    one = json.loads(done("evaluate", folders["counting"], "--episodes", "1", "--json")[0])["metrics"]
    assert "return_mean_se" not in one and one["return_mean"] == returns[0]


def test_a_person_reads_three_lines(folders):
    title, returns, lengths = done("evaluate", folders["balance"], "--episodes", "4")
    assert title == "4 deterministic episodes of a2c in CartPole-v1, test"
    assert returns == "return 500 ± 0   min 500   median 500   max 500"
    assert lengths == "length 500 ± 0   min 500   median 500   max 500"
    assert done("evaluate", folders["counting"], "--episodes", "1")[1].count("±") == 0


def test_another_environment_of_the_same_spaces_is_one_to_be_judged_in(folders):
    told = json.loads(done("evaluate", folders["balance"], "--env", "CartPole-v0", "--episodes", "3", "--json")[0])
    assert told["data"] == "CartPole-v0" and told["metrics"]["return_mean"] == 200
    assert done("play", folders["balance"], "--data", "CartPole-v0") == [
        "episode 1   return 200   length 200   truncated"
    ]


def test_drawn_actions_are_other_actions(folders):
    """Pushed to the same side always, a pole stands for 9.4 steps on average; to either side evenly, for 22."""
    means = {}
    for more in ([], ["--stochastic"]):
        told = json.loads(done("evaluate", folders["cart"], "--episodes", "100", "--json", *more)[0])
        means[told["policy"]] = told["metrics"]["length_mean"]
    assert means["deterministic"] == pytest.approx(9.4, abs=0.4) and means["stochastic"] == pytest.approx(22, abs=4)
    lines = [done("play", folders["cart"], "--episodes", "5", "--stochastic", "--seed", s) for s in ("4", "4", "5")]
    assert lines[0] == lines[1] != lines[2]
    assert lines[0] != done("play", folders["cart"], "--episodes", "5", "--seed", "4")


def test_threads_and_the_model_are_given_back(folders):
    torch.set_num_threads(2)
    model, heard = ptheta.load(folders["cart"]), []
    other = playing.asked(model, None, heard.append)
    s = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.decide(s), model.decide(s)) and heard == [5]
    with playing.one_thread(model):
        assert torch.get_num_threads() == 1
    done("evaluate", folders["cart"], "--episodes", "1")
    assert torch.get_num_threads() == 2
    pixels: Any = SimpleNamespace(spaces=SimpleNamespace(pixels=True))
    with playing.one_thread(pixels):  # convolutions gain by them
        assert torch.get_num_threads() == 2


# ---------------------------------------------------------------- play


def test_episodes_are_those_of_a_plain_loop_over_gymnasium(folders):
    key = hashlib.blake2b(b"7/play/0/0", digest_size=4).digest()
    model, env = ptheta.load(folders["pendulum"]), gymnasium.make("Pendulum-v1")
    o, _ = env.reset(seed=int.from_bytes(key, "little") >> 1)
    expected = []
    for _ in range(2):
        total, length, over = 0.0, 0, False
        while not over:
            o, r, terminated, truncated, _ = env.step(model.act(o.astype(np.float32)))
            total, length, over = total + float(r), length + 1, terminated or truncated
        expected.append((total, length))
        o, _ = env.reset()
    lines = done("play", folders["pendulum"], "--episodes", "2", "--seed", "7")
    for i, (text, (total, length)) in enumerate(zip(lines, expected), 1):
        assert text == f"episode {i}   return {total:,.1f}   length {length}   truncated"
    assert len(lines) == 2


def test_how_an_episode_ended_is_told(folders):
    assert done("play", folders["cart"])[0].endswith("terminated")
    assert done("play", folders["balance"])[0].endswith("length 500   truncated")
    lines = done("play", folders["counting"], "--env", "test-playing/Endless-v0", "--limit", "70", "--episodes", "2")
    assert lines == [f"episode {i}   return 140   length 70   cut after 70 steps" for i in (1, 2)]


def test_a_function_that_makes_an_environment_is_one_from_python(folders, tmp_path, capsys):
    playing.play(folders["counting"], env=Endless, limit=3)
    playing.evaluate(Path(folders["counting"]), Counting, episodes=2)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "episode 1   return 6   length 3   cut after 3 steps"
    assert said[1] == "2 deterministic episodes of a2c in Counting, test"
    playing.play(folders["counting"], env=Endless, limit=3, video=tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").n_frames == 3


# ---------------------------------------------------------------- films


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


def test_each_room_has_its_own_commands(folders, here):
    ptheta.train("fvsbn", steps=1, out="density", threads=1)
    refused(2, "density is of density and has no play; allowed: evaluate, sample", "play", "density")
    for word in ("sample", "complete", "embed", "predict", "anomalies"):
        refused(2, f"is of control and has no {word}; allowed: evaluate, play", word, folders["cart"])
    with pytest.raises(ptheta.UsageError, match="density is of fvsbn, which does not act; allowed: what methods of"):
        playing.play("density")
    assert "ptheta play RUN" in cli.HELP


def test_a_policy_for_an_environment_that_is_no_id_says_so(here):
    model = Model("my_own", Environment(Counting).spaces.to_dict(), hidden=())
    model.save_pretrained(here / "m", about={"data": "my_own"})
    refused(
        2, "m learned in 'my_own', which is no id of gymnasium here; name one with --env, or give env=", "play", "m"
    )
    assert done("play", "m", "--env", "test-playing/Counting-v0")[0].endswith("terminated")
    assert api.room(str(here / "m")) == "control"


def test_progress_goes_to_stderr_and_ends_with_the_steps_that_were_taken(folders, here):
    _, out, err = run("play", folders["counting"], "--episodes", "2", "--video", "a.gif")
    steps = sum(int(text.split()[5]) for text in out.splitlines()[:2])
    assert re.fullmatch(rf"{steps}/{steps} steps  .*\n", err), err
    assert io.StringIO(out).readlines()[-1] == "a.gif\n"


def test_progress_never_passes_its_total():
    with Progress(0, 100, "steps", visible=False) as progress:
        for step, total, then in ((40, None, 100), (130, None, 130), (130, 150, 150), (131, 131, 131)):
            playing.moved(progress, step, total)
            assert (progress.current, progress.total) == (step, then)
