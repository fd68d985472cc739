"""`ptheta compare`: groups, what is told of few and of many seeds, thresholds, pairs, curves, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import done, refused, run
from matplotlib.figure import Figure
from written_runs import written

from ptheta import comparison
from ptheta.comparison import curve, grouped, measured, picture, runs_in
from ptheta.engine.measurements import number
from ptheta.engine.statistics import improvement, improvement_interval, interval, iqm


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder; what is drawn there is small, as long as nobody looks at it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "picture", lambda *drawn: Figure(figsize=(1, 1)))


def several(folder: str, n: int, rise=100.0, **more) -> np.ndarray:
    """A folder of n seeds with 15 evaluations each: their values."""
    values = rise + np.random.default_rng(n).normal(0, 30, (n, 15)).cumsum(1)
    for seed, own in enumerate(values):
        written(Path(folder) / f"seed{seed}", own.tolist(), seed=seed, **more)
    return values


def told(*argv) -> dict:
    return json.loads(done("compare", *argv, "--json")[0])


def groups_of(*sources):
    runs = [run for source in sources for run in runs_in(source)]
    return grouped(measured(runs, "return_mean", "higher", None)[1])


# ---------------------------------------------------------------- figures


def test_from_five_seeds_on_the_interquartile_mean_and_its_interval_are_told():
    x = several("a", 6)
    (group,) = told("a")["groups"]
    assert (group["name"], group["data"], group["n"]) == ("trpo", "CartPole-v1", 6)
    for name, values in (("best", x.max(1)), ("last", x[:, -1]), ("last_ten", x[:, -10:].mean(1))):
        low, high = interval(values)
        assert group[name] == pytest.approx({"iqm": float(iqm(values)), "low": float(low), "high": float(high)})
        assert [seed[name] for seed in group["seeds"]] == pytest.approx(values.tolist())


def test_of_fewer_every_seed_is_told():
    x = several("a", 4)
    (group,) = told("a")["groups"]
    assert "best" not in group and [seed["seed"] for seed in group["seeds"]] == [0, 1, 2, 3]
    lines = done("compare", "a", "--out", "p")
    assert lines[0] == "CartPole-v1, valid return_mean, higher is better"
    assert [line.split()[-3:] for line in lines[2:6]] == [
        [number(float(v)) for v in (own.max(), own[-1], own[-10:].mean())] for own in x
    ]
    assert lines[-1] == "p.png" and Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_who_is_probably_better_is_told_of_enough_seeds_and_by_the_figures_direction():
    x, y = several("a", 6), several("b", 5, rise=150.0, method="a2c")
    several("c", 4, method="reinforce")
    for better, sign in (("higher", 1), ("lower", -1)):
        (pair,) = told("a", "b", "c", "--better", better)["pairs"]
        X, Y = (sign * v[:, -10:].mean(1) for v in (x, y))
        assert (pair["better"], pair["than"]) == ("trpo", "a2c")
        assert pair["probability"] == pytest.approx(improvement(X, Y)) and 0 < pair["probability"] < 1
        assert (pair["low"], pair["high"]) == pytest.approx(improvement_interval(X, Y))
    assert f"P(trpo better than a2c) = {improvement(-X, -Y):.2f} [" in "\n".join(done("compare", "a", "b"))


def test_when_a_threshold_is_reached():
    for seed in range(5):
        written(Path(f"a/seed{seed}"), [1.0, 5.0, 2.0][: 3 if seed else 1], seed=seed)
    written(Path("b/seed0"), [0.0, 1.0, 6.0], method="a2c")
    a, b = told("a", "b", "--threshold", "4")["groups"]
    assert a["reached"] == 4 and b["reached"] == 1
    assert [seed["reached"] for seed in a["seeds"]] == [None, *[{"steps": 1000, "minutes": 1.0}] * 4]
    text = "\n".join(done("compare", "a", "b", "--threshold", "4"))
    assert "return_mean ≥ 4, reached by" in text
    assert "trpo  4 of 5  steps median 1,000 (1,000 to never)   time median 1:00 (1:00 to never)" in text
    assert "a2c   1 of 1  steps 2,000   time 2:00" in text


def test_a_figure_of_another_name_and_split():
    several("a", 2, figure="return", split="train")
    there = told("a", "--figure", "return", "--better", "higher")
    assert (there["split"], there["figure"], there["better"]) == ("train", "return", "higher")


def test_lower_is_better_where_the_method_has_it_so():
    written(Path("n"), [9.0, 7.0, 8.0], method="nade", figure="nats", data="digits")
    there = told("n", "--threshold", "7.5")
    assert there["better"] == "lower" and there["groups"][0]["seeds"][0]["best"] == 7
    assert there["groups"][0]["seeds"][0]["reached"]["steps"] == 1000


# ---------------------------------------------------------------- groups


def test_runs_that_differ_in_the_seed_alone_are_one_group():
    free = {"threads": 4, "out": "elsewhere", "device": "cpu", "max_time": 3.0, "data": "/a/CartPole-v1"}
    written(Path("a/seed0"), [1.0, 2.0]), written(Path("a/seed1"), [1.0, 2.0], seed=1, options=free)
    written(Path("b"), [1.0, 2.0], seed=2, config={"delta": 0.01})  # which is what it is when nobody says
    written(Path("c"), [1.0, 2.0], seed=0, config={"delta": 0.02, "hidden": [32, 8]})
    written(Path("d"), [1.0, 2.0], seed=0, method="a2c")
    found = groups_of("a", "b", "c", "d")
    names = ["trpo hidden=64,64 delta=0.01", "trpo hidden=32,8 delta=0.02", "a2c"]
    assert [group.name for group in found] == names
    assert [[s.run.about["seed"] for s in group.seeds] for group in found] == [[0, 1, 2], [0], [0]]


def test_what_else_changes_the_outcome_sets_runs_apart():
    written(Path("a"), [1.0]), written(Path("b"), [1.0], seed=1, options={"steps": 500_000})
    written(Path("c"), [1.0], seed=2, options={"steps": None})  # as many as the method has by itself
    assert [g.name for g in groups_of("a", "b")] == [
        "trpo steps=100000 eval_every=5000", "trpo steps=500000 eval_every=25000",
    ]  # fmt: skip
    assert len(groups_of("a", "c")) == 1


def test_each_data_set_has_a_panel_of_its_own():
    several("a", 5), several("b", 5, data="Pendulum-v1"), several("c", 5, data="Pendulum-v1", fingerprint="other")
    found = groups_of("a", "b", "c")
    assert [group.data for group in found] == ["CartPole-v1", "Pendulum-v1 (of Pen)", "Pendulum-v1 (other)"]
    assert told("a", "b", "c")["pairs"] == []
    drawn = picture(found, "return_mean", "valid", None)
    assert [axes.get_title() for axes in drawn.axes] == [group.data for group in found]


def test_a_run_that_is_named_twice_counts_once():
    several("a", 3)
    assert told("a", "a/seed1", "./a")["groups"][0]["n"] == 3


# ---------------------------------------------------------------- curves


def test_the_curve_is_between_evaluations_and_ends_with_the_first_seed():
    written(Path("a/seed0"), [0.0, 10.0, 20.0], steps=[0, 100, 200])
    written(Path("a/seed1"), [1.0, 4.0, 6.0], steps=[0, 150, 170], seed=1)
    (group,) = groups_of("a")
    steps, values = curve(group)
    assert steps.tolist() == [0, 100, 150, 170]
    np.testing.assert_allclose(values, [[0, 10, 15, 17], [1, 3, 4, 6]])


def test_what_is_drawn_of_few_and_of_many_seeds():
    x = several("a", 6)
    y = several("b", 3, method="a2c")
    (axes,) = picture(groups_of("a", "b"), "return_mean", "valid", 90.0).axes
    many, few, *seeds, threshold = axes.lines
    np.testing.assert_allclose(many.get_ydata(), iqm(x))
    np.testing.assert_allclose(few.get_ydata(), y.mean(0))
    np.testing.assert_allclose([line.get_ydata() for line in seeds], y)
    assert set(threshold.get_ydata()) == {90}
    assert len({line.get_color() for line in (few, *seeds)}) == 1 and many.get_color() != few.get_color()
    low, high = interval(x, resamples=2000)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert {round(v, 6) for v in (*low, *high)} == {round(v, 6) for v in band}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "trpo (IQM of 6 seeds)", "a2c (mean of 3 seeds)",
    ]  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("env steps", "valid return_mean")


def test_seeds_that_ended_early_are_named():
    written(Path("a/seed0"), [1.0] * 9), written(Path("a/seed1"), [1.0] * 3, seed=1)
    code, _, err = run("compare", "a")
    assert code == 0 and "trpo ended at different steps (seed 0 8,000, seed 1 2,000)" in err


# ---------------------------------------------------------------- mistakes


def test_what_cannot_be_compared_is_one_line():
    several("a", 2), written(Path("n"), [3.0], method="nade", figure="nats", data="digits")
    written(Path("empty/seed0"), []), written(Path("copy"), [1.0], seed=1)
    written(Path("s"), [1.0], method="simclr", figure="loss"), written(Path("m"), [1.0], method="moco", figure="loss")
    Path("folder").mkdir(), Path("p.png").touch()
    for code, message, *argv in (
        (2, "compare wants runs; name run directories"),
        (1, "there is no run nowhere; name run directories, or folders of seeds", "nowhere"),
        (1, "folder is no run and holds none; `ptheta train` makes them", "folder"),
        (1, "empty/seed0 has no evaluation yet; let it train up to its first one", "empty"),
        (
            2,
            "figure 'return_maen' is unknown; allowed: return_mean. Did you mean 'return_mean'",
            "a",
            "--figure",
            "return_maen",
        ),
        (2, "split 'test' is unknown; allowed: valid. These are of a/seed0", "a", "--split", "test"),
        (2, "judged by different figures .trpo return_mean, nade nats.; name one with --figure", "a", "n"),
        (2, "figure 'nats' is unknown; allowed: return_mean. .*of a/seed0", "n", "a", "--figure", "nats"),
        (2, "the loss of each of simclr, moco is its own; name a figure of all", "s", "m"),
        (2, "a/seed1 and copy are one seed of the same settings; name one of them", "a", "copy"),
        (2, "p.png exists; name another --out", "a", "--out", "p.png"),
        (2, "folder is a folder; name a file in it", "a", "--out", "folder"),
    ):
        refused(code, message, "compare", *argv)


def test_a_figure_that_no_method_is_judged_by_needs_a_direction():
    several("a", 2, length_mean=3.0)
    message = "say which length_mean is better: --better lower, or --better higher"
    refused(2, message, "compare", "a", "--figure", "length_mean")
    assert told("a", "--figure", "length_mean", "--better", "lower")["groups"][0]["seeds"][0]["best"] == 3


def test_json_is_all_that_is_printed_and_pictures_are_numbered(monkeypatch):
    several("a", 2)
    monkeypatch.setattr(comparison, "picture", picture)
    (line,) = done("compare", "a", "--json")
    assert json.loads(line)["picture"] == "comparison.png" and done("compare", "a")[-1] == "comparison-2.png"
    assert comparison.compare(("a",), out=Path("p"))["figure"] == "return_mean" and Path("p.png").exists()
