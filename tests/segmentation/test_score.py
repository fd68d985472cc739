"""`ptheta score`: figures of folders of maps, what it names and draws, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ptheta.cli import main
from ptheta.segmentation.boundary import boundary_f
from ptheta.segmentation.confusion import confusion
from ptheta.segmentation.metrics import scores
from ptheta.segmentation.score import command, picture

NAMES = "sky\nroad\n\ncar\n"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Five maps of the truth, one of them in a folder, and predictions, mostly right, as other kinds of files."""
    monkeypatch.chdir(tmp_path)
    r = np.random.RandomState(0)
    (tmp_path / "names.txt").write_text(NAMES)
    for folder in ("truth/more", "said/more"):
        (tmp_path / folder).mkdir(parents=True)
    total = torch.zeros(3, 3, dtype=torch.long)
    for i in range(5):
        t = r.choice([0, 1, 2, 255], size=(20, 30), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
        wrong = r.rand(20, 30) < 0.1 * i
        s = np.where(wrong, r.randint(3, size=t.shape), np.minimum(t, 2)).astype(np.uint8)
        total += confusion(t, s, 3)
        name = f"more/{i}" if i == 4 else f"{i}"
        Image.fromarray(t).save(tmp_path / f"truth/{name}.png")
        if i % 2:
            np.save(tmp_path / f"said/{name}.npy", s.astype(np.int64))
        else:
            palette = Image.fromarray(s).convert("P")
            palette.putdata(s.flatten().tolist())
            palette.putpalette([0, 0, 0, 9, 9, 9, 7, 0, 0])
            palette.save(tmp_path / f"said/{name}.png")
    return total


def test_a_folder_is_scored_as_one_matrix(folders, capsys):
    assert command(["truth", "said", "--classes", "names.txt", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    want = scores(folders)
    assert told["confusion"] == folders.tolist() and told["pixels"] == int(folders.sum()) and told["pictures"] == 5
    assert told["metrics"] == pytest.approx(want.named())
    assert [c["name"] for c in told["classes"]] == ["sky", "road", "car"]
    assert [c["iou"] for c in told["classes"]] == pytest.approx(want.iou.tolist())
    assert [w["name"] for w in told["worst"]] == ["more/4", "3", "2", "1", "0"] and told["worst"][-1]["miou"] == 1


def test_a_person_sees_a_table_the_worst_and_a_picture(folders, capsys, tmp_path):
    assert command(["truth", "said", "--classes", "names.txt", "--worst", "1"]) == 0
    said = capsys.readouterr()
    want = scores(folders)
    assert (
        f"mean IoU                 {want.miou:.4f}\n" in said.out
        and f"Cohen's kappa            {want.kappa:.4f}" in said.out
    )
    assert "\nroad  " in said.out and "more/4\n" in said.out and "  3\n" not in said.out
    assert said.out.endswith("\nconfusion.png\n") and "5/5 pictures" in said.err
    assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_outlines_are_means_over_the_pictures_that_have_them(capsys, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    want = []
    for i, shift in enumerate((0, 9)):
        t, s = np.zeros((2, 40, 40), np.uint8)
        t[5:20, 5:20] = 1
        s[5:20, 5 + shift : 20 + shift] = 1
        Image.fromarray(t).save(tmp_path / f"a/{i}.png"), Image.fromarray(s).save(tmp_path / f"b/{i}.png")
        want.append(boundary_f(t, s, 3))
    assert command(["a", "b", "--classes", "3", "--boundary", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    each = [c["boundary_f"] for c in told["classes"]]
    assert each[:2] == pytest.approx(((want[0] + want[1]) / 2)[:2].tolist()) and each[2] is None
    assert told["metrics"]["boundary_f"] == pytest.approx(sum(each[:2]) / 2) and 0.5 < each[1] < 1
    assert command(["a", "b", "--classes", "3", "--boundary"]) == 0
    assert f"mean boundary F          {sum(each[:2]) / 2:.4f}" in capsys.readouterr().out


def test_nothing_scored_is_said_and_is_null_in_json(tmp_path, capsys):
    for file in (tmp_path / "truth").rglob("*.png"):
        Image.fromarray(np.full((20, 30), 255, np.uint8)).save(file)
    assert command(["truth", "said", "--classes", "3"]) == 0
    assert "no pixel was scored: all of the truth is ignored" in capsys.readouterr().out
    assert command(["truth", "said", "--classes", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["metrics"].values()) == {None} and told["worst"] == [] and told["classes"][0]["name"] == "class 0"


def test_maps_of_one_and_of_sixteen_bits(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    half = np.arange(64).reshape(8, 8) > 20
    Image.fromarray(half).save(tmp_path / "a/x.png")
    Image.fromarray(half.astype(np.uint16)).save(tmp_path / "b/x.png")
    assert command(["a", "b", "--classes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == [[21, 0], [0, 43]]


def test_what_is_ignored_is_told_and_masks_of_0_and_255_are_not_scored_in_silence(tmp_path, capsys):
    assert command(["truth", "said", "--classes", "3"]) == 0
    told = capsys.readouterr().out
    assert "have the ignored label 255 and are not scored" in told and "one class and that label alone" not in told
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(((np.arange(100) < 30) * 255).astype(np.uint8).reshape(10, 10)).save(
            tmp_path / folder / "x.png"
        )
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "b/x.png")
    assert command(["a", "b", "--classes", "2"]) == 0
    told = capsys.readouterr().out
    assert "30 more, 30.0%, have the ignored label 255" in told
    assert "the truth has one class and that label alone: if 255 is a class, name another --ignore" in told


def test_scores_are_told_before_a_picture_can_fail(monkeypatch, capsys):
    from ptheta.segmentation import score as module

    def fails(p, names):
        raise RuntimeError("no picture")

    monkeypatch.setattr(module, "picture", fails)
    with pytest.raises(RuntimeError, match="no picture"):
        command(["truth", "said", "--classes", "names.txt"])
    assert "mean IoU " in capsys.readouterr().out


def test_names_are_no_mathematics_and_a_byte_order_mark_is_none(tmp_path, capsys):
    (tmp_path / "odd.txt").write_text("sky $\\foo$\n_$c$\ncar\n", encoding="utf-8-sig")
    assert command(["truth", "said", "--classes", "odd.txt", "--json"]) == 0
    assert [c["name"] for c in json.loads(capsys.readouterr().out)["classes"]] == ["sky $\\foo$", "_$c$", "car"]


def test_the_picture_shows_shares_of_rows():
    figure = picture(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 5]]), ["a", "b", "c"])
    drawn = figure.axes[0].images[0].get_array()
    assert drawn[0].tolist() == [0.75, 0.25, 0] and drawn.mask[1].all() and drawn[2].tolist() == [0, 0, 1]
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25", "100"]


def refused(capsys, code: int, message: str, *argv: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["score", *argv])
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.startswith("ptheta: ")]
    assert left.value.code == code and len(told) == 1 and message in told[0] and not said.out, said.err


@pytest.mark.parametrize(
    ("code", "message", "argv"),
    [
        (1, "nowhere is no folder; allowed: a folder of label maps (.png,", ["nowhere", "said"]),
        (1, "empty has no label maps; allowed: files ending in", ["truth", "empty"]),
        (1, "few lacks 4 of 5 maps: 1, 2, 3, more/4.", ["truth", "few"]),
        (1, "truth lacks 1 of 6 maps: extra.", ["truth", "many"]),
        (1, "lossy/a.jpg is stored with losses, which changes labels", ["truth", "lossy"]),
        (1, "twice/a.bmp and twice/a.png are both a; leave one", ["truth", "twice"]),
        (1, "0: the truth is 20 x 30 and the prediction 5 x 5; allowed: the same size", ["one", "small"]),
        (1, "0: the prediction has labels 9 (529 pixels); allowed: 0 to 2.", ["one", "nines"]),
        (1, "colours/0.png is an image of mode RGB; allowed: grey, palette or 16-bit", ["one", "colours"]),
        (1, "broken/0.png cannot be read as a label map (", ["one", "broken"]),
        (1, "objects/0.npy cannot be read as a label map (", ["one", "objects"]),
        (1, "0: the prediction has labels of kind float64; allowed: integers", ["one", "floats"]),
    ],
)
def test_folders_that_cannot_be_scored_are_told_in_one_line(code, message, argv, tmp_path, capsys):
    for name in (
        "empty",
        "few",
        "many/more",
        "lossy",
        "twice",
        "one",
        "small",
        "nines",
        "colours",
        "broken",
        "objects",
        "floats",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "few/0.png").write_bytes((tmp_path / "said/0.png").read_bytes())
    for name in ("0", "1", "2", "3", "more/4", "extra"):
        np.save(tmp_path / f"many/{name}.npy", np.zeros((20, 30), int))
    zeros = Image.fromarray(np.zeros((5, 5), np.uint8))
    zeros.save(tmp_path / "lossy/a.jpg"), zeros.save(tmp_path / "twice/a.png"), zeros.save(tmp_path / "twice/a.bmp")
    (tmp_path / "one/0.png").write_bytes((tmp_path / "truth/0.png").read_bytes())
    zeros.save(tmp_path / "small/0.png")
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / "nines/0.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "colours/0.png")
    (tmp_path / "broken/0.png").write_bytes(b"no picture")
    np.save(tmp_path / "objects/0.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "floats/0.npy", np.zeros((20, 30)))
    refused(capsys, code, message, *argv, "--classes", "names.txt")
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("code", "message", "more"),
    [
        (1, "none.txt is no file; allowed: a file with a class name a line.", ["--classes", "none.txt"]),
        (2, "--classes 0 is impossible; allowed: 1 to 4,096, or a file", ["--classes", "0"]),
        (2, "--classes 10000000 is impossible", ["--classes", "10000000"]),
        (1, "² is no file", ["--classes", "²"]),
        (1, "truth/0.png has no lines of text", ["--classes", "truth/0.png"]),
        (2, "policy 'mmseq'", ["--classes", "3", "--policy", "mmseq"]),
        (2, "names.png exists; name another --out", ["--classes", "3", "--out", "names.png"]),
        (1, "the truth has labels 255 (", ["--classes", "3", "--ignore", "None"]),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_one_line(code, message, more, tmp_path, capsys):
    (tmp_path / "names.png").touch()
    refused(capsys, code, message, "truth", "said", *more)
