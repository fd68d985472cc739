"""What is read of a run: figures, when they were reached, how long it had trained; also while it goes on."""

import json
import math
import time

import numpy as np
import pytest
from written_runs import START, written

from ptheta.engine.errors import InputError
from ptheta.engine.measurements import lines, measurements, minutes, number
from ptheta.engine.run import Run


def measured(path, better="higher"):
    return measurements(Run.open(path), "return_mean", better, "valid")


def test_best_last_and_the_mean_of_the_last_ten(tmp_path):
    values = [3.0, 9.0, 1.0, 9.0, *map(float, range(10))]
    seed = measured(written(tmp_path / "r", values))
    assert seed.figures() == {"best": 9, "last": 9, "last_ten": 4.5}
    assert seed.steps[seed.best_at] == 1000, "the first of the best"
    low = measured(tmp_path / "r", "lower")
    assert low.figures() == {"best": 0, "last": 9, "last_ten": 4.5} and low.steps[low.best_at] == 4000
    assert measured(written(tmp_path / "few", [1.0, 4.0])).figures()["last_ten"] == 2.5


def test_when_a_threshold_is_reached(tmp_path):
    seed = measured(written(tmp_path / "r", [1.0, 5.0, 3.0, 7.0]))
    assert [seed.reached(t) for t in (0.0, 1.5, 5.0, 6.0, 8.0)] == [0, 1, 1, 3, None]
    low = measured(tmp_path / "r", "lower")
    assert [low.reached(t) for t in (5.0, 1.0, 0.5)] == [0, 0, None]


def test_other_splits_other_figures_and_what_is_not_finite_are_left_out(tmp_path):
    path = written(tmp_path / "r", [1.0, math.nan, 3.0])
    with open(path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 9000, "split": "train", "return_mean": 99.0}) + "\n")
        file.write(json.dumps({"step": 9500, "split": "valid", "loss": 99.0}) + "\n")
    with open(path / "times.jsonl", "a") as file:
        file.write((json.dumps({"time": START + 600.0}) + "\n") * 2)
    seed = measured(path)
    assert seed.steps.tolist() == [0, 2000] and seed.values.tolist() == [1, 3] and seed.minutes.tolist() == [0, 2]
    assert measurements(Run.open(path), "entropy", "higher", "valid") is None


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    path = written(tmp_path / "r", [1.0, 2.0])
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2000, "split": "va')
    assert [line["step"] for line in lines(path / "metrics.jsonl")] == [0, 1000]
    (path / "spoilt.jsonl").write_text('{"step": 2000}\n{"step": \n')
    with pytest.raises(InputError, match="spoilt.jsonl cannot be read: Expecting value"):
        lines(path / "spoilt.jsonl")
    assert lines(path / "nothing.jsonl") == [] and measured(path).steps.tolist() == [0, 1000]


def test_pauses_are_no_training(tmp_path):
    """Two minutes, a night, two minutes of which one is before the first line."""
    night = START + 40_000
    times = [START + 1, START + 121, night + 60, night + 120]
    path = written(tmp_path / "r", [0.0] * 4, times=times, starts=(START + 1, night))
    assert minutes(Run.open(path)) == pytest.approx([0, 2, 3, 4])
    assert measured(path).minutes == pytest.approx([0, 2, 3, 4])


def test_the_minutes_of_a_real_run_are_those_of_its_log(tmp_path):
    about = {"method": "trpo", "seed": 0, "config": {}, "options": {}, "data": {"spec": "x"}}
    run = Run.create(tmp_path / "r", about)
    for k in range(3):
        if k == 2:  # it is stopped, and goes on after a pause
            run.close()
            time.sleep(0.5)
        run.log(k, "valid", {"return_mean": float(k)})
        time.sleep(0.1)
    run.close()
    spent = 60 * np.array(minutes(run))
    assert spent[0] == pytest.approx(0, abs=0.05) and 0.1 <= spent[1] < 0.4 and spent[2] - spent[1] < 0.2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.81234, "0.8123"),
        (88.123, "88.12"),
        (-4.0, "-4.000"),
        (12345.6, "12,346"),
        (0.0, "0.0000"),
        (1.5e-5, "1.5e-05"),
    ],
)
def test_numbers_have_four_digits(value, text):
    assert number(value) == text
