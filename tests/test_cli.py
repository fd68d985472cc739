"""The command line: training, the catalogue, help, and what is said to mistakes in a request or in data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import done, files, refused, run
from PIL import Image

import ptheta
from ptheta import cli
from ptheta.methods import ABOUT

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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rows(here):
    """A file of 60 rows in the working folder."""
    np.savetxt("rows.csv", np.random.RandomState(0).randint(0, 2, (60, 5)), fmt="%d", delimiter=",")
    return "rows.csv"


def test_training_says_where_the_run_is_how_good_it_is_and_what_comes_next(rows):
    argv = ("train", "nade", "--data", rows, "--hidden", "4", "--steps", "20", "--seed", "3", "--out", "r", *SMALL)
    code, out, err = run(*argv)
    best, path = out.splitlines()
    assert code == 0 and re.fullmatch(r"best valid \d+\.\d{3} ± \d+\.\d{3} nats at step \d+", best) and path == "r"
    assert "ptheta: nade on rows.csv (5 variables) → r" in err and "next: ptheta sample r" in err
    nats = [m["nats"] for m in ptheta.Run.open("r").metrics() if "nats" in m]
    assert len(nats) == 21 and f"{min(nats):.3f}" in best
    about = json.loads(Path("r/config.json").read_text())
    assert about["command"] == "ptheta " + " ".join(argv), "a run keeps the command that made it"
    assert about["seed"] == 3 and about["config"]["hidden"] == 4 and about["options"]["steps"] == 20


def test_the_default_directory_is_numbered(rows):
    for name in ("nade-rows.csv-seed0", "nade-rows.csv-seed0-2"):
        lines = done("train", "nade", "--data", rows, "--steps", "1", "--hidden", "2", *SMALL)
        assert lines[-1] == f"runs/{name}"
    assert sorted(os.listdir("runs")) == ["nade-rows.csv-seed0", "nade-rows.csv-seed0-2"]


def test_a_folder_of_pictures_is_learned_and_drawn(here):
    Path("pictures").mkdir()
    for k in range(12):
        Image.fromarray(np.random.RandomState(k).randint(0, 256, (9, 7), np.uint8)).save(f"pictures/{k}.png")
    done("train", "fvsbn", "--data", "pictures", "--size", "4", "--steps", "2", "--out", "r", *SMALL)
    assert {"curves.png", "samples.png", "completions.png", "moments.png"} == set(os.listdir("r/pictures"))
    assert np.load(done("sample", "r", "--count", "3")[0]).shape == (3, 16)
    assert "exact" in done("complete", "r")[0]


def test_the_catalogue_is_listed():
    assert json.loads(done("list", "--json")[0]) == ABOUT == ptheta.list()
    assert [line.split()[0] for line in done("list")] == list(ABOUT)


def test_version_and_help():
    for flag in ("--version", "-V"):
        assert done(flag) == [f"ptheta {ptheta.__version__}"]
    for argv in (("--help",), ("-h",), ("help",), ("train", "--help"), ("list", "-h"), ("doctor", "--help")):
        assert done(*argv) == cli.HELP.splitlines()
    assert run() == (2, cli.HELP, "")
    for command in ("evaluate", "sample", "complete", "embed", "ladder", "tour"):
        text = "\n".join(done(command, "--help"))
        assert f"usage: ptheta {command}" in text and command in cli.HELP
    text = "\n".join(done("train", "made", "--help"))
    assert "--hidden" in text and "--steps" in text and "Steps by default: 10,000" in text


def test_the_package_runs_as_a_module_and_survives_a_closed_pipe():
    argv = [sys.executable, "-m", "ptheta"]
    shown = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stdout) == (0, f"ptheta {ptheta.__version__}\n")
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run([*argv, "list"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert "Traceback" not in closed.stderr and "Exception" not in closed.stderr


def test_an_interruption_is_no_traceback(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "list_methods", interrupted)
    assert run("list") == (130, "", "ptheta: interrupted\n")


def test_help_of_a_method_imports_no_package_that_it_does_not_need():
    code = "import sys, ptheta.cli\ntry: ptheta.cli.main(['train', 'made', '--help'])\nexcept SystemExit: pass\n"
    code += "print(*sys.modules, file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    loaded = set(shown.stderr.split())
    assert "--hidden" in shown.stdout and "torch" in loaded
    assert not loaded & {"matplotlib", "accelerate", "huggingface_hub", "tensorboardX", "PIL", "scipy", "sklearn"}


# ---------------------------------------------------------------- mistakes in the request


USAGE = [
    ("command 'trian' is unknown; allowed: .*Did you mean 'train'", "trian"),
    ("train wants a method first; allowed: fvsbn, nade, made", "train"),
    ("train wants a method first", "train", "--steps", "3"),
    (
        "method 'mad' is unknown; allowed: .*, byol, .*, made, mae, .*, vicreg, .* Did you mean 'made'",
        "train",
        "mad",
    ),
    ("list takes only --json, not 'x'", "list", "--json", "x"),
    ("doctor takes only --json, not '--jsn'", "doctor", "--jsn"),
    ("hidden = 0 is impossible; allowed: at least 1 .*--hidden", "train", "made", "--hidden", "0"),
    ("hidden = -2 is impossible; allowed: at least 1", "train", "made", "--hidden", "5", "-2"),
    ("hidden = 0 is impossible; allowed: at least 1", "train", "nade", "--hidden", "0"),
    ("masks = 0 is impossible; allowed: at least 1", "train", "made", "--masks", "0"),
    ("dropout = 1.0 is impossible; allowed: at least 0 and at most 0.99", "train", "made", "--dropout", "1"),
    ("steps = -5 is impossible; allowed: at least 1.*--steps", "train", "fvsbn", "--steps", "-5"),
    ("seed = -1 is impossible; allowed: at least 0", "train", "fvsbn", "--seed", "-1"),
    (
        "learning_rate = nan is impossible; allowed: above 0.*--learning-rate",
        "train",
        "fvsbn",
        "--learning-rate",
        "nan",
    ),
    ("learning_rate = 0.0 is impossible; allowed: above 0", "train", "fvsbn", "--learning-rate", "0"),
    ("threads = 0 is impossible; allowed: at least 1", "train", "fvsbn", "--threads", "0"),
    ("patience = 0 is impossible; allowed: at least 1", "train", "fvsbn", "--patience", "0"),
    ("max_time = 0.0 is impossible; allowed: above 0", "train", "fvsbn", "--max-time", "0"),
    ("threshold.* 0.* above 0 and .*1", "train", "fvsbn", "--threshold", "0"),
    ("data set 'digit' is unknown; allowed: .*Did you mean 'digits'", "train", "fvsbn", "--data", "digit"),
    ("'nltc' is unknown; allowed: .*Did you mean 'nltcs'", "train", "fvsbn", "--data", "debd:nltc"),
    ("taken holds something else already; .* or name another --out", "train", "fvsbn", "--out", "taken"),
    ("taken/file.txt holds something else already", "train", "fvsbn", "--out", "taken/file.txt"),
    ("hidden = 0 is impossible; allowed: above 0", "ladder", "--hidden", "0"),
]


@pytest.mark.parametrize(("says", "argv"), [(says, argv) for says, *argv in USAGE])
def test_an_impossible_request_is_told_in_one_line(here, says, argv):
    Path("taken").mkdir()
    Path("taken/file.txt").write_text("mine")
    refused(2, says, *argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_refused(here):
    refused(2, "device 'cuda' is not here; allowed: auto, cpu", "train", "fvsbn", "--device", "cuda")


@pytest.mark.parametrize(
    "argv",
    [("train", "made", "--hiden", "4"), ("train", "made", "--steps", "many"), ("train", "fvsbn", "--hidden", "4"),
     ("evaluate",), ("sample", "x", "--cuont", "3"), ("sample", "x", "--count", "few"),
     ("complete", "x", "--hide", "middle")],
)  # fmt: skip
def test_unknown_options_and_words_for_numbers_end_with_two(here, argv):
    code, out, err = run(*argv)
    assert code == 2 and out == "" and "Traceback" not in err and len(err) > 100 and files() == []


# ---------------------------------------------------------------- unusable data


def write_bad(name: str) -> None:
    if name.endswith(".npy"):
        np.save(name, np.array([[0.0, np.nan if "nan" in name else 2.0]]))
    elif name == "notes":
        Path(name).mkdir()
        Path(name, "readme.md").write_text("nothing")
    elif name == "pictures":
        Path(name).mkdir()
        Image.new("L", (4, 4)).save(f"{name}/a.png")
        Path(name, "b.png").write_bytes(Path(name, "a.png").read_bytes()[:40])
    else:
        text = {"empty.csv": "", "ragged.csv": "0,1,1\n0,1\n", "two.csv": "0,1\n1,2\n", "words.csv": "0,1\n0,x\n"}
        Path(name).write_text(text.get(name, "0,1\n"))


BAD = [
    ("empty.csv", 1, "empty.csv is empty; at least one row"),
    ("ragged.csv", 1, "ragged.csv: line 2 has 2 values and line 1 has 3; every line needs the same number"),
    ("two.csv", 1, "two.csv: line 2, column 2 is '2'; allowed are 0 and 1"),
    ("words.csv", 1, "words.csv: line 2, column 2 is 'x'; allowed are 0 and 1"),
    ("two.npy", 1, "two.npy holds 2.0 in row 0, column 1 .*allowed are 0 and 1; binarise it first"),
    ("nan.npy", 1, "nan.npy holds nan in row 0, column 1 .*allowed are 0 and 1"),
    ("notes", 1, "notes holds neither a file for train .* nor pictures"),
    ("pictures", 1, "pictures/b.png cannot be read as a picture .*repair or remove it"),
    ("sheet.xlsx", 2, "sheet.xlsx is of an unknown kind; allowed are .npy .npz .csv"),
]


@pytest.mark.parametrize(("name", "code", "says"), BAD)
def test_unusable_data_are_told_in_one_line_and_leave_no_run(here, name, code, says):
    write_bad(name)
    refused(code, says, "train", "fvsbn", "--data", name, "--steps", "1")


def test_a_missing_file_and_a_missing_start_are_refused(here):
    refused(1, "gone/x.csv does not exist; give the path", "train", "fvsbn", "--data", "gone/x.csv")
    refused(1, "nope is neither a folder nor a Hub id", "train", "fvsbn", "--init", "nope")
    Path("file").write_text("mine")
    refused(1, "file/run.* could not be written|cannot be used", "train", "fvsbn", "--out", "file/run")


def test_data_that_need_the_network_say_where_to_put_them_when_it_is_off(here):
    refused(1, "binarized_mnist_train.amat.*PTHETA_OFFLINE", "train", "fvsbn", "--data", "binarized_mnist")
