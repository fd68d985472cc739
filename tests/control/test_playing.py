"""`evaluate` and `play` of a policy, as a user types them."""

import hashlib
import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import done, refused, run
from PIL import Image
from worlds_that_count import Counting, Endless

import ptheta
from ptheta import api, cli, playing
from ptheta.control.a2c import Model
from ptheta.control.envs import Environment
from ptheta.control.episodes import judged
from ptheta.engine.progress import Progress


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
