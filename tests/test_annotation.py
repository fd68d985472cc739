"""`ptheta annotate`: rounds one after the other, gone on with where it was stopped."""

import json

import numpy as np
import pytest
import torch
from made_folders import masked

import ptheta
from ptheta import annotation, cli
from ptheta.engine.errors import InputError, UsageError
from ptheta.sam import data_engine
from ptheta.sam.model import SAM

PICTURES = masked()
ROUNDS = "assisted:3,semi:2,automatic:2"
SMALL = ("--simulate", "--rounds", ROUNDS, "--steps", "2", "--points", "4", "--likely", "0", "--sure", "0",
         "--enough", "0.2", "--threads", "1")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path):
    return str(SAM("tiny", 64, seed=1).save_pretrained(tmp_path / "model", about={"data": "none"}))


def run(model, out, *more) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["annotate", PICTURES, "--model", model, "--out", str(out), *SMALL, *more])
    return int(ended.value.code or 0)


def test_all_stages_leave_sets_models_and_a_report(model, tmp_path, capsys):
    assert run(model, tmp_path / "out", "--json") == 0
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert [one["stage"] for one in rounds] == ["assisted", "semi", "automatic"]
    assert [one["pictures"] for one in rounds] == [3, 2, 2] and rounds[2]["clicks"] == 0
    assert rounds[0]["masks"] and rounds[0]["clicks"] >= rounds[0]["masks"] + 19 * rounds[0]["painted"]
    assert json.loads((tmp_path / "out/report.json").read_text())["rounds"] == rounds
    assert (tmp_path / "out/report.png").stat().st_size > 5000
    names = [set(p.stem for p in (tmp_path / "out/sets" / name).glob("*.png")) for name in ("1-assisted", "2-semi")]
    assert [len(n) for n in names] == [3, 2]
    weights = [data_engine.fingerprint(ptheta.load(str(tmp_path / "out/models" / one))) for one in
               ("1-assisted", "2-semi")]  # fmt: skip
    assert [one["weights"] for one in rounds[1:]] == weights, "a round is helped by the model of the one before"
    assert rounds[0]["weights"] == data_engine.fingerprint(ptheta.load(model))


def test_a_stopped_engine_goes_on_and_loses_nothing(model, tmp_path, capsys, monkeypatch):
    assert run(model, tmp_path / "whole", "--json") == 0
    whole = json.loads(capsys.readouterr().out)["rounds"]
    count, annotate = [0], data_engine.Simulated.annotate

    def stopped(self, *arguments):
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        return annotate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(data_engine.Simulated, "annotate", stopped)
        assert run(model, tmp_path / "parts") == 130
    done = [p for p in (tmp_path / "parts/sets").rglob("*.json") if p.name != "provenance.json"]
    assert len(done) == 4
    before = {p: p.stat().st_mtime_ns for p in done}
    assert run(model, tmp_path / "parts", "--json") == 0
    assert {p: p.stat().st_mtime_ns for p in done} == before, "what was done is not made again"
    capsys.readouterr()
    report = json.loads((tmp_path / "parts/report.json").read_text())["rounds"]
    timeless = [{k: v for k, v in one.items() if "seconds" not in k} for one in report]
    assert timeless == [{k: v for k, v in one.items() if "seconds" not in k} for one in whole]


def test_where_nothing_could_be_annotated_nothing_is_learned(model, tmp_path, capsys):
    assert run(model, tmp_path / "out", "--rounds", "automatic:1", "--sure", "1") == 0
    assert "there is no mask to learn from after round 1-automatic" in capsys.readouterr().err
    assert not (tmp_path / "out/models").exists()


def test_other_settings_in_one_folder_are_refused(model, tmp_path, capsys):
    assert run(model, tmp_path / "out", "--rounds", "automatic:1") == 0
    assert run(model, tmp_path / "out", "--rounds", "automatic:2") == 2
    assert "was begun with rounds = automatic:1, not automatic:2" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    assert run(model, tmp_path / "other") == 2
    assert (tmp_path / "other/file").read_text() == "mine"


@pytest.mark.parametrize("rounds", ["", "semi", "semi:0", "auto:3", "semi:3,", "semi:-1"])
def test_impossible_rounds_are_told(rounds):
    with pytest.raises(UsageError, match="is impossible; allowed: assisted, semi, automatic, each with :PICTURES"):
        annotation.parsed(rounds)


@pytest.mark.parametrize("name", ["likely", "sure"])
def test_impossible_confidences_begin_nothing(model, tmp_path, capsys, name):
    assert run(model, tmp_path / "out", f"--{name}", "2") == 2
    assert f"{name} = 2.0 is impossible" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_without_pictures_and_other_models_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="is no folder of pictures; to simulate, add --simulate"):
        annotation.looked_at(str(tmp_path / "none"), False, 64, 3)
    made = ptheta.train("fvsbn", np.eye(8), steps=1, threads=1, out=str(tmp_path / "run"))
    with pytest.raises(InputError, match="is of fvsbn, which makes no masks"):
        annotation.annotate(PICTURES, str(made.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_screen_nothing_is_begun(model, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["annotate", PICTURES, "--model", model, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "no screen for a window" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_persons_pictures_are_as_they_are(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((30, 70, 3), np.uint8)).save(tmp_path / "a.png")
    examples, valid = annotation.looked_at(str(tmp_path), False, 64, 3)
    assert [one.picture.shape for one in examples] == [(3, 30, 70)] and valid == [] and examples[0].masks == ()
