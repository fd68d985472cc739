"""`ptheta ablation`: it trains what is missing, reports what its runs measure, and draws it."""

import json
import statistics

import numpy as np
import pytest
from PIL import Image

import ptheta
from ptheta import ablation as module
from ptheta import api
from ptheta.cli import main
from ptheta.engine.errors import UsageError
from ptheta.segmentation.context import Context
from ptheta.segmentation.learning import judged, matrices
from ptheta.segmentation.objects import by_size, things


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("ptheta.data.label_maps.SCENES", {"train": 24, "valid": 6, "test": 8})
    monkeypatch.setattr(module, "VARIANTS", {k: module.VARIANTS[k] for k in ("pooled", "sawtooth")})


def run(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["ablation", "--size", "48", "--steps", "4", "--width", "4", "--threads", "1", *map(str, argv)])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_figures_are_those_of_the_runs_and_a_second_call_trains_nothing(tmp_path, capsys):
    runs = tmp_path / "runs"
    code, out, err = run(capsys, "--seeds", 0, 3, "--runs", runs, "--json")
    told = json.loads(out)
    assert code == 0, err
    assert [row["name"] for row in told["variants"]] == ["pooled", "sawtooth"]
    saved = {p: p.stat().st_mtime_ns for p in runs.rglob("checkpoints/*")}
    assert len({p.parts[-3] for p in saved}) == 4
    for row in told["variants"]:
        for k, seed in enumerate((0, 3)):
            path = runs / f"{row['name']}-seed{seed}"
            model, data = ptheta.load(str(path)), api.data_of(module.Run.open(path))
            assert model.arguments["rates"] == row["rates"] and model.arguments["output_stride"] == row["output_stride"]
            x, y = data.split("test"), data.maps("test")
            assert row["miou"][k] == judged(matrices(model, x, y))["miou"].mean
            found = [one for t, s in zip(y, model.predict(x)) for one in things(t, s)]
            for name, (value, count) in by_size(found).items():
                assert row[name][k] == value or (value != value and row[name][k] is None)
                assert row["things"][name] == count
    assert np.asarray(Image.open(told["picture"])).std() > 10
    code, out, _ = run(capsys, "--seeds", 0, 3, "--runs", runs)
    assert code == 0 and {p: p.stat().st_mtime_ns for p in runs.rglob("checkpoints/*")} == saved
    assert f"{100 * statistics.mean(told['variants'][1]['miou']):.1f} ±" in out and "ablation-2.png" in out


def test_repeated_rates_read_a_part_and_hybrid_ones_all(monkeypatch):
    monkeypatch.undo()
    shares = {name: module.seen(*how) for name, how in module.VARIANTS.items()}
    assert shares["pooled"] == {"field": None, "share": None}
    assert all(shares[name]["share"] == 1 for name in ("plain", "rising", "sawtooth"))
    assert shares["repeated"]["field"] == 97 and shares["repeated"]["share"] == pytest.approx((25 / 97) ** 2)


def test_runs_of_other_settings_are_not_taken_for_what_was_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "VARIANTS", {"pooled": module.VARIANTS["pooled"]})
    assert run(capsys, "--seeds", 0, "--runs", tmp_path)[0] == 0
    code, _, err = run(capsys, "--seeds", 0, "--runs", tmp_path, "--steps", 3)
    assert code == 2 and "has steps = 4, not 3; ask for the same, or name another folder with --runs" in err
    with pytest.raises(UsageError, match="pooled-seed0 has size = 48, not None; ask for the same"):
        module.ablation(seeds=(0,), steps=4, width=4, runs=tmp_path)


def test_a_split_that_there_is_not_is_told_before_the_work(tmp_path, capsys):
    code, _, err = run(capsys, "--runs", tmp_path / "runs", "--split", "night")
    assert code == 2 and "'night' is unknown" in err and not (tmp_path / "runs").exists()


def test_variants_differ_in_strides_rates_and_two_projections_alone(tmp_path, monkeypatch):
    monkeypatch.undo()
    states = {
        name: Context((3, 48, 48), ["a", "b"], width=4, context="none", rates=rates, output_stride=stride).state_dict()
        for name, (rates, stride) in module.VARIANTS.items()
    }
    shapes = {name: {k: v.shape for k, v in state.items() if "project" not in k} for name, state in states.items()}
    assert all(s == shapes["plain"] for s in shapes.values())


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_that_tell_nothing_are_refused(seeds, tmp_path):
    with pytest.raises(UsageError, match="allowed: one seed and more, all different"):
        module.ablation(seeds=seeds, runs=tmp_path)


def test_a_picture_that_is_there_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "a.png").touch()
    code, _, err = run(capsys, "--runs", tmp_path / "runs", "--out", tmp_path / "a")
    assert code == 2 and "a.png exists; name another --out" in err and not (tmp_path / "runs").exists()


def test_what_has_no_things_of_a_size_is_drawn_all_the_same():
    row = {"name": "plain", "rates": [1], "output_stride": 8, "field": 3, "share": 1.0, "things": {"small": 0}}
    row |= {"miou": [0.5, 0.6], "small": [float("nan")] * 2, "medium": [0.2, 0.3], "large": [0.7, 0.8]}
    figure = module.picture({"variants": [row]})
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.15 * 80)
