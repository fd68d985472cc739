"""A person's sitting: what keys and clicks do, without a screen."""

import numpy as np
import pytest
import torch

from ptheta.data import rle
from ptheta.engine.errors import UsageError
from ptheta.sam.data_engine import told
from ptheta.sam.predictor import Predictor
from ptheta.sam.window import Person, Sitting

PICTURE = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.fixture
def sitting(tiny):
    kept = []
    predictor = Predictor(tiny)
    predictor.set_image(PICTURE)
    begun = Sitting(predictor, PICTURE, [], lambda masks: kept.append(list(masks)))
    return begun, predictor, kept


def test_a_click_asks_and_a_key_chooses_among_three(sitting):
    begun, predictor, _ = sitting
    begun.click(30, 20, True)
    answer = predictor.predict([[30, 20]], [1])
    assert torch.equal(begun.turns[-1].answer.masks, answer.masks) and begun.shown == int(answer.ious.argmax())
    for key in "123":
        begun.key(key)
        assert begun.shown == int(key) - 1
    begun.click(10, 10, False)  # from the third answer on
    second = predictor.predict([[30, 20], [10, 10]], [1, 0], masks=answer.logits[2][None], several=False)
    assert torch.equal(begun.turns[-1].answer.logits, second.logits) and len(begun.turns[-1].answer.masks) == 1
    begun.key("2")
    assert begun.shown == 0, "there is one answer"


def test_what_is_accepted_is_kept_at_once(sitting):
    begun, _, kept = sitting
    begun.key("enter")
    assert not kept, "there was nothing to accept"
    begun.click(30, 20, True)
    mask = begun.turns[-1].answer.masks[begun.shown].numpy()
    begun.key("enter")
    assert len(kept) == 1 and np.array_equal(rle.decode(kept[0][0]["segmentation"]), mask)
    assert kept[0][0]["clicks"] == 1 and kept[0][0]["source"] == "person" and not begun.points and not begun.turns
    begun.click(5, 5, True)
    begun.click(60, 5, True)
    begun.key("enter")
    assert [one["clicks"] for one in kept[-1]] == [1, 2] and begun.clicks == 3


def test_what_clicks_do_not_reach_is_painted(sitting):
    begun, _, kept = sitting
    begun.key("enter")
    assert not kept, "there is nothing to accept"
    begun.key("b")
    for _ in range(10):
        begun.key("-")
    begun.key("+")
    assert begun.brush and begun.radius == 2
    begun.drag(30, 20, True)
    disc = np.fromfunction(lambda y, x: (y - 20) ** 2 + (x - 30) ** 2 <= 4, PICTURE.shape[:2])
    assert np.array_equal(begun.mask(), disc)
    begun.key("backspace")
    assert begun.mask() is None
    begun.click(30, 20, True)
    answer = begun.mask().copy()
    begun.drag(5, 5, True)
    begun.drag(30, 20, False)
    painted = begun.mask().copy()
    assert painted[5, 5] and not painted[20, 30] and np.array_equal(painted[40:], answer[40:])
    begun.key("enter")
    assert np.array_equal(rle.decode(kept[-1][-1]["segmentation"]), painted)
    assert kept[-1][-1]["painted"] and kept[-1][-1]["clicks"] == 1 and begun.painted == 1
    begun.click(30, 20, True)
    begun.drag(5, 5, True)
    begun.click(31, 21, True)
    assert begun.paint is None, "a click asks the model again"


def test_a_click_is_taken_back(sitting):
    begun, _, _ = sitting
    begun.click(30, 20, True)
    first = begun.turns[-1]
    begun.click(10, 10, False)
    begun.key("backspace")
    assert begun.points == [(30, 20)] and begun.turns == [first]
    begun.key("backspace")
    begun.key("backspace")
    assert not begun.points and not begun.turns
    assert begun.picture().shape == PICTURE.shape


def test_what_is_small_is_looked_at_closer(tiny):
    picture = np.random.RandomState(1).randint(0, 256, (160, 160, 3)).astype(np.uint8)
    predictor = Predictor(tiny)
    predictor.set_image(picture)
    begun = Sitting(predictor, picture, [], lambda masks: None)
    begun.click(30, 20, True)
    square = torch.zeros(160, 160, dtype=torch.bool)
    square[15:25, 25:35] = True
    begun.turns[-1].answer.masks[:] = square
    begun.key("3")
    begun.key("c")
    assert begun.clicks == 1 and len(begun.points) == len(begun.turns) == 1
    assert begun.turns[-1].window == (0, 0, 64, 64) and begun.shown == 0 and not begun.mask()[64:].any()
    begun.key("c")
    assert begun.turns[-1].window == (0, 0, 160, 160) and begun.shown == 2
    begun.click(31, 22, True)
    assert begun.turns[-1].window == (0, 0, 64, 64) and begun.mask().shape == (160, 160)
    assert not begun.mask()[64:].any() and begun.picture().shape == picture.shape
    begun.key("backspace")
    assert begun.turns[-1].window == (0, 0, 160, 160) and np.array_equal(begun.mask(), square.numpy())
    begun.key("c")
    begun.key("backspace")
    begun.key("c")
    assert begun.mask() is None and not begun.turns


def test_there_is_no_closer_look_at_what_is_large(sitting):
    begun, _, _ = sitting
    begun.key("c")
    begun.click(30, 20, True)
    begun.turns[-1].answer.masks[:] = True
    begun.key("2")
    first = begun.turns[-1]
    begun.key("c")
    assert begun.turns[-1] is first and begun.shown == 1


def test_the_smallest_mask_under_the_pointer_is_thrown_out(tiny):
    whole, part = np.ones((50, 70), bool), np.zeros((50, 70), bool)
    part[10:20, 10:20] = True
    kept = []
    begun = Sitting(Predictor(tiny), PICTURE, [told(whole), told(part)], kept.append)
    begun.key("x")
    assert len(begun.masks) == 2
    begun.key("x", 12.0, 15.0)
    assert [one["area"] for one in begun.masks] == [3500] and begun.thrown_out == 1 and len(kept) == 1
    begun.key("n")
    assert begun.done and not begun.left
    begun.key("q")
    assert begun.left


def test_without_a_screen_the_way_out_is_told():
    with pytest.raises(UsageError, match="no screen .* add --simulate"):
        Person()
