"""`evaluate` and `predict` of a network that labels pixels, as a user types them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import ptheta
from ptheta.cli import main
from ptheta.data import scenes as scenes_module
from ptheta.segmentation.confusion import confusion
from ptheta.segmentation.metrics import scores
from ptheta.segmentation.pictures import overlay, palette

NAMES = ("ground", "bright", "dark")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 pictures of 32 x 48 with bright and dark rectangles on grey, and their maps."""
    folder, g = tmp_path_factory.mktemp("pictures"), np.random.RandomState(0)
    (folder / "images/sub").mkdir(parents=True), (folder / "labels/sub").mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for i in range(30):
        x, y = g.randint(100, 140, (32, 48, 3)), np.zeros((32, 48), np.uint8)
        for label, level in ((1, 200), (2, 20)):
            r, c = g.randint(0, 20), g.randint(0, 36)
            x[r : r + 12, c : c + 12], y[r : r + 12, c : c + 12] = level + g.randint(0, 30, 3), label
        name = f"sub/{i}" if i % 3 == 0 else str(i)
        Image.fromarray(x.astype(np.uint8)).save(folder / f"images/{name}.png")
        Image.fromarray(y).save(folder / f"labels/{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    ptheta.train(
        "hdc", data=str(folder), out=str(out), steps=60, eval_every=30, width=8, rates=(1, 2), batch_size=8, warmup=0,
        learning_rate=0.01, threads=1,
    )  # fmt: skip
    return out


@pytest.fixture
def command(capsys):
    def command(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in argv])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return command


# ---------------------------------------------------------------- evaluate


def test_the_figures_are_those_of_the_predictions(run, command):
    code, out, _ = command("evaluate", run, "--split", "valid", "--json")
    told = json.loads(out)
    assert code == 0 and (told["method"], told["split"], told["policy"]) == ("hdc", "valid", "mmseg")
    from ptheta import api
    from ptheta.engine.run import Run

    data = api.data_of(Run.open(run))
    p = confusion(data.maps("valid"), ptheta.load(run).predict(data.split("valid")), 3)
    for name, value in scores(p).named().items():
        assert told["metrics"][name] == pytest.approx(value, abs=1e-12)
    assert [one["pixels"] for one in told["classes"].values()] == p.sum(1).tolist()
    assert list(told["classes"]) == list(NAMES) and told["metrics"]["miou"] > 0.8
    assert told["metrics"]["miou_se"] > 0


