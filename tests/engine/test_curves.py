"""Curves: which figures get a panel, and what is drawn in it."""

import pytest

from ptheta.engine.curves import curves

METRICS = [
    {"step": 0, "split": "valid", "loss": 3.0, "loss_se": 0.5, "only_once": 1.0},
    {"step": 10, "split": "train", "loss": 2.5, "alike": 0.1},
    {"step": 20, "split": "train", "loss": 2.0, "alike": 0.3},
    {"step": 20, "split": "valid", "loss": 2.2, "loss_se": 0.4},
]


def test_each_figure_that_was_measured_twice_has_a_panel_with_a_line_for_each_split():
    panels = {axes.get_title(): axes for axes in curves(METRICS).axes}
    assert set(panels) == {"loss", "alike"}
    lines = {line.get_label(): [list(v) for v in line.get_data()] for line in panels["loss"].lines}
    assert lines == {"valid": [[0, 20], [3.0, 2.2]], "train": [[10, 20], [2.5, 2.0]]}
    band = panels["loss"].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((2.2 - 0.4, 3.0 + 0.5))
    assert len(panels["alike"].lines) == 1 and not panels["alike"].collections


def test_a_run_that_measured_nothing_has_an_empty_picture():
    assert curves([]).axes == [] and curves(METRICS[:1]).axes == []
