"""Answers to clicks, beside the predictor's; what counts as true; standard errors by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import instances, nested, rle
from ptheta.data.instances import Example
from ptheta.engine.errors import InputError
from ptheta.sam import clicks
from ptheta.sam.evaluation import asked, converse, figures, jackknifed, overlap
from ptheta.sam.predictor import Predictor

SCENE = nested.scene(0, "valid", 3, 160)


def example(masks=SCENE.masks, annotator=None, picture=SCENE.picture) -> Example:
    told = tuple(rle.encode(mask) for mask in masks)
    return Example("scene", picture, told, annotator or (0,) * len(told))


def test_answers_are_those_of_the_predictor(tiny):
    """Click by click, one mask at a time, in pixels of the picture."""
    rows = [0, 2, 3]
    firsts, _, expected, ious, boxed = converse(tiny, example(), rows, 3)
    predictor = Predictor(tiny)
    predictor.set_image(SCENE.picture.transpose(1, 2, 0))
    for at, row in enumerate(rows):
        truth = torch.from_numpy(SCENE.masks[row])[None]
        points, labels, logits = [clicks.middle(truth)[0][0].tolist()], [1], None
        for turn in range(3):
            answer = predictor.predict(points=points, labels=labels, masks=logits, several=turn == 0)
            of_each = overlap(answer.masks, truth)
            if turn == 0:
                torch.testing.assert_close(firsts[at], of_each, rtol=0, atol=2e-3)
                torch.testing.assert_close(expected[at], answer.ious, rtol=1e-3, atol=1e-3)
            best = int(answer.ious.argmax())
            assert abs(ious[at, turn] - of_each[best]) < 2e-3
            point, there = clicks.middle(answer.masks[best][None] ^ truth)
            assert there
            points.append(point[0].tolist())
            labels.append(int(clicks.labels(point, truth)[0]))
            logits = answer.logits[best][None]
        ys, xs = np.nonzero(SCENE.masks[row])
        answer = predictor.predict(boxes=[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).best()
        assert abs(boxed[at] - overlap(answer.masks, truth)[0]) < 2e-3


def test_the_nearest_truth_is_of_another_person_or_the_one_that_was_asked_for(tiny, monkeypatch):
    """Answers are three of four masks; to be good, a mask need not have been asked for."""
    y = np.zeros((4, 160, 160), bool)
    y[0, :, :80], y[1, :, :112], y[2, :, 80:], y[3, :100, :80] = True, True, True, True  # the click is at (39, 39)
    m = torch.from_numpy(y[[1, 2, 3]])[None]
    monkeypatch.setattr("ptheta.sam.evaluation.within", lambda model, logits, h, w: m[:, : logits.shape[1]])
    found, good, *_ = converse(tiny, example(y, (0, 1, 1, 0)), [0], 1)
    assert found[0, 0] == 1.0, "another person's mask that holds the click"
    assert found[0, 1] == pytest.approx(32 / 160), "that person's other mask does not hold it"
    assert found[0, 2] == pytest.approx(100 / 160), "the same person's other mask was not asked for"
    assert good[0].tolist() == pytest.approx([1.0, 32 / 160, 1.0])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.integers(0, 999))
def test_the_jackknife_of_a_mean_is_by_hand(sizes, seed):
    r = np.random.RandomState(seed)
    groups = [torch.from_numpy(r.rand(n)) for n in sizes]
    found = jackknifed(groups, torch.mean)
    left = [np.concatenate([g for j, g in enumerate(groups) if j != i]).mean() for i in range(len(groups))]
    G = len(groups)
    assert found.mean == pytest.approx(np.concatenate(groups).mean())
    assert found.standard_error == pytest.approx(math.sqrt((G - 1) / G * ((left - np.mean(left)) ** 2).sum()))
    alone = jackknifed([torch.tensor([x]) for x in np.concatenate(groups)], torch.mean)
    n = alone.n
    if n > 1:  # groups of one: the usual standard error
        assert alone.standard_error == pytest.approx(np.concatenate(groups).std(ddof=1) / math.sqrt(n))


def test_small_masks_are_not_asked_for_and_of_many_always_the_same():
    dot = np.zeros((1, 160, 160), bool)
    dot[0, :5, :5] = True  # 25 of 25,600 pixels
    assert asked(example(np.concatenate([dot, SCENE.masks]))) == [i + 1 for i in asked(example())]
    many = example(np.concatenate([SCENE.masks] * 8))
    assert len(asked(many)) == 32 and asked(many) == asked(many) == sorted(set(asked(many)))


def test_figures_are_means_over_masks_and_change_nothing(tiny):
    data = [example(), example(SCENE.masks[:2])]
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    found = figures(tiny, data)
    parts = [converse(tiny, one, asked(one)) for one in data]
    firsts, good, expected = (torch.cat([p[i] for p in parts]) for i in range(3))
    assert found["miou_1"].mean == pytest.approx(firsts.amax(1).mean().item(), rel=1e-5)
    assert found["miou_5"].mean == pytest.approx(torch.cat([p[3] for p in parts])[:, 4].mean().item(), rel=1e-5)
    r = np.corrcoef(good.flatten().numpy(), expected.flatten().numpy())[0, 1]
    assert found["iou_correlation"].mean == pytest.approx(r, abs=1e-4)
    assert found["miou_1"].n == len(firsts)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    with pytest.raises(InputError, match="no mask of a thousandth"):
        figures(tiny, [example(SCENE.masks[:0])])


def test_a_model_that_is_told_the_truth_has_all_figures_at_one(tiny, monkeypatch):
    """Answers are replaced by the mask that was asked for: then every figure is one."""
    data = instances.load("nested", size=160).split("valid")[:1]
    truth = torch.stack([torch.from_numpy(data[0].mask(i).copy()) for i in asked(data[0])])

    def within(model, logits, h, w):
        return truth[:, None].expand(-1, logits.shape[1], -1, -1)

    monkeypatch.setattr("ptheta.sam.evaluation.within", within)
    monkeypatch.setattr("ptheta.sam.evaluation.AT_ONCE", 10_000)
    found = figures(tiny, data)
    assert all(found[name].mean == 1 for name in ("miou_1", "miou_1_told", "miou_3", "miou_5", "miou_box"))