def test_a_person_reads_a_table(run, command):
    code, out, err = command("evaluate", run, "--limit", 2)
    assert code == 0 and "Traceback" not in err
    assert all(f"{name} " in out for name in NAMES) and "mean IoU" in out and "±" in out
    assert "2 pictures of " in out and ", test; absent classes as in mmseg" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policy", "voc"], "policy 'voc' is unknown; allowed: detectron2, mmseg"),
        (["--limit", "0"], "limit = 0 is impossible; allowed: at least 1"),
        (["--split", "night"], "'night' is unknown; allowed: test, train, valid"),
        (["--data", "scenes", "--limit", "1"], "scenes has the classes ground, disc, .* and the model ground, bright"),
        (["--data", "nowhere"], "nowhere is no folder; allowed: scenes, camvid, a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(run, command, argv, message, monkeypatch):
    monkeypatch.setattr("ptheta.data.label_maps.SCENES", {"train": 1, "valid": 1, "test": 1})
    code, _, err = command("evaluate", run, *argv)
    assert code in (1, 2) and "Traceback" not in err
    assert re.search(message, err), err


def test_all_splits_are_scored_together_and_options_may_come_first(run, command):
    counted = {}
    for split in ("all", "train", "valid", "test"):
        code, out, err = command("evaluate", "--json", "--split", split, run)
        assert code == 0, err
        counted[split] = sum(one["pixels"] for one in json.loads(out)["classes"].values())
    assert counted["all"] == sum(counted[split] for split in ("train", "valid", "test")) == 30 * 32 * 48


def test_a_model_folder_knows_the_size_of_its_training(folder, tmp_path, command):
    out = tmp_path / "run"
    ptheta.train("context", data=str(folder), size=24, out=str(out), steps=2, width=4, batch_size=4, threads=1)
    assert ptheta.load(out / "model").size == 24
    a, b = (command("evaluate", source, "--split", "test", "--json")[1] for source in (out, out / "model"))
    assert json.loads(a)["metrics"] == json.loads(b)["metrics"]
    for more in ([], ["--size", 24], ["--size", 32]):
        assert command("predict", out, folder / "images/1.png", "--out", tmp_path / f"said{more[1:]}", *more)[0] == 0
    said = [np.array(Image.open(tmp_path / f"said{more}" / "1.png")) for more in ([], [24], [32])]
    assert np.array_equal(said[0], said[1]) and not np.array_equal(said[0], said[2]) and said[0].shape == (32, 48)


# ---------------------------------------------------------------- predict


def test_predictions_are_palette_images_of_the_pictures_own_size(run, folder, tmp_path, command):
    code, out, _ = command("predict", run, folder / "images", "--out", tmp_path / "said", "--precision", "fp32")
    assert code == 0 and out.strip() == str(tmp_path / "said")
    model = ptheta.load(run)
    for name in ("1", "sub/3"):
        x = np.asarray(Image.open(folder / f"images/{name}.png"))
        with Image.open(tmp_path / f"said/{name}.png") as image:
            assert (
                image.mode == "P" and np.array(image.getpalette()[:9]).reshape(3, 3).tolist() == palette()[:3].tolist()
            )
            y = np.array(image)
        assert np.array_equal(y, model.predict(torch.from_numpy(x.transpose(2, 0, 1).copy()))[0])
        seen = np.asarray(Image.open(tmp_path / f"said/{name}-overlay.png"))
        assert np.array_equal(seen, overlay(x, y))
    assert len(list((tmp_path / "said").rglob("*.png"))) == 60
    assert (
        command("score", folder / "labels", tmp_path / "said", "--classes", folder / "classes.txt")[0] == 1
    )  # overlays


def test_predictions_without_overlays_are_what_score_reads(run, folder, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("predict", run, folder / "images", "--out", "said", "--no-overlays")[0] == 0
    code, out, _ = command("score", folder / "labels", "said", "--classes", folder / "classes.txt", "--json")
    assert code == 0 and json.loads(out)["metrics"]["miou"] > 0.8


def test_a_large_picture_is_seen_by_tiles_and_another_size_has_labels_of_its_own(run, tmp_path, command):
    for name, side, more in (("tiles", 12, ["--tile", 40, "--overlap", 12]), ("half", 24, ["--size", 40])):
        x = np.random.RandomState(0).randint(100, 140, (80, 120, 3)).astype(np.uint8)
        x[30 : 30 + side, 50 : 50 + side] = 210
        Image.fromarray(x).save(tmp_path / f"{name}.png")
        code, _, err = command("predict", run, tmp_path / f"{name}.png", "--out", tmp_path / name, *more)
        assert code == 0, err
        y = np.array(Image.open(tmp_path / name / f"{name}.png"))
        truth = np.zeros((80, 120), np.uint8)
        truth[30 : 30 + side, 50 : 50 + side] = 1
        assert y.shape == (80, 120) and scores(confusion(truth, y, 3)).miou > 0.7


def test_results_go_beside_the_run_and_are_never_overwritten(run, folder, command):
    one = folder / "images/1.png"
    assert [command("predict", run, one)[1].strip() for _ in range(2)] == [
        str(run / "predictions"), str(run / "predictions-2")
    ]  # fmt: skip
    code, _, err = command("predict", run, one, "--out", run / "predictions")
    assert code == 2 and "holds something already; name another --out" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.png"], "nowhere.png does not exist"),
        (["empty"], "empty holds no pictures"),
        (["twice"], "twice holds several pictures called a; rename one of them"),
        (["broken.png"], "broken.png cannot be read as a picture"),
        (["small"], "small/b.png is 10x40; allowed: sides from 16, or a --size to scale it to"),
        (["overlays"], "overlays holds several pictures called a-overlay; rename one of them"),
        (["a.png", "--size", "3"], "size = 3 is impossible; allowed: at least 16"),
        (["a.png", "--tile", "20"], "tile = 20, overlap = 128; allowed: tiles from 32"),
    ],
)
def test_what_cannot_be_labelled_is_one_line(run, tmp_path, command, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir(), (tmp_path / "twice").mkdir()
    picture = Image.new("RGB", (40, 40))
    picture.save("a.png"), picture.save("twice/a.png"), picture.save("twice/a.bmp")
    for name in ("small/a", "small/b", "overlays/a", "overlays/a-overlay"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.crop((0, 0, 40, 10 if name == "small/b" else 40)).save(f"{name}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    code, _, err = command("predict", run, *argv, "--out", "said")
    assert code in (1, 2) and "Traceback" not in err and message in err.replace("\n", " ")
    assert not list((tmp_path / "said").rglob("*.png")), "nothing is half done"
    assert "--tile" not in argv or not (tmp_path / "said").exists()


def test_a_run_of_another_room_labels_nothing_and_this_one_draws_nothing(run, folder, tmp_path, command):
    ptheta.train("fvsbn", steps=1, out=str(tmp_path / "density"), threads=1)
    code, _, err = command("predict", tmp_path / "density", folder / "images")
    assert (
        code == 2 and "is of density and has no predict; allowed: evaluate, sample, complete, embed, anomalies" in err
    )
    for what, *more in (["sample"], ["anomalies", folder / "images"]):
        code, _, err = command(what, run, *more)
        assert code == 2 and f"is of segmentation and has no {what}; allowed: evaluate, predict" in err


# ---------------------------------------------------------------- pictures


def test_the_palette_is_vocs():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    assert all(tuple(palette()[label]) == colour for label, colour in known.items())
    assert tuple(palette()[255]) == (255, 255, 255) and len({tuple(c) for c in palette()}) == 256


def test_an_overlay_leaves_ground_and_what_is_no_class_as_they_are():
    x, y = scenes_module.scene(0, "train", 0, 32)
    x, y = x.transpose(1, 2, 0), y.copy()
    y[:4] = 255
    seen = overlay(x, y)
    still = (y == 0) | (y == 255)
    assert np.array_equal(seen[still], x[still]) and (seen[~still] != x[~still]).any(1).mean() > 0.95
