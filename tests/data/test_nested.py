"""Scenes of things that have parts."""

import numpy as np
import pytest

from ptheta.data.nested import COLOURS, LEAST, scene
from ptheta.engine.errors import UsageError

SCENES = [scene(0, "train", i, side=128) for i in range(12)]


def test_the_same_arguments_give_the_same_scene():
    a, b, c = scene(0, "train", 3, 96), scene(0, "train", 3, 96), scene(0, "valid", 3, 96)
    assert (a.picture == b.picture).all() and (a.masks == b.masks).all() and a.names == b.names
    assert not (a.picture == c.picture).all()


def test_masks_are_those_of_the_picture():
    for s in SCENES:
        n = len(s.masks)
        assert s.picture.shape == (3, 128, 128) and s.picture.dtype == np.uint8 and s.masks.shape == (n, 128, 128)
        assert len(s.level) == len(s.parent) == len(s.names) == n > 0
        assert (s.masks.sum((1, 2)) >= LEAST * 128**2).all()
    assert {level for s in SCENES for level in s.level.tolist()} == {0, 1, 2}


def test_a_whole_holds_its_parts_and_others_nothing_of_it():
    for s in SCENES:
        for i, (mask, parent) in enumerate(zip(s.masks, s.parent)):
            if parent >= 0:
                assert s.level[parent] == s.level[i] - 1
                assert not (mask & ~s.masks[parent]).any()
            above = {i}
            while s.parent[max(above, key=lambda k: -s.level[k])] >= 0:
                above.add(int(s.parent[max(above, key=lambda k: -s.level[k])]))
            same = [j for j in range(len(s.masks)) if j != i and s.level[j] == s.level[i]]
            assert not any((mask & s.masks[j]).any() for j in same), "two things of a level share a pixel"


def test_colours_are_what_names_say():
    for s in SCENES:
        for i, name in enumerate(s.names):
            if s.level[i] != 0:
                assert len(name.split()) == 1
                continue
            article, colour, _ = name.split()
            assert article == ("an" if colour == "orange" else "a")
            own = s.masks[i] & ~np.any(s.masks[s.level > 0], axis=0)
            if own.sum() > 200 and colour not in ("white", "black"):
                seen = np.median(s.picture[:, own], axis=1) / 255
                distance = {c: np.linalg.norm(seen - np.array(rgb)) for c, rgb in COLOURS.items()}
                assert distance[colour] < 0.6


def test_what_is_refused():
    with pytest.raises(UsageError, match="side = 32"):
        scene(0, "train", 0, 32)
    with pytest.raises(UsageError, match="split 'all'"):
        scene(0, "all", 0)
