"""Evaluate, sample, complete, embed: the figures and files they give, and what is said to mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import done, files, refused, run
from PIL import Image

import ptheta
from ptheta.data import real
from ptheta.data.binary import load

ROWS = np.random.RandomState(0).randint(0, 2, (60, 5))
SMALL = ("--threads", "1", "--warmup", "0")


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """No network, no data but the digits and this module's; threads are given back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTHETA_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PTHETA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("PTHETA_DATA", raising=False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, alone):
    """A folder of two runs: `digits`, of pictures, and `rows`, of the file rows.csv beside it."""
    folder = tmp_path_factory.mktemp("trained")
    np.savetxt(folder / "rows.csv", ROWS, fmt="%d", delimiter=",")
    done("train", "made", "--hidden", "20", "--steps", "20", "--seed", "3", "--out", folder / "digits", *SMALL)
    rows = ("--data", folder / "rows.csv", "--out", folder / "rows")
    done("train", "nade", "--hidden", "4", "--steps", "3", *rows, *SMALL)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(trained, here):
    """Copies of the two runs in the working folder."""
    return shutil.copytree(trained, here, dirs_exist_ok=True)


def test_evaluate_prints_one_object_a_split_with_the_model_s_figures(runs):
    lines = [json.loads(line) for line in done("evaluate", "digits", "--json")]
    assert [line["split"] for line in lines] == ["train", "valid", "test"]
    model = ptheta.load("digits")
    for line in lines:
        assert line.keys() == {"method", "data", "split", "metrics"}
        assert (line["method"], line["data"]) == ("made", "digits")
        nats = -model.log_prob(load("digits").split(line["split"])).double()
        want = {"nats": nats.mean().item(), "nats_se": nats.std().item() / len(nats) ** 0.5}
        want |= {name.replace("nats", "bits_per_dim"): v / (64 * np.log(2)) for name, v in want.items()}
        assert line["metrics"] == pytest.approx(want)
    (one,) = done("evaluate", "digits/model", "--split", "valid", "--json")
    assert json.loads(one) == lines[1]


def test_evaluate_prints_a_line_a_split(runs):
    lines = done("evaluate", "rows")
    assert [line.split()[0] for line in lines] == ["train", "valid", "test"]
    numbers = json.loads(done("evaluate", "rows", "--split", "test", "--json")[0])["metrics"]
    assert f"{numbers['nats']:.4f} ± {numbers['nats_se']:.4f} nats" in lines[2]
    assert f"{numbers['bits_per_dim']:.5f} bits/dim" in lines[2] and "6 vectors" in lines[2]


def test_other_data_of_the_same_width_can_be_named(runs):
    np.save("other.npy", 1 - ROWS[:8])
    (line,) = done("evaluate", "rows", "--data", "other.npy", "--json")
    assert json.loads(line)["data"] == "other.npy" and json.loads(line)["split"] == "train"
    nats = -ptheta.load("rows").log_prob(1 - ROWS[:8]).mean().item()
    assert json.loads(line)["metrics"]["nats"] == pytest.approx(nats)


def test_sample_writes_the_model_s_draws_and_their_picture(runs):
    assert done("sample", "digits", "--count", "10", "--seed", "4") == [
        "digits/samples-seed4.npy",
        "digits/samples-seed4.png",
    ]
    x = np.load("digits/samples-seed4.npy")
    assert x.dtype == np.uint8 and np.array_equal(x, ptheta.load("digits").sample(10, 4).numpy())
    image = Image.open("digits/samples-seed4.png")
    assert image.size[0] % (8 * 9 - 1) == 0 and image.size[1] % (2 * 9 - 1) == 0
    assert done("sample", "digits", "--count", "3", "--seed", "4")[0] == "digits/samples-seed4-2.npy"
    assert len(np.load("digits/samples-seed4.npy")) == 10, "a result was overwritten"
    assert done("sample", "rows", "--out", "new/v1.5") == ["new/v1.5.npy"]
    assert np.load("new/v1.5.npy").shape == (64, 5)
    assert done("sample", "rows", "--out", "x.npy", "--count", "1") == ["x.npy"]
    assert not [f for f in files() if ".part" in f]


def test_complete_keeps_what_is_observed(runs):
    test, valid = (load("digits").split(split).numpy()[:30].reshape(-1, 8, 8) for split in ("test", "valid"))
    says, *written = done("complete", "digits", "--count", "5")
    assert "exact" in says and written == [f"digits/completions-bottom-seed0.{e}" for e in ("npy", "png")]
    x = np.load(written[0]).reshape(-1, 8, 8)
    assert x.shape == (5, 8, 8) and np.array_equal(x[:, :4], test[:5, :4]) and not np.array_equal(x, test[:5])
    image = np.asarray(Image.open(written[1]))
    scale = image.shape[1] // 26
    assert image.shape == (44 * scale, 26 * scale)
    hidden = {  # the part, and its line beside what is observed
        "bottom": (np.s_[:, 5:], np.s_[:, 5]),
        "top": (np.s_[:, :3], np.s_[:, 2]),
        "left": (np.s_[:, :, :3], np.s_[:, :, 2]),
        "right": (np.s_[:, :, 5:], np.s_[:, :, 5]),
    }
    for hide, (part, edge) in hidden.items():
        argv = ("--hide", hide, "--share", "0.375", "--particles", "8", "--count", "30", "--split", "valid")
        says, file, _ = done("complete", "digits", "--out", hide, *argv)
        got = re.fullmatch(r"approximate: effective sample size (\S+) of 8 \(median\), (\S+) \(worst\)", says)
        assert "exact" in says if hide == "bottom" else got and 1 <= float(got[2]) <= float(got[1]) <= 8
        differs = np.load(file).reshape(-1, 8, 8) != valid
        assert differs[edge].any()
        differs[part] = False
        assert not differs.any()


