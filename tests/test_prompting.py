"""`ptheta evaluate` of a model of masks for prompts."""

import json

import pytest
from made_folders import masked

from ptheta import cli
from ptheta.sam import checkpoint
from ptheta.sam.model import SAM
from ptheta.selfsup.clip import CLIP

PICTURES = masked()


def run(*argv) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", *map(str, argv)])
    return int(ended.value.code or 0)


@pytest.fixture
def model(tmp_path):
    return SAM("tiny", 64, seed=1).save_pretrained(tmp_path / "model", about={"data": PICTURES})


def test_figures_are_printed_and_told_to_machines(model, capsys):
    assert run(model, "--limit", 2) == 0
    shown = capsys.readouterr().out
    assert "2 pictures of" in shown and "4 masks" in shown and "1 click, best of three" in shown
    assert run(model, "--limit", 2, "--split", "valid", "--clicks", "--proposals", "--edges", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["data"], told["split"]) == ("sam", PICTURES, "valid")
    wanted = {"miou_1", "miou_1_told", "miou_3", "miou_5", "miou_box", "iou_correlation", "ar_1000", "ods", "ois"}
    wanted |= {"miou_5_closer", "unreached"}
    assert 1 <= told["metrics"]["noc_90"] <= 20
    assert wanted <= told["metrics"].keys() and all(-1 <= told["metrics"][k] <= 1 for k in wanted)


def test_pictures_are_asked_about_with_their_mirror_images(model, capsys):
    found = []
    for more in ([], ["--mirrored"]):
        assert run(model, "--limit", 2, "--clicks", "--json", *more) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"])
    assert found[0].keys() == found[1].keys() and found[0] != found[1]
    for other in ("--proposals", "--edges"):
        assert run(model, "--mirrored", other) == 2
        assert "leave out --mirrored" in capsys.readouterr().err


def test_published_weights_are_measured_with_data_that_are_named(tmp_path, capsys):
    path = checkpoint.write_official(SAM("tiny", 64, seed=1), tmp_path / "tiny.pth")
    assert run(path, "--data", PICTURES, "--limit", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["miou_1"] >= 0
    assert run(path) != 0
    assert "name the data with --data" in capsys.readouterr().err


def test_impossible_limits_are_told(model, capsys):
    assert run(model, "--limit", 0) == 2
    assert "limit = 0 is impossible" in capsys.readouterr().err


def test_names_are_asked_for_in_words(model, tmp_path, capsys):
    small = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none", "text_width": 8}
    words = CLIP([3, 8, 8], project=6, **small).save_pretrained(tmp_path / "clip")
    spoken = SAM("tiny", 64, words=6).save_pretrained(tmp_path / "spoken", about={"data": "nested"})
    assert run(spoken, "--limit", 3, "--words", words, "--json") == 0
    told = json.loads(capsys.readouterr().out)["metrics"]
    assert 0 <= told["miou_words"] <= 1
    for of, more, code, why in (
        (model, ["--words", words], 2, "the model knows no words, and"),
        (model, ["--words", model], 2, "a model of sam has no words"),
        (spoken, ["--words", words, "--data", PICTURES], 1, "has a name to be asked for"),
    ):
        assert run(of, "--limit", 1, *more) == code
        assert why in capsys.readouterr().err
