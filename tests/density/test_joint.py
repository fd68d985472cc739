"""The joint p(x, y): labels as variables, Bayes' rule, missing labels, calibration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from zoo import everything, number, scatter

import ptheta
from ptheta.data.binary import load
from ptheta.density import joint
from ptheta.density.fvsbn import FVSBN
from ptheta.density.made import MADE
from ptheta.density.nade import NADE
from ptheta.density.orderless import Orderless
from ptheta.engine.errors import InputError, UsageError

MODELS = {
    "fvsbn": (FVSBN, {}),
    "fvsbn random": (FVSBN, {"ordering": "random"}),
    "nade": (NADE, {"hidden": 9}),
    "nade random": (NADE, {"hidden": 9, "ordering": "random"}),
    "made": (MADE, {"hidden": (30, 20)}),
    "made x3 random": (MADE, {"hidden": (30,), "masks": 3, "ordering": "random"}),
    "orderless": (Orderless, {"hidden": (15,)}),
}
every_model = pytest.mark.parametrize("name", MODELS)
both_ends = pytest.mark.parametrize("label", ["first", "last"])
N_X, C = 4, 3


def build(name: str, label: str, seed: int = 0):
    Model, arguments = MODELS[name]
    return scatter(Model(N_X + C, **arguments, label=label, classes=C, seed=seed), seed + 1).double().eval()


def table(model) -> torch.Tensor:
    """p(x, y), (2^n, C), by asking for the density of each pair."""
    x = everything(N_X)
    pairs = [model.log_prob(model.join(x, torch.full((len(x),), c))) for c in range(C)]
    return torch.stack(pairs, 1).exp()


@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.sampled_from(["first", "last"]), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_labels_are_written_and_read_back(b, n, classes, where, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randint(2, (b, n), generator=g), torch.randint(-1, classes, (b,), generator=g)
    z = joint.join(x, y, classes, where)
    at = joint.label_columns(n + classes, classes, where)
    code = z[:, at]
    assert torch.equal(torch.where(code.sum(1) > 0, code.argmax(1), -1), y) and code.sum(1).max() <= 1
    model = FVSBN(n + classes, label=where, classes=classes)
    assert all(torch.equal(a, b) for a, b in zip(model.split(z), (x, code)))
    every = joint.every_class(z, classes, where).view(b, classes, -1)
    for c in range(classes):
        assert torch.equal(every[:, c], joint.join(x, torch.full((b,), c), classes, where))


@every_model
@both_ends
def test_bayes_rule_is_exact_and_the_joint_is_a_distribution(name, label):
    model = build(name, label)
    p = table(model)
    assert p.sum() < 1 + 1e-9 and (name != "orderless" or abs(p.sum() - 1) < 1e-9)
    torch.testing.assert_close(model.joint_log_prob(everything(N_X)).exp(), p, rtol=1e-9, atol=0)
    torch.testing.assert_close(model.classify(everything(N_X)), p / p.sum(1, keepdim=True), rtol=1e-9, atol=0)


@every_model
def test_the_class_reaches_the_first_pixel(name):
    """p(x_1 | y) differs between classes when the label comes first: some libraries lose it there."""
    model = build(name, "first")
    p = table(model)
    first = model.split(torch.arange(model.n)[None].float())[0][0]  # columns of x
    pixel = next(i for i in model.order(0).tolist() if i in first.long().tolist()) - C
    on = everything(N_X)[:, pixel] == 1
    given_y = (p * on[:, None]).sum(0) / p.sum(0)
    assert (given_y.logit().max() - given_y.logit().min()) > 0.1


@every_model
@both_ends
def test_samples_of_a_class_follow_p_of_x_given_y(name, label):
    model, count = build(name, label), 3000
    if label == "last" and name != "orderless":
        return  # approximate there: test_complete has it
    p = table(model)[:, 1]
    drawn = model.sample(count, seed=3, y=1)
    x, code = model.split(drawn)
    assert (code.argmax(1) == 1).all() and (code.sum(1) == 1).all()
    if name != "orderless":
        counts = torch.bincount(number(x), minlength=2**N_X)
        assert chisquare(counts.numpy(), (count * p / p.sum()).numpy()).pvalue > 1e-3


@every_model
def test_a_class_that_is_none_is_refused(name):
    model = build(name, "first")
    for y in (-1, C):
        with pytest.raises(UsageError, match=rf"y = {y} is no class of this model; allowed: 0 to {C - 1}"):
            model.sample(2, y=y)
    with pytest.raises(InputError, match=f"y holds the label {C}; allowed: 0 to {C - 1}"):
        model.join(everything(N_X), torch.full((2**N_X,), C))
    with pytest.raises(InputError, match=r"y has shape \(3,\) for 16 vectors"):
        model.join(everything(N_X), torch.zeros(3))
    with pytest.raises(InputError, match=r"x has shape \(2, 9\); allowed: \(b, 4\)"):
        model.classify(torch.zeros(2, 9))


@every_model
def test_an_observed_label_that_is_no_class_is_refused(name):
    model = build(name, "first")
    z = model.join(everything(N_X), torch.zeros(2**N_X))
    part, whole = torch.zeros(model.n, dtype=torch.bool), torch.zeros(model.n, dtype=torch.bool)
    part[:2], whole[:C] = True, True
    for x, seen in ((z, part), (torch.zeros_like(z), whole), (torch.ones_like(z), whole)):
        for ask in (model.complete, model.marginal):
            with pytest.raises(InputError, match="observed label is no class; allowed: all its columns"):
                ask(x, seen)
    assert model.marginal(z, whole).log_prob.exp().max() <= 1


def test_a_model_of_x_alone_has_no_classes():
    model = FVSBN(5)
    with pytest.raises(UsageError, match="no label: train it with --label"):
        model.classify(torch.zeros(2, 5))
    with pytest.raises(UsageError, match="allowed: none"):
        model.sample(2, y=0)


# ---------------------------------------------------------------- missing labels


@both_ends
def test_unlabelled_vectors_count_with_the_sum_over_classes(label):
    model = build("made", label)
    x, y = everything(N_X), torch.arange(16) % (C + 1) - 1
    z = model.join(x, y)
    nats = -model.log_prob(joint.every_class(z, C, label))
    got = joint.partly_labelled(nats, model.split(z)[1])
    p = table(model)
    want = torch.where(y >= 0, p[torch.arange(16), y.clamp(min=0)], p.sum(1)).log()
    torch.testing.assert_close(got, -want, rtol=1e-10, atol=1e-10)


def test_kept_labels_are_balanced_seeded_and_nested():
    y = torch.arange(1000) % 7 % 3
    few, more = joint.keep_labels(y, 30, 5), joint.keep_labels(y, 90, 5)
    assert torch.bincount(few[few >= 0]).tolist() == [10, 10, 10] and (few >= 0).sum() == 30
    assert torch.equal(few[few >= 0], y[few >= 0]) and ((few < 0) | (more >= 0)).all()
    assert torch.equal(joint.keep_labels(y, 30, 5), few) and not torch.equal(joint.keep_labels(y, 30, 6), few)
    assert (joint.keep_labels(y, 1000, 0) == y).all()
    for count in (2, 1001):
        with pytest.raises(UsageError, match=f"labelled = {count} is impossible"):
            joint.keep_labels(y, count, 0)


@pytest.fixture
def stripes():
    """Two classes of noisy patterns that a few labels suffice to tell apart."""
    g = np.random.RandomState(0)
    y = np.arange(600) % 2
    x = (g.rand(600, 12) < np.where(y[:, None] == 1, [0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6)).astype(np.uint8)
    return {"x": x, "y": y}


@pytest.mark.parametrize(
    ("label", "more"),
    [("first", {}), ("last", {}), ("first", {"labelled": 10}), ("last", {"labelled": 200})],
    ids=["first", "last", "first, 10 labels", "last, 200 labels"],
)
def test_a_joint_model_learns_to_classify(label, more, stripes, tmp_path):
    run = ptheta.train(
        "fvsbn", data=stripes, label=label, steps=300, learning_rate=0.02, out=str(tmp_path / "run"), threads=1, **more
    )
    last = [m for m in run.metrics() if m["split"] == "valid"][-1]
    assert last["accuracy"] > 0.9 and {"nats", "nats_x", "ece", "bits_per_dim"} <= last.keys()
    assert last["nats_x"] < last["nats"]
    model = ptheta.load(run)
    data = load(stripes)
    x, y = data.split("test"), data.labels("test")
    assert (model.classify(x).argmax(1) == y).float().mean() > 0.9 and model.label == label


def test_data_without_labels_and_labels_without_a_joint_model_are_refused(tmp_path):
    x = np.eye(20, 6)
    with pytest.raises(InputError, match="has no labels; p\\(x, y\\) wants them"):
        ptheta.train("fvsbn", data=x, label="first", out=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="labelled = 5 wants a joint model"):
        ptheta.train("fvsbn", data=x, labelled=5, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- figures


def test_calibration_error_by_hand():
    posterior = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.25, 0.75]])
    y = torch.tensor([0, 1, 1, 0])
    want = (2 * abs(0.5 - 0.95) + abs(1 - 0.65) + abs(0 - 0.75)) / 4
    got = joint.expected_calibration_error(posterior, y, bins=10)
    assert got.mean == pytest.approx(want, abs=1e-6) and got.standard_error > 0
    assert joint.expected_calibration_error(torch.eye(2), torch.arange(2)).mean == 0


def test_figures_are_those_of_the_table():
    model = build("nade", "first")
    x = everything(N_X)
    y = torch.arange(16) % C
    p = table(model)
    found = joint.figures(model.joint_log_prob(x), y)
    assert found["nats"].mean == pytest.approx(-p[torch.arange(16), y].log().mean().item())
    assert found["nats_x"].mean == pytest.approx(-p.sum(1).log().mean().item())
    assert found["accuracy"].mean == pytest.approx((p.argmax(1) == y).double().mean().item())
    assert math.isfinite(found["ece"].mean)
