"""Scores: by fractions, by other libraries where they are installed, and what each policy does with absent classes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score, jaccard_score

from ptheta.engine.errors import InputError, UsageError
from ptheta.segmentation.confusion import confusion
from ptheta.segmentation.metrics import POLICIES, Policy, scores

COUNTS = st.integers(1, 6).flatmap(
    lambda C: st.lists(st.lists(st.sampled_from([0, 0, 1, 3, 50]), min_size=C, max_size=C), min_size=C, max_size=C)
)


def near(a: float, b: float) -> bool:
    return math.isnan(a) and math.isnan(b) or a == pytest.approx(b, abs=1e-12)


def maps(p: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction with these counts."""
    pairs = [(i, j) for i, row in enumerate(p) for j, n in enumerate(row) for _ in range(n)]
    t, s = np.array(pairs, dtype=int).reshape(-1, 2).T
    return t, s


# ---------------------------------------------------------------- by hand


@settings(deadline=None, max_examples=200)
@given(p=COUNTS, policy=st.sampled_from(sorted(POLICIES)))
def test_scores_are_those_of_fractions(p, policy):
    found, rule, C = scores(torch.tensor(p), policy), POLICIES[policy], len(p)
    t, s = [sum(row) for row in p], [sum(row[j] for row in p) for j in range(C)]
    N, right = sum(t), sum(p[i][i] for i in range(C))
    if not N:
        assert all(math.isnan(v) for v in found.named().values())
        return
    accuracy, iou, dice = [], [], []
    for i in range(C):
        if t[i]:
            accuracy.append(Fraction(p[i][i], t[i]))
            iou.append(Fraction(p[i][i], t[i] + s[i] - p[i][i]))
            dice.append(Fraction(2 * p[i][i], t[i] + s[i]))
        else:
            a, b = (rule.predicted_accuracy, rule.predicted) if s[i] else (rule.absent_accuracy, rule.absent)
            accuracy += [] if a is None else [a]
            iou += [] if b is None else [b]
            dice += [] if b is None else [b]
    for name, of in (("mpa", accuracy), ("miou", iou), ("dice", dice)):
        assert near(getattr(found, name), float(sum(of) / len(of)))
    assert near(found.pa, right / N)
    weighted = sum(Fraction(t[i], N) * Fraction(p[i][i], t[i] + s[i] - p[i][i]) for i in range(C) if t[i])
    assert near(found.fwiou, float(weighted)), "the same under every policy"
    e = Fraction(sum(a * b for a, b in zip(t, s)), N * N)
    assert near(found.kappa, float((Fraction(right, N) - e) / (1 - e)) if e != 1 else math.nan)
    assert found.truth.tolist() == t


def test_the_four_figures_of_the_mission_by_hand():
    """90 pixels of background of which 88 are found, and 10 of a thing of which 4 are."""
    found = scores(torch.tensor([[88, 2], [6, 4]]))
    assert found.pa == pytest.approx(0.92) and found.mpa == pytest.approx((88 / 90 + 4 / 10) / 2)
    assert found.miou == pytest.approx((88 / 96 + 4 / 12) / 2)
    assert found.fwiou == pytest.approx(0.9 * 88 / 96 + 0.1 * 4 / 12)
    assert found.dice == pytest.approx((2 * 88 / 184 + 2 * 4 / 16) / 2)
    assert found.iou.tolist() == pytest.approx([88 / 96, 1 / 3]) and found.accuracy.tolist() == pytest.approx(
        [88 / 90, 0.4]
    )


def test_all_background_has_a_high_pa_and_low_means():
    """Small things on a large background, of which nothing is found: PA tells of the background alone."""
    found = scores(torch.tensor([[970, 0, 0], [20, 0, 0], [10, 0, 0]]))
    assert found.pa == 0.97 and found.mpa == pytest.approx(1 / 3) and found.miou == pytest.approx(0.97 / 3)
    assert found.kappa == pytest.approx(0) and found.fwiou == pytest.approx(0.97**2)


@settings(deadline=None, max_examples=60)
@given(p=COUNTS, seed=st.integers(0, 99), k=st.integers(1, 9))
def test_order_of_classes_and_repeated_pictures_do_not_count(p, seed, k):
    p = torch.tensor(p)
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    for name, value in scores(p).named().items():
        assert near(getattr(scores(p[order][:, order]), name), value) and near(getattr(scores(k * p), name), value)


