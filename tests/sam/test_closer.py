"""Windows by hand and by their properties; logits that are handed on; answers beside a predictor of the crop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data import nested
from ptheta.sam import closer
from ptheta.sam.closer import Closer, box, handed, window
from ptheta.sam.predictor import Predictor

PICTURE = np.ascontiguousarray(nested.scene(0, "valid", 3, 160).picture.transpose(1, 2, 0))


def test_windows_by_hand():
    assert window((100, 50, 110, 60), (256, 256), 160) == (73, 23, 137, 87), "not closer than 2.5 times: 64 pixels"
    assert window((100, 50, 140, 60), (256, 256), 160) == (60, 0, 180, 120), "three times as wide, in the picture"
    assert window((100, 50, 140, 60), (100, 256), 160) == (60, 0, 180, 100), "the picture is lower"
    assert window((100, 50, 170, 60), (256, 256), 160) == (0, 0, 256, 256), "more than .8 of the picture"
    assert window(None, (30, 20), 160) == (0, 0, 20, 30)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 20).map(lambda n: 16 * n),
    st.tuples(*[st.floats(0, 1)] * 4),
)  # fmt: skip
def test_windows_hold_what_they_are_of(h, w, side, at):
    x, y = sorted(v * w for v in at[:2]), sorted(v * h for v in at[2:])
    left, top, right, bottom = window((x[0], y[0], x[1], y[1]), (h, w), side)
    assert 0 <= left < right <= w and 0 <= top < bottom <= h
    assert left <= x[0] + 0.5 and x[1] - 0.5 <= right and top <= y[0] + 0.5 and y[1] - 0.5 <= bottom
    if (right - left, bottom - top) != (w, h):
        assert max(right - left, bottom - top) <= 0.8 * max(h, w) + 0.5
        assert max(right - left, bottom - top) >= min(max(h, w), side / 2.5) - 0.5


def test_a_box_is_around_mask_and_clicks():
    mask = torch.zeros(30, 40, dtype=torch.bool)
    assert box(mask, np.zeros((0, 2))) is None
    assert box(mask, np.array([[7.4, 3.0]])) == (7, 3, 8, 4)
    mask[10:12, 20:25] = True
    assert box(mask, np.zeros((0, 2))) == (20, 10, 25, 12)
    assert box(mask, np.array([[7.4, 3.0], [22, 29]])) == (7, 3, 25, 30)


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(0, 100)] * 4), st.integers(20, 90))
def test_logits_lie_where_they_lay_in_the_picture(corners, side):
    """A function that rises evenly is what bilinear interpolation finds exactly, half a cell away from the ends."""
    a, before = 20, (corners[0], corners[1], corners[0] + 100, corners[1] + 70)
    now = (corners[2], corners[3], corners[2] + side // 2, corners[3] + side)

    def places(of, length):
        return of + (torch.arange(a).double() + 0.5) / a * length

    def rising(of):
        length = max(of[2] - of[0], of[3] - of[1])
        x, y = places(of[0], length), places(of[1], length)
        return (0.3 * x[None] - 0.2 * y[:, None] + 1).float()[None], x, y

    m, _, _ = rising(before)
    wanted, x, y = rising(now)
    found = handed(m, before, now)
    of = before[2] - before[0]

    def far(at, low, by):
        return (at >= low - by) & (at <= low + of + by)

    inner = far(x, before[0], -0.5 * of / a)[None] & far(y, before[1], -0.5 * of / a)[:, None]
    outer = far(x, before[0], 0.5 * of / a)[None] & far(y, before[1], 0.5 * of / a)[:, None]
    torch.testing.assert_close(found[0][inner], wanted[0][inner], atol=1e-3, rtol=1e-4)
    assert (found[0][~outer] == -closer.OUTSIDE).all(), "where there was no answer"
    assert handed(m, before, before) is m


@pytest.fixture
def begun(tiny):
    predictor = Predictor(tiny)
    predictor.set_image(PICTURE)
    return Closer(predictor, PICTURE)


def drawn(turn, top, left, side):
    """A turn with a square as its mask."""
    mask = torch.zeros(160, 160, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    turn.answer.masks[:] = mask
    return turn


def test_what_is_large_is_asked_for_in_the_whole_picture(begun):
    first = drawn(begun.ask([[80, 80]], [1]), 20, 20, 100)
    second = begun.ask([[80, 80], [10, 10]], [1, 0], first, 1)
    logits = first.answer.logits[1][None]
    answer = begun.predictor.predict([[80, 80], [10, 10]], [1, 0], masks=logits, several=False)
    assert second.window == (0, 0, 160, 160) and second.near is begun.predictor
    torch.testing.assert_close(second.answer.logits, answer.logits, atol=2e-4, rtol=1e-4)


def test_what_is_small_is_looked_at_closer(begun, tiny):
    first = drawn(begun.ask([[60, 70]], [1]), 65, 55, 10)
    points, labels = [[60.0, 70.0], [62.0, 71.0]], [1, 0]
    second = begun.ask(points, labels, first)
    assert second.window == (28, 38, 92, 102)
    crop = Predictor(tiny)
    crop.set_image(PICTURE[38:102, 28:92])
    logits = handed(first.answer.logits[:1], (0, 0, 160, 160), second.window)
    at = np.array(points) - (28, 38) + 0.3  # the middle of 2.5 pixels is 1.25, less 0.5, over 2.5
    answer = crop.predict(at, labels, masks=logits, several=False)
    torch.testing.assert_close(second.answer.logits, answer.logits, atol=2e-4, rtol=1e-4)
    assert torch.equal(second.answer.masks[:, 38:102, 28:92], answer.masks)
    outside = second.answer.masks.clone()
    outside[:, 38:102, 28:92] = False
    assert not outside.any() and second.answer.masks.shape == (1, 160, 160)

    third = begun.ask([*points, [64, 70]], [*labels, 1], drawn(second, 64, 56, 12))
    assert third.window == second.window and third.near is second.near, "it has been looked at"
    fourth = begun.ask([*points, [64, 70], [70, 5]], [*labels, 1, 1], third)
    assert fourth.window != third.window and fourth.window[1] <= 5, "a click outside of it"


def test_a_closer_look_needs_no_click(begun):
    first = drawn(begun.ask([[60, 70]], [1]), 65, 55, 10)
    near = begun.nearer([[60, 70]], [1], first, 2)
    asked = begun.ask([[60, 70]], [1], first, 2)
    assert near.window == asked.window == (28, 38, 92, 102) and torch.equal(near.answer.logits, asked.answer.logits)
    assert begun.nearer([[60, 70]], [1], drawn(near, 65, 55, 12)) is None
    assert begun.nearer([[60, 70]], [1], drawn(near, 0, 0, 150)) is None, "farther is not closer"
    assert begun.nearer([[60, 70]], [1], drawn(begun.ask([[60, 70]], [1]), 0, 0, 150)) is None


def test_clicks_that_are_not_in_the_window_are_left_out(begun):
    first = drawn(begun.ask([[60, 70]], [1]), 65, 55, 10)
    shown = begun.ask([[60, 70], [150, 150], [61, 71]], [1, 0, 1], first)
    alone = begun.ask([[60, 70], [61, 71]], [1, 1], first)
    assert torch.equal(shown.answer.logits, alone.answer.logits)
