"""Encoders on the command line: judged, embedding a folder, finding neighbours; and what is said to mistakes."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from commands import done, files, refused, run
from PIL import Image

import ptheta
from ptheta.data.pictures import load

TINY = ("--width", "8", "--hidden", "16", "--project", "8", "--batch-size", "32", "--threads", "1", "--warmup", "0")


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
    """A folder: `digits`, a run of grey pictures; `pictures/`, twenty in colour, and `colours`, a run of those."""
    folder = tmp_path_factory.mktemp("trained")
    done("train", "simclr", "--steps", "30", "--seed", "3", "--out", folder / "digits", *TINY)
    for i in range(20):
        place = folder / "pictures" / ("dark" if i % 2 else "bright")
        place.mkdir(parents=True, exist_ok=True)
        values = np.random.RandomState(i).randint(0, 100, (12, 15, 3), np.uint8) + (0 if i % 2 else 150)
        Image.fromarray(values.astype(np.uint8)).save(place / f"{i}.png")
    colours = ("--data", folder / "pictures", "--size", "10", "--out", folder / "colours")
    done("train", "simclr", "--steps", "2", *colours, *TINY, "--batch-size", "8")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_encoder_is_judged_beside_pixels_and_itself_untrained(trained, here):
    asked = ("evaluate", trained / "digits", "--split", "valid", "--shares", "0.05", "--seeds", "2", "--k", "3")
    code, out, err = run(*asked, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["method"], told["data"], told["split"], told["k"], told["temperature"]) == (
        "simclr", "digits", "valid", 3, 0.07,
    )  # fmt: skip
    m = told["metrics"]
    names = {f"{n}{k}" for n in ("knn", "probe") for k in ("", "_raw", "_untrained")}
    assert names | {"finetune_0.05", "finetune_0.05_untrained", "finetune_0.05_se"} <= set(m)
    model, data = ptheta.load(trained / "digits"), load("digits")
    from ptheta.selfsup import judge

    assert m["knn"] == judge.probe(judge.embedding(model), data, "valid", 3, 0.07)["knn"].mean
    assert m["knn_raw"] > 0.95 and m["finetune_0.05"] > 0.2
    lines = (trained / "digits" / "metrics.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, lines) if row["split"] == "valid"][-1]
    for name in ("loss", "rank_me", "spread"):  # what the method measured while it trained
        assert m[name] == pytest.approx(last[name], rel=1e-3)
    text = "\n".join(done(*asked[:-4], "--seeds", "1", "--k", "3"))
    assert "neighbours (k = 3, T = 0.07)" in text and "fine-tuned, 0.05 of labels (63)" in text
    assert re.search(rf"neighbours.*{m['knn']:.4f} ± ", text)


def test_features_of_a_folder_come_with_the_names_of_their_files(trained, here):
    done("embed", trained / "colours", "--data", trained / "pictures", "--out", "mine")
    features = np.load("mine.npy")
    with open("mine.csv") as table:
        rows = list(csv.DictReader(table))
    assert features.shape == (20, 32) and [int(r["row"]) for r in rows] == list(range(20))
    model = ptheta.load(trained / "colours")
    for r in rows:
        assert r["class"] == ("dark" if int(r["file"].split("/")[1][:-4]) % 2 else "bright")
        picture = load(trained / "pictures" / r["class"], size=10)
        names = [n for s in picture.splits for n in picture.names(s)]
        x = torch.cat([picture.split(s) for s in picture.splits])[names.index(r["file"].split("/")[1])]
        np.testing.assert_allclose(features[int(r["row"])], model.embed(x[None])[0].numpy(), rtol=1e-4, atol=1e-5)


def test_features_of_the_training_pictures_stand_in_the_run(trained, here):
    said = done("embed", trained / "digits")
    assert said == [str(trained / "digits" / f"embedding-train.{kind}") for kind in ("npy", "csv")]
    assert np.load(said[0]).shape == (1257, 32)


def test_the_nearest_picture_to_a_picture_is_itself(trained, here):
    said = done("neighbours", trained / "colours", trained / "pictures" / "dark" / "3.png", "--k", "2", "--out", "near")
    assert re.match(r" +1\.000 +dark/3\.png +dark", said[1]) and len(said) == 4
    assert min(Image.open("near.png").size) > 50
    done("neighbours", trained / "digits", trained / "pictures" / "dark", "--k", "3", "--out", "grey")


def test_three_ways_stand_side_by_side(trained, here):
    text = "\n".join(done("supervision", trained / "digits", "--steps", "5"))
    for way in ("raw pixels", "untrained", "PCA", "k-means", "simclr, self-supervised", "x, y of 1,257"):
        assert way in text


def test_mistakes_are_told_in_one_line(trained, here):
    colours, digits = trained / "colours", trained / "digits"
    refused(
        1,
        "pictures of 8x8 in grey and the encoder learned from 10x10 in colour",
        "evaluate",
        colours,
        "--data",
        "digits",
    )
    refused(2, r"k = 5000 neighbours are wanted of 1,257 pictures", "evaluate", digits, "--k", "5000")
    refused(2, r"share = 2\.0 is impossible", "evaluate", digits, "--shares", "2")
    refused(2, "seeds = 0", "evaluate", digits, "--seeds", "0")
    refused(2, "simclr learns no pictures and fills nothing in", "complete", digits)
    refused(2, "is of selfsup and has no sample; allowed: evaluate, embed", "sample", digits)
    refused(1, "nothing.png does not exist", "neighbours", digits, "nothing.png")
    refused(2, r"k = 21 neighbours are wanted of 20 pictures", "neighbours", colours, trained / "pictures", "--k", "21")
    refused(2, "split of .* 'tset' is unknown", "embed", digits, "--split", "tset")
    shutil.copytree(trained / "pictures", "unlabelled")
    for i, path in enumerate(sorted((here / "unlabelled").rglob("*.png"))):
        path.rename(here / "unlabelled" / f"{i}.png")
    refused(1, "has no labels to judge features by", "evaluate", colours, "--data", "unlabelled")
    assert not [f for f in files() if not f.startswith("unlabelled")]


def test_a_batch_of_one_picture_is_refused(here):
    refused(
        2,
        "batch_size = 1 is impossible for simclr, which compares the pictures of a batch; allowed: at least 2",
        "train",
        "simclr",
        "--out",
        "run",
        *TINY,
        "--batch-size",
        "1",
    )
