"""`ptheta segment`, as a person would call it."""

import json

import numpy as np
import pytest
from PIL import Image

from ptheta.cli import run
from ptheta.data import rle
from ptheta.engine.errors import InputError, UsageError
from ptheta.sam import checkpoint
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor
from ptheta.sam.twice import Twice, twice
from ptheta.selfsup.clip import CLIP


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save_pretrained(tmp_path / "model")
    small = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none", "text_width": 8}
    CLIP([3, 8, 8], project=6, **small).save_pretrained(tmp_path / "clip")
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    r = np.random.RandomState(0)
    for name in ("a.png", "more/b.png"):
        Image.fromarray(r.randint(0, 256, (40, 60, 3)).astype(np.uint8)).save(tmp_path / "pictures" / name)
    return tmp_path


def test_points(here, capsys):
    assert run(["segment", "pictures/a.png", "--model", "model", "--point", "10,20", "--point", "50,5,0"]) == 0
    assert capsys.readouterr().out.strip() == "segmented"
    told = json.loads((here / "segmented" / "a.json").read_text())
    assert told["image"] == {"file_name": "a.png", "height": 40, "width": 60} and len(told["annotations"]) == 3
    ious = [one["predicted_iou"] for one in told["annotations"]]
    assert ious == sorted(ious, reverse=True)
    for i, one in enumerate(told["annotations"], 1):
        mask = np.asarray(Image.open(here / "segmented" / f"a-mask-{i}.png")) == 255
        assert (rle.decode(one["segmentation"]) == mask).all() and one["area"] == mask.sum()
    assert Image.open(here / "segmented" / "a-overlay.png").size == (60, 40)


def test_a_box_and_one_answer_by_an_official_file(here, tiny):
    checkpoint.write_official(tiny, here / "tiny.pth")
    run(["segment", "pictures/a.png", "--model", "tiny.pth", "--box", "5,5,30,30", "--no-several", "--out", "found"])
    assert sorted(p.name for p in (here / "found").iterdir()) == ["a-mask-1.png", "a-overlay.png", "a.json"]


def test_words(here):
    """What they give is what the text's numbers give."""
    model = SAM("tiny", 64, words=6)
    model.save_pretrained(here / "spoken")
    run(["segment", "pictures/a.png", "--model", "spoken", "--text", "a red disc", "--words", "clip"])
    told = json.loads((here / "segmented" / "a.json").read_text())["annotations"]
    predictor = Predictor(model)
    predictor.set_image(here / "pictures" / "a.png")
    answer = predictor.predict(words=CLIP.from_pretrained(here / "clip").text(["a red disc"])[0])
    assert [one["area"] for one in told] == answer.masks.sum((1, 2))[answer.ious.argsort(descending=True)].tolist()


def test_everything_in_a_folder(here):
    run(["segment", "pictures", "--model", "model", "--everything", "--points", "2", "--iou", "0", "--stability", "0"])
    for name in ("a", "more/b"):
        told = json.loads((here / "segmented" / f"{name}.json").read_text())
        assert told["annotations"] and all(
            isinstance(one["segmentation"]["counts"], str) for one in told["annotations"]
        )


def test_everything_looked_at_twice(here, tiny):
    run(["segment", "pictures/a.png", "--model", "model", "--everything", "--points", "2", "--sure", "0"])
    told = json.loads((here / "segmented" / "a.json").read_text())["annotations"]
    x = np.asarray(Image.open(here / "pictures" / "a.png"))
    masks = twice(Predictor(tiny), x, Twice(points=2, sure=0))
    assert told and [one["area"] for one in told] == [one["area"] for one in masks]
    assert all(0 <= one["confidence"] <= 1 for one in told) and (here / "segmented" / "a-overlay.png").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("", "what is to be segmented"),
        ("--everything --point 1,2", "what is to be segmented"),
        ("--point 1", "point '1' is impossible; allowed: x,y, or x,y,0"),
        ("--box 1,2,3", "allowed: left,top,right,bottom"),
        ("--point 100,5", "outside of the picture"),
        ("--everything --iou 2", "iou = 2"),
        ("--everything --sure 2", "sure = 2"),
        ("--point 1,2 --sure 0.5", "add --everything"),
        ("--everything --sure 0.5 --layers 1", "--sure comes closer .* leave --layers"),
        ("--text red", "--text and --words belong together"),
        ("--point 1,2 --words model", "--text and --words belong together"),
        ("--text red --words model", "a model of sam reads no text; give a run of clip"),
        ("--text red --words clip", "the model knows no words"),
    ],
)
def test_what_is_refused(here, more, why):
    with pytest.raises((UsageError, InputError), match=why):
        run(f"segment pictures/a.png --model model {more}".split())
    assert not (here / "segmented").exists()


def test_results_are_not_written_over(here):
    (here / "kept").mkdir()
    (here / "kept" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run(["segment", "pictures/a.png", "--model", "model", "--point", "1,1", "--out", "kept"])
    run(["segment", "pictures/a.png", "--model", "model", "--point", "1,1"])
    run(["segment", "pictures/a.png", "--model", "model", "--point", "1,1"])
    assert (here / "segmented-2" / "a.json").exists()
