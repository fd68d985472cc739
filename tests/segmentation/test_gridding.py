"""`ptheta dilation`: what it prints, draws and refuses."""

import json

import pytest

from ptheta.cli import main
from ptheta.segmentation.dilation import command
from ptheta.segmentation.gridding import picture, stack_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_stack_is_told_and_drawn_and_a_second_picture_is_numbered(capsys, tmp_path):
    assert command(["2,2,2"]) == 0
    told = capsys.readouterr().out
    assert "13 x 13 pixels, of which 7² = 49 are read, 29.0%" in told and "6 of 13 along a side, at most 1" in told
    assert "M_2 = 2 and the kernel is 3: satisfied, but there are holes" in told
    assert command(["2,2,2"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"dilation-2-2-2.png", "dilation-2-2-2-2.png"}
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in tmp_path.iterdir())


def test_strides_reach_further_and_leave_the_condition_out(capsys):
    assert command(["1,1", "--strides", "2,1", "--kernel", "2", "--out", "new/mine.png"]) == 0
    told = capsys.readouterr().out
    assert "field  4 x 4 pixels, of which 4² = 16 are read, 100.0%" in told and "HDC" not in told
    assert told.endswith("new/mine.png\n")


def test_json_is_one_object_and_others_are_found(capsys):
    assert command(["1,2,9", "--find", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rates"] == [1, 2, 9] and told["field"] == 25 and told["gaps"] == [3, 5, 9] and told["hdc"] is False
    assert told["holes"] == [7, 8, 16, 17] and told["widest"] == 2 and told["without_holes"][0] == [1, 3, 9]
    assert command(["1,2,9", "--find"]) == 0
    assert "  1,3,9        field 27\n" in capsys.readouterr().out


def test_the_picture_has_a_panel_a_layer_and_white_holes():
    figure = picture(stack_of("2,2", 3, None))
    assert [axes.get_title() for axes in figure.axes] == [
        "rates 2\n5 x 5, 36% read", "rates 2, 2\n9 x 9, 31% read"
    ]  # fmt: skip
    drawn = figure.axes[1].images[0].get_array()
    assert drawn.mask.sum() == 81 - 25 and drawn.max() == 9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["1,x"], "rates '1,x' are no whole numbers; allowed: numbers from 1 with commas, as 1,2,5."),
        (["0"], "rates '0' are no whole numbers"),
        (["1,2", "--strides", "1"], "1 strides for 2 rates; allowed: one for each, as --strides 1,1."),
        (["1", "--kernel", "0"], "kernel = 0 is impossible; allowed: whole numbers from 1."),
        (["1,2,3,4,5,6,7,99", "--find"], "stacks of 8 rates up to 99 are too many"),
        (["1", "--out", "here.npy/x"], "here.npy is no folder"),
        (["1000000"], "a field of 2,000,001 pixels is more than a picture shows; allowed: up to 4,000."),
        (["1,1", "--strides", "2,1", "--find"], "--find knows stacks of stride 1 alone"),
    ],
)
def test_a_wrong_use_is_told_in_one_line(argv, message, capsys, tmp_path):
    (tmp_path / "here.npy").touch()
    with pytest.raises(SystemExit) as left:
        main(["dilation", *argv])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert [p.name for p in tmp_path.iterdir()] == ["here.npy"]