def test_sums_past_64_bits_are_exact():
    p = torch.tensor([[2**40, 2**39], [2**38, 2**40]])
    assert scores(p).kappa == pytest.approx(scores(p // 2**30).kappa, abs=1e-15)


# ---------------------------------------------------------------- other libraries


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None, max_examples=40)
@given(p=COUNTS.filter(lambda p: sum(map(sum, p)) > 1))
def test_scikit_learn_agrees(p):
    t, s = maps(p)
    found, there = scores(torch.tensor(p)), sorted({*t.tolist(), *s.tolist()})
    assert near(found.miou, jaccard_score(t, s, average="macro", labels=there, zero_division=0))
    assert near(found.dice, f1_score(t, s, average="macro", labels=there, zero_division=0))
    assert near(found.fwiou, jaccard_score(t, s, average="weighted", labels=there, zero_division=0))
    if set(s.tolist()) <= set(t.tolist()):  # it warns of others
        assert near(found.mpa, balanced_accuracy_score(t, s))
    if len(there) > 1:
        assert near(found.kappa, cohen_kappa_score(t, s))
    everything = list(range(len(p)))
    assert near(
        scores(torch.tensor(p), "segnet").miou, jaccard_score(t, s, average="macro", labels=everything, zero_division=0)
    )


@settings(deadline=None, max_examples=40)
@given(p=COUNTS.filter(lambda p: len(p) > 1 and sum(map(sum, p)) > 0))
def test_torchmetrics_agrees(p):
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    t, s = (torch.from_numpy(x) for x in maps(p))
    found = scores(torch.tensor(p), "torchmetrics")
    for ours, theirs in ((found.miou, metrics.multiclass_jaccard_index), (found.mpa, metrics.multiclass_accuracy)):
        assert ours == pytest.approx(theirs(s, t, len(p), average="macro").item(), abs=1e-6)  # it computes in float32


def as_detectron2(p: np.ndarray) -> tuple[float, float, float, float]:
    """Its evaluator's four figures: classes without truth are in none of the means."""
    tp, gt, predicted = np.diag(p).astype(float), p.sum(1).astype(float), p.sum(0).astype(float)
    valid = gt > 0
    iou = tp[valid] / (gt + predicted - tp)[valid]
    weights = gt[valid] / gt.sum()
    return tp.sum() / gt.sum(), (tp[valid] / gt[valid]).mean(), iou.mean(), (iou * weights).sum()


def as_mmseg(p: np.ndarray) -> tuple[float, float, float]:
    """Divide, and take the mean of what is a number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        tp, gt, predicted = np.diag(p).astype(float), p.sum(1).astype(float), p.sum(0).astype(float)
        return tp.sum() / gt.sum(), np.nanmean(tp / gt), np.nanmean(tp / (gt + predicted - tp))


def as_torchvision(p: np.ndarray) -> tuple[float, float, float]:
    """The plain mean of the quotients in float32, NaN or not."""
    h = torch.from_numpy(p).float()
    d = h.diag()
    return tuple(v.item() for v in (d.sum() / h.sum(), (d / h.sum(1)).mean(), (d / (h.sum(1) + h.sum(0) - d)).mean()))


@settings(deadline=None, max_examples=100)
@given(p=COUNTS.filter(lambda p: sum(map(sum, p)) > 0))
def test_what_libraries_do_with_absent_classes(p):
    q = np.array(p)
    found = scores(torch.tensor(p), "detectron2")
    assert all(map(near, (found.pa, found.mpa, found.miou, found.fwiou), as_detectron2(q)))
    found = scores(torch.tensor(p), "mmseg")
    assert all(map(near, (found.pa, found.mpa, found.miou), as_mmseg(q)))
    found = scores(torch.tensor(p), "torchvision")
    for ours, theirs in zip((found.pa, found.mpa, found.miou), as_torchvision(q)):
        assert math.isnan(ours) and math.isnan(theirs) or ours == pytest.approx(theirs, abs=1e-6)


def test_absent_classes_one_by_one():
    """Class 1 is predicted and not there, class 2 is neither."""
    p = torch.tensor([[8, 2, 0], [0, 0, 0], [0, 0, 0]])
    miou = {name: scores(p, name).miou for name in POLICIES}
    mpa = {name: scores(p, name).mpa for name in POLICIES}
    assert miou["mmseg"] == pytest.approx(0.4) and mpa["mmseg"] == pytest.approx(0.8)
    assert miou["detectron2"] == pytest.approx(0.8) and mpa["detectron2"] == pytest.approx(0.8)
    assert math.isnan(miou["torchvision"]) and math.isnan(mpa["torchvision"])
    assert miou["segnet"] == pytest.approx(0.8 / 3) and mpa["segnet"] == pytest.approx(0.8 / 3)
    assert miou["torchmetrics"] == pytest.approx(0.4) and mpa["torchmetrics"] == pytest.approx(0.4)
    assert scores(p, Policy(1.0, 1.0, 1.0, 1.0)).miou == pytest.approx(2.8 / 3)
    assert torch.isnan(scores(p).iou[2]) and scores(p).iou[1] == 0


# ---------------------------------------------------------------- what cannot be scored


def test_nothing_scored_is_nan_and_not_zero():
    for policy in POLICIES:
        found = scores(confusion(np.full((4, 4), 255), np.zeros((4, 4), int), 3), policy)
        assert all(math.isnan(v) for v in found.named().values())


def test_what_is_no_confusion_matrix_is_refused():
    for p in (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 2), torch.tensor([[1, -1], [0, 0]])):
        with pytest.raises(InputError, match="is no confusion matrix; allowed"):
            scores(p)
    with pytest.raises(UsageError, match="mmseq.*mmseg"):
        scores(torch.eye(2).long(), "mmseq")
