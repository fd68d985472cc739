"""Observations as rows of numbers, against gymnasium's own flattening, and what does not fit."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces as S
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.flattening import flat, layout, rows
from ptheta.engine.errors import InputError

SIDES = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)
PLAIN = st.one_of(
    st.builds(S.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    SIDES.filter(len).flatmap(
        lambda sides: st.builds(
            lambda n, start: S.MultiDiscrete(np.full(sides, n) + np.arange(np.prod(sides)).reshape(sides), start=start),
            st.integers(1, 3),
            st.integers(-2, 2).map(lambda k: np.full(sides, k)),
        )
    ),
    st.builds(S.MultiBinary, st.integers(1, 4)),
    st.builds(lambda shape: S.Box(-5, 5, shape), SIDES),
    st.builds(lambda shape: S.Box(0, 255, shape, np.uint8), SIDES),
)
SPACES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(S.Tuple),
        st.dictionaries(st.sampled_from("zyxab"), inner, min_size=1, max_size=3).map(S.Dict),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=80)
@given(SPACES, st.integers(0, 2**31 - 1))
def test_a_row_is_gymnasiums(space, seed):
    space.seed(seed)
    x = space.sample()
    described = json.loads(json.dumps(layout(space)))
    assert described == layout(space)
    want = np.asarray(S.flatten(space, x), np.float32)
    found = flat(described, x)
    assert np.array_equal(found, want) and found.dtype == np.float32
    again, one = rows(described, want.shape, x)
    assert one and np.array_equal(again, want[None])
    if not isinstance(space, S.Box):  # rows of what is already flat
        again, one = rows(described, want.shape, np.stack([want, want]))
        assert not one and np.array_equal(again, [want, want])


@pytest.mark.parametrize("space", [S.Sequence(S.Discrete(2)), S.Text(3), S.Graph(S.Box(0, 1, (2,)), None)], ids=str)
def test_what_has_no_fixed_size_has_no_layout(space):
    assert layout(space) is None and layout(S.Tuple((space,))) is None and layout(S.Dict({"a": space})) is None


PAIR = layout(S.Dict({"place": S.Box(-1, 1, (2,)), "room": S.Discrete(3, start=1)}))


@pytest.mark.parametrize(
    "x",
    [
        {"place": [0.0, 1.0]},
        {"place": [0.0, 1.0, 2.0], "room": 1},
        {"place": [0.0, 1.0], "room": 4},
        {"place": [0.0, 1.0], "room": 0},
        {"place": [0.0, 1.0], "room": 1.5},
        {"place": ["a", "b"], "room": 1},
        {"place": [[0.0], 1.0], "room": 1},
        {"place": [0.0, np.nan], "room": 1},
        [0.0, 1.0, 1.0],
        "room",
        None,
    ],
    ids=str,
)
def test_what_does_not_fit_its_space_is_refused(x):
    with pytest.raises(InputError) as got:
        rows(PAIR, (5,), x)
    assert str(got.value).startswith("the observation ") and "\n" not in str(got.value)


def test_a_tuple_is_as_long_as_its_space():
    described = layout(S.Tuple((S.Discrete(2), S.Discrete(2))))
    assert rows(described, (4,), (0, 1))[0].tolist() == [[1, 0, 0, 1]]
    for wrong in ((0,), (0, 1, 1)):
        with pytest.raises(InputError, match="does not fit its space"):
            rows(described, (4,), wrong)


# ---------------------------------------------------------------- rows and pictures


def test_rows_are_told_from_one():
    for x in ([1, 2, 3], np.array([1.0, 2, 3]), torch.tensor([1.0, 2, 3], requires_grad=True)):
        found, one = rows(None, (3,), x)
        assert one and found.tolist() == [[1, 2, 3]] and found.dtype == np.float32
    found, one = rows(None, (3,), [[1, 2, 3], [4, 5, 6]])
    assert not one and found.tolist() == [[1, 2, 3], [4, 5, 6]]
    found, one = rows(None, (3,), np.zeros((0, 3)))
    assert not one and found.shape == (0, 3)
    table = {"shape": [4, 2]}
    for x, single in ((np.arange(8).reshape(4, 2), True), (np.arange(8), True), (np.arange(8).reshape(1, 4, 2), False)):
        found, one = rows(table, (8,), x)
        assert one == single and found.tolist() == [list(range(8))]


@pytest.mark.parametrize("x", [[1, 2], [[[1, 2, 3]]], 3, [[1, 2, 3], [4, 5]], "abc", [None] * 3, [1j, 2, 3]], ids=str)
def test_another_shape_is_refused(x):
    with pytest.raises(InputError, match=r"^the observation .*[:;] "):
        rows(None, (3,), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(InputError, match="not finite"):
        rows(None, (2,), [0.0, bad])


def test_a_picture_may_have_its_channels_last_or_first():
    picture = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    want, described = picture.transpose(2, 0, 1), {"picture": [5, 6, 3]}
    for x in (picture, want, picture.tolist(), picture.astype(np.int64)):
        found, one = rows(described, (3, 5, 6), x)
        assert one and np.array_equal(found, want[None]) and found.dtype == np.uint8
    for x in (np.stack([picture] * 2), np.stack([want] * 2)):
        found, one = rows(described, (3, 5, 6), x)
        assert not one and np.array_equal(found, [want, want])
    with pytest.raises(InputError, match=r"shape \(6, 5, 3\); allowed: \(5, 6, 3\), \(3, 5, 6\), or rows of these"):
        rows(described, (3, 5, 6), picture.transpose(1, 0, 2))


@pytest.mark.parametrize("wrong", [lambda x: x / 255, lambda x: x + 1000, lambda x: x - 1])
def test_a_picture_is_of_bytes(wrong):
    with pytest.raises(InputError, match="the picture holds .* values; allowed: bytes"):
        rows({"picture": [5, 6, 3]}, (3, 5, 6), wrong(np.zeros((5, 6, 3), np.int64)))
