"""Anomalies: p-values of typicality, the area under the ROC curve, and the rows of a user's file."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

import ptheta
from ptheta.cli import run as cli
from ptheta.data.binary import file_order, load
from ptheta.density.anomalies import auroc, scores, typicality
from ptheta.density.fvsbn import FVSBN
from ptheta.engine.errors import InputError, UsageError


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None)
def test_the_area_is_the_share_of_pairs_in_the_right_order(rows):
    score = torch.tensor([float(s) for s, _ in rows])
    anomaly = torch.tensor([a for _, a in rows])
    a, b = score[anomaly], score[~anomaly]
    if not len(a) or not len(b):
        with pytest.raises(InputError, match="needs some of both"):
            auroc(score, anomaly)
        return
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert auroc(score, anomaly).mean == pytest.approx(pairs.mean().item())


def test_the_area_and_its_error_agree_with_scikit_learn_and_the_bootstrap():
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    anomaly = torch.rand(400, generator=g) < 0.3
    score = torch.randn(400, generator=g) + anomaly.float()
    found = auroc(score, anomaly)
    assert found.mean == pytest.approx(metrics.roc_auc_score(anomaly, score))
    again = []
    for _ in range(300):
        rows = torch.randint(400, (400,), generator=g)
        again.append(metrics.roc_auc_score(anomaly[rows], score[rows]))
    assert found.standard_error == pytest.approx(np.std(again), rel=0.25)


def test_typicality_counts_samples_that_are_as_far_from_the_mean():
    own = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    got = typicality(torch.tensor([0.0, 2.0, -2.5, 9.0]), own)
    assert got.tolist() == [1.0, 5 / 8, 3 / 8, 1 / 8]


def test_p_values_of_the_models_own_samples_are_uniform():
    model = FVSBN(30)
    model.b.data = torch.linspace(-2, 2, 30)
    _, p = scores(model, model.sample(1500, seed=9), samples=1500, seed=1)
    assert kstest(p.numpy(), "uniform").pvalue > 1e-3
    _, p = scores(model, (model.b > 0).float().repeat(5, 1), samples=1500)
    assert (p < 0.03).all(), "the most likely vector of all is not typical"


def test_rows_of_a_file_keep_their_numbers(tmp_path):
    x, y = np.random.RandomState(0).randint(0, 2, (57, 9)), np.arange(57)
    for rows in (x, x[:5]):
        back, labels = file_order(load({"x": rows, "y": y[: len(rows)]}))
        assert np.array_equal(back.numpy(), rows) and labels.tolist() == y[: len(rows)].tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    g = np.random.RandomState(0)
    x = (g.rand(300, 8) < np.linspace(0.05, 0.95, 8)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("anomalies")
    run = ptheta.train("fvsbn", data=x, steps=100, learning_rate=0.05, out=str(folder / "run"), threads=1)
    x[7] = 1 - (np.linspace(0.05, 0.95, 8) > 0.5)
    np.savez(folder / "rows.npz", x=x, y=(np.arange(300) == 7).astype(int))
    np.save(folder / "other.npy", 1 - x)
    np.save(folder / "good.npy", x)
    return run, folder


def test_the_command_finds_the_odd_row(trained, capsys):
    run, folder = trained
    scores_file = folder / "scores.csv"
    argv = ["anomalies", str(run.path), str(folder / "rows.npz")]
    assert cli([*argv, "--json", "--count", "3", "--out", str(scores_file)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == 300 and [r["row"] for r in said["most_unlikely"]][0] == 7
    assert said["metrics"]["auroc_surprise"] > 0.99
    lines = scores_file.read_text().splitlines()
    assert lines[0] == "row,log_p,p_value" and lines[1].startswith("7,") and len(lines) == 301
    with pytest.raises(UsageError, match="exists; name another --out"):
        cli([*argv, "--out", str(scores_file)])


def test_a_set_of_anomalies_is_told_from_a_normal_one(trained, capsys):
    run, folder = trained
    assert cli(["anomalies", str(run.path), str(folder / "other.npy"), "--normal", str(folder / "good.npy")]) == 0
    out = capsys.readouterr().out
    assert "AUROC by surprise: 0.9" in out or "AUROC by surprise: 1.0" in out
    with pytest.raises(InputError, match="has 3 variables and the model 8"):
        np.save(folder / "narrow.npy", np.eye(5, 3))
        cli(["anomalies", str(run.path), str(folder / "narrow.npy")])
