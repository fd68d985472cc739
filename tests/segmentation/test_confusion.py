"""The confusion matrix: against a loop over pixels, of every kind of input, exact, and with what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ptheta.engine.errors import InputError, UsageError
from ptheta.segmentation import confusion as module
from ptheta.segmentation.confusion import confusion

KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


def naive(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore: int | None) -> list[list[int]]:
    p = [[0] * classes for _ in range(classes)]
    for i, j in zip(truth.flatten().tolist(), prediction.flatten().tolist()):
        if i != ignore:
            p[i][j] += 1
    return p


@settings(deadline=None, max_examples=1000)
@given(data=st.data(), classes=st.integers(1, 6), ignore=st.sampled_from([255, None, 0, 2, -1]))
def test_counts_are_those_of_a_loop(data, classes, ignore):
    kinds = st.sampled_from(KINDS)
    shape = data.draw(st.tuples(st.integers(0, 5), st.integers(1, 5)))
    allowed = [*range(classes), *([ignore] if ignore is not None else [])]
    truth = np.array(
        data.draw(st.lists(st.sampled_from(allowed), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    )
    kind = data.draw(kinds.filter(lambda k: all(np.iinfo(k).min <= v <= np.iinfo(k).max for v in allowed)))
    prediction = data.draw(st.lists(st.integers(0, classes - 1), min_size=len(truth), max_size=len(truth)))
    t = truth.reshape(shape).astype(kind)
    p = np.array(prediction, dtype=int).reshape(shape).astype(data.draw(kinds))
    found = confusion(t, p, classes, ignore)
    assert found.dtype == torch.long and found.tolist() == naive(t, p, classes, ignore)


@pytest.mark.parametrize("classes", [2, 21, 179, 180, 200, 253, 254, 255, 256, 257, 300])
@pytest.mark.parametrize("kind", ["uint8", "int64", "int16"])
def test_many_classes_and_many_pieces(classes, kind, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 1000)
    torch.set_num_threads(2)
    r = np.random.RandomState(classes)
    top = min(classes, np.iinfo(kind).max + 1)
    t, p = r.randint(top, size=(2, 170, 1001)).astype(kind)
    ignore = 7 if classes > 7 else None
    want = np.zeros((classes, classes), dtype=int)
    kept = t != ignore if ignore is not None else np.ones_like(t, bool)
    np.add.at(want, (t[kept].astype(int), p[kept].astype(int)), 1)
    assert torch.equal(confusion(t, p, classes, ignore), torch.from_numpy(want))


def test_arrays_tensors_and_images_are_the_same(tmp_path):
    r = np.random.RandomState(0)
    t, p = r.randint(4, size=(2, 9, 7)).astype(np.uint8)
    want = confusion(t, p, 4)
    palette = Image.fromarray(t, "L").convert("P")
    palette.putdata(t.flatten().tolist())
    palette.putpalette([9, 8, 7] * 4)
    Image.fromarray(t.astype(np.uint16)).save(tmp_path / "sixteen.png")
    sixteen = Image.open(tmp_path / "sixteen.png")
    for truth in (torch.from_numpy(t), t.tolist(), t[:, ::-1][:, ::-1], t.astype(">i4"), palette, sixteen):
        assert torch.equal(confusion(truth, torch.from_numpy(p).long(), 4), want)
    frozen = t.copy()
    frozen.flags.writeable = False
    assert torch.equal(confusion(frozen, p.astype(np.int8), 4), want)
    assert torch.equal(confusion(t > 1, torch.from_numpy(p > 1), 2), confusion((t > 1) * 1, (p > 1) * 1, 2))
    Image.fromarray(t > 1).save(tmp_path / "one.png")
    assert torch.equal(confusion(Image.open(tmp_path / "one.png"), p > 1, 2), confusion(t > 1, p > 1, 2))


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.bool])
def test_tensors_of_kinds_that_torch_computes_little_with(kind):
    t, p = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0])
    assert confusion(t.to(kind), p.to(kind), 2).tolist() == [[2, 0], [1, 1]]


def test_counts_pass_what_float32_and_int32_can_hold(monkeypatch):
    """Pieces of which each counts 2^53: sums stay exact where float64 would lose the odd ones."""
    monkeypatch.setattr(module.torch, "bincount", lambda code, minlength: torch.full((minlength,), 2**53 + 1))
    monkeypatch.setattr(module, "PIECE", 2)
    monkeypatch.setattr(module, "refuse", lambda *a: None)
    assert confusion(np.zeros(4, int), np.zeros(4, int), 1).tolist() == [[2 * 2**53 + 2]]


def test_predictions_may_be_anything_where_nothing_is_scored():
    t, p = np.array([0, 255, 1, 255]), np.array([0, 255, 1, -7])
    assert confusion(t, p, 2).tolist() == [[1, 0], [0, 1]]
    assert confusion(np.full(9, 255), np.full(9, 99), 3).sum() == 0


@pytest.mark.parametrize("kind", ["uint8", "int64", "int16", "int32"])
@pytest.mark.parametrize("classes", [3, 253, 254])
def test_labels_that_are_no_class_are_named(kind, classes):
    good = np.zeros(8, kind)
    for bad, which in (([classes, classes], "truth"), ([classes, classes], "prediction")):
        maps = {"truth": good.copy(), "prediction": good.copy()}
        maps[which][:2] = bad
        with pytest.raises(InputError) as told:
            confusion(maps["truth"], maps["prediction"], classes, None, where="a.png")
        hint = " (--ignore names one that is not scored)" if which == "truth" else ""
        said = f"a.png: the {which} has labels {classes} (2 pixels); allowed: 0 to {classes - 1}{hint}."
        assert str(told.value) == said
    if kind != "uint8":
        with pytest.raises(
            InputError, match=r"labels -5 \(1 pixels\), 2\d\d \(1 pixels\); allowed: 0 to .*, and 99 for"
        ):
            confusion(np.array([-5, 256, 99], kind), np.zeros(3, kind), classes, 99)


def test_many_wrong_labels_are_counted():
    with pytest.raises(InputError, match=r"prediction has labels 5 \(1 pixels\), .* and 3 more; allowed: 0 to 4"):
        confusion(np.zeros(8, int), np.arange(5, 13), 5)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"a: the truth is 2 x 3 and the prediction 3 x 2"),
        (np.zeros(3), np.zeros(3, int), "truth has labels of kind float64; allowed: integers"),
        (np.zeros(3, int), torch.zeros(3), "prediction has labels of kind float32; allowed: integers"),
        (np.zeros((2, 2), int), Image.new("RGB", (2, 2)), "prediction is an image of mode RGB"),
        (np.array([2**63], np.uint64), np.zeros(1, int), "has a label of 9223372036854775808"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(truth, prediction, message):
    with pytest.raises(InputError, match=message):
        confusion(truth, prediction, 2, where="a")


@pytest.mark.parametrize("classes", [0, -1, 5000])
def test_an_impossible_number_of_classes_is_refused(classes):
    with pytest.raises(UsageError, match=f"classes = {classes} is impossible; allowed: 1 to 4,096"):
        confusion(np.zeros(1, int), np.zeros(1, int), classes)