def test_complete_hides_by_chance_and_everything(runs):
    x = ROWS[:0]
    for argv in (("--hide", "random"), ("--share", "1")):
        x = np.load(done("complete", "rows", "--out", f"out{len(x)}", *argv)[1])
        assert x.shape == (6, 5) and set(np.unique(x)) <= {0, 1}


def test_embed_writes_the_model_s_features(runs):
    assert done("embed", "digits") == ["digits/embedding-train.npy"]
    features = np.load("digits/embedding-train.npy")
    assert features.shape == (1257, 20) and features.dtype == np.float32
    want = ptheta.load("digits").embed(load("digits").split("train")).numpy()
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)
    assert done("embed", "digits/model", "--split", "test", "--out", "e") == ["e.npy"]
    assert np.load("e.npy").shape == (270, 20)


def test_one_row_is_enough(here):
    Path("one.csv").write_text("0,1,1\n")
    done("train", "made", "--data", "one.csv", "--steps", "2", "--hidden", "3", "--out", "r", *SMALL)
    (line,) = done("evaluate", "r", "--json")
    assert json.loads(line)["metrics"].keys() == {"nats", "bits_per_dim"}
    assert "1 vectors" in done("evaluate", "r")[0]
    assert np.load(done("complete", "r")[1]).shape == (1, 3)


