"""The rivals for y: against closed forms and scikit-learn."""

import json

import numpy as np
import pytest
import torch

import ptheta
from ptheta.cli import run as cli
from ptheta.density.rivals import mlp, naive_bayes
from ptheta.engine.errors import InputError, UsageError
from ptheta.nets.probes import best_logistic_regression


def task(count: int = 300, n: int = 10, classes: int = 3, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    p = torch.rand(classes, n, generator=torch.Generator().manual_seed(1))
    return (torch.rand(count, n, generator=g) < p[y]).float(), y


def test_naive_bayes_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.naive_bayes")
    x, y = task()
    theirs = sklearn.BernoulliNB(alpha=1.0).fit(x.numpy(), y.numpy())
    ours = naive_bayes(x, y, 3)(x).softmax(1)
    # theirs takes the class frequencies as they are, ours adds one count to each
    prior = ((torch.bincount(y) + 1) / (len(y) + 3) / (torch.bincount(y) / len(y))).double()
    want = torch.from_numpy(theirs.predict_proba(x.numpy())) * prior
    torch.testing.assert_close(ours, want / want.sum(1, keepdim=True), rtol=1e-6, atol=1e-9)


def test_naive_bayes_is_a_joint_distribution():
    from zoo import everything

    x, y = task(60, 4)
    assert naive_bayes(x, y, 3)(everything(4)).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("fit", ["logistic regression", "MLP"])
def test_discriminative_rivals_learn(fit):
    (x, y), (v, w), (t, u) = task(seed=0), task(seed=1), task(600, seed=2)
    if fit == "MLP":
        f = mlp(x, y, (v, w), 3, seed=0, hidden=50, steps=300)
    else:
        f = best_logistic_regression(x, y, (v, w), 3)
    bayes = naive_bayes(x, y, 3)  # the right model of this task
    right, best = ((g(t).argmax(1) == u).double().mean().item() for g in (f, bayes))
    assert right > 0.6 and right > best - 0.06


def test_the_command_puts_joint_models_beside_their_rivals(tmp_path, capsys):
    x, y = task(400)
    np.savez(tmp_path / "task.npz", x=x.numpy().astype(np.uint8), y=y.numpy())
    data = str(tmp_path / "task.npz")
    run = ptheta.train(
        "fvsbn", data=data, label="first", labelled=100, steps=60, learning_rate=0.05, out=str(tmp_path / "run"),
        threads=1,
    )  # fmt: skip
    capsys.readouterr()
    assert cli(["rivals", "--data", data, "--labelled", "30", "--runs", str(run.path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rivals"]
    assert [(r["name"], r["labels"]) for r in rows] == [
        ("naive Bayes", 30), ("logistic regression", 30), ("MLP", 30), ("naive Bayes", 320),
        ("logistic regression", 320), ("MLP", 320), ("fvsbn, p(x, y)", 100),
    ]  # fmt: skip
    assert all(0 <= r["accuracy"] <= 1 and 0 <= r["ece"] <= 1 for r in rows)
    assert cli(["rivals", "--data", data]) == 0
    assert "logistic regression" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no labels"):
        np.save(tmp_path / "bare.npy", np.eye(20, 4))
        cli(["rivals", "--data", str(tmp_path / "bare.npy")])
    plain = ptheta.train("fvsbn", data=data, steps=3, out=str(tmp_path / "plain"), threads=1)
    with pytest.raises(UsageError, match="is a model of p\\(x\\) alone"):
        cli(["rivals", "--data", data, "--runs", str(plain.path)])