def test_every_command_works_on_a_model_of_real_vectors(here):
    g = np.random.RandomState(0)
    x = g.randn(120, 3) * [1, 10, 0.1] + [0, 50, 7]
    np.savetxt("x.csv", x, delimiter=";", header="a;b;c", comments="")
    done("train", "rnade", "--data", "x.csv", "--hidden", "4", "--mixtures", "2", "--steps", "3", "--out", "r", *SMALL)
    (line,) = done("evaluate", "r", "--split", "test", "--samples", "--json")
    metrics = json.loads(line)["metrics"]
    test = real.load("x.csv").split("test")
    assert metrics["nats"] == pytest.approx(-ptheta.load("r").log_prob(test).double().mean().item())
    assert {"mmd2", "sliced_w1", "classifier_accuracy"} <= metrics.keys()
    assert done("evaluate", "r/model", "--data", "x.csv", "--split", "test", "--samples", "--json") == [line]
    assert done("sample", "r", "--count", "9", "--seed", "2") == ["r/samples-seed2.npy"]
    assert np.array_equal(np.load("r/samples-seed2.npy"), ptheta.load("r").sample(9, 2).numpy())
    says, file = done("complete", "r", "--share", "0.34")
    drawn = np.load(file)
    assert (
        "exact" in says
        and np.array_equal(drawn[:, :2], test[:8, :2].numpy())
        and (drawn[:, 2] != test[:8, 2].numpy()).all()
    )
    assert "approximate" in done("complete", "r", "--hide", "top", "--share", "0.34", "--particles", "8")[0]
    assert np.load(done("embed", "r")[0]).shape == (96, 4)
    x[5] = [0, 90, 7]
    np.savetxt("odd.csv", x, delimiter=",")
    said = json.loads(done("anomalies", "r", "odd.csv", "--count", "1", "--samples", "50", "--json")[0])
    assert said["rows"] == 120 and said["most_unlikely"][0]["row"] == 5
    refused(
        2, "label = first is impossible; rnade learns p.x. of real vectors alone", "train", "rnade", "--label", "first"
    )
    refused(2, "data set of real vectors 'mnist' is unknown; allowed: digits", "evaluate", "r", "--data", "mnist")
    refused(
        1,
        "holds -?\\d.* in row 0, column 0|line 1, column 1 is .*; allowed are 0 and 1",
        "train",
        "made",
        "--data",
        "odd.csv",
    )
    Path("same.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(9)))
    refused(1, "same.csv: column 'b' is 1 in .* all 9 training rows", "train", "rnade", "--data", "same.csv")


# ---------------------------------------------------------------- mistakes


USE = [
    (2, "split of .* 'tset' is unknown; allowed: test, train, valid. Did you mean", "evaluate", "--split", "tset"),
    (2, "split of .* 'tset' is unknown; allowed: test, train, valid. Did you mean", "complete", "--split", "tset"),
    (2, "split of .* 'all' is unknown; allowed: test, train, valid", "embed", "--split", "all"),
    (2, "count = 0 is impossible; allowed: at least 1", "sample", "--count", "0"),
    (2, "count = -3 is impossible; allowed: at least 1", "sample", "--count", "-3"),
    (2, "count = 0; allowed: at least 1", "complete", "--count", "0"),
    (2, "particles = 0, .*allowed: at least 1", "complete", "--particles", "0"),
    (2, "share = 0.0 is impossible; allowed: above 0 and at most 1 .*--share", "complete", "--share", "0"),
    (2, "share = 1.5 is impossible", "complete", "--share", "1.5"),
    (2, "share = nan is impossible", "complete", "--share", "nan"),
    (2, "hide = left wants pictures, .*allowed: bottom, top, random", "complete", "--hide", "left"),
    (2, "data set 'digit' is unknown", "evaluate", "--data", "digit"),
    (1, "digits has 64 variables and the model 5; name fitting --data", "evaluate", "--data", "digits"),
    (1, "digits has 64 variables and the model 5; name fitting --data", "complete", "--data", "digits"),
    (1, "digits has 64 variables and the model 5; name fitting --data", "embed", "--data", "digits"),
    (1, "gone.npy does not exist", "evaluate", "--data", "gone.npy"),
    *((2, "taken.npy exists; name another --out", use, "--out", "taken") for use in ("sample", "complete", "embed")),
    (2, "v1.5.png exists; name another --out", "sample", "--out", "v1.5"),
    (2, "taken.npy exists; name another --out", "sample", "--out", "taken.npy"),
    (2, "--out . is a folder; name a file in it", "sample", "--out", ""),
    (2, "--out .. is a folder; name a file in it", "sample", "--out", ".."),
    (2, "--out rows is a folder; name a file in it", "embed", "--out", "rows"),
    (2, "rows.csv is no folder; name another --out", "sample", "--out", "rows.csv/x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "says", "command", "argv"), [(c, says, command, argv) for c, says, command, *argv in USE]
)
def test_a_wrong_use_of_a_model_is_told_in_one_line(runs, code, says, command, argv):
    Path("taken.npy").write_text("mine")
    Path("v1.5.png").write_text("mine")
    refused(code, says, command, "rows", *argv)
    assert Path("taken.npy").read_text() == Path("v1.5.png").read_text() == "mine"


@pytest.mark.parametrize("command", ["evaluate", "sample", "complete", "embed"])
def test_a_run_that_is_not_there_or_has_no_model_is_refused(here, command):
    refused(1, "nope is neither a folder nor a Hub id", command, "nope")
    refused(1, "gone is neither a folder nor a Hub id", command, here / "gone")
    Path("empty").mkdir()
    refused(1, "empty has no config.json", command, "empty")
    Path("young/checkpoints").mkdir(parents=True)
    refused(1, "young has no model yet; let it train up to its first evaluation", command, "young")


def test_a_run_of_an_array_wants_its_data_named(here):
    ptheta.train("fvsbn", data=ROWS, steps=1, out="r", threads=1)
    refused(2, "r was trained on an array that is no file; name the data with --data", "evaluate", "r")
    np.save("x.npy", ROWS)
    assert len(done("evaluate", "r", "--data", "x.npy")) == 3


def test_figures_of_data_that_cannot_be_had_are_no_success(here):
    ptheta.train("fvsbn", data=np.eye(16), steps=1, out="r", threads=1)
    code, out, err = run("evaluate", "r", "--data", "debd:nltcs")
    assert code == 1 and out == "" and "PTHETA_OFFLINE" in err and "Traceback" not in err


def broken(folder: Path, how: str) -> str:
    """Damage a model folder; what is said about it."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    about = json.loads(config.read_text())
    if how == "weights gone":
        weights.unlink()
        return "has no model.safetensors; copy the whole folder"
    if how == "config gone":
        config.unlink()
        return "has no config.json|has no model yet"
    if how == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-40])
        return "model.safetensors cannot be read .*copy it again"
    if how == "pickle":
        weights.rename(folder / "model.pt")
        return "holds model.pt, a pickled file, which could run code"
    if how == "newer":
        config.write_text(json.dumps({**about, "format": 999}))
        return "format 999; this ptheta reads up to .*update ptheta"
    if how == "no json":
        config.write_text("{")
        return "config.json cannot be read"
    if how == "other method":
        config.write_text(json.dumps({**about, "method": "later"}))
        return "'later'; this ptheta knows fvsbn, nade, made"
    assert how == "other size"
    config.write_text(json.dumps({**about, "model": {**about["model"], "hidden": 7}}))
    return "does not fit its config.json: .*W has shape"


@pytest.mark.parametrize(
    "how", ["weights gone", "config gone", "weights cut", "pickle", "newer", "no json", "other method", "other size"]
)
def test_a_broken_model_folder_is_told_in_one_line(runs, how):
    says = broken(runs / "rows" / "model", how)
    refused(1, says, "sample", "rows/model")
    refused(1, says, "evaluate", "rows", "--split", "test")
