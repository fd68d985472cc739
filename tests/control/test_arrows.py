"""`ptheta gridworld`: what is printed, drawn and refused."""

import json

import pytest
import torch

from ptheta.cli import main
from ptheta.control.arrows import cells, gridworld, solved, world_of
from ptheta.control.gridworld import book, exact, value_iteration
from ptheta.engine.errors import UsageError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_books_world_is_shown_with_its_best_policy(capsys, tmp_path):
    told = gridworld(json=True)
    assert json.loads(capsys.readouterr().out) == told
    torch.testing.assert_close(torch.tensor(told["values"]).double(), value_iteration(book())[0], atol=1e-5, rtol=0)
    assert (
        told["actions"][17] == "stay"
        and told["mean_reward"] == pytest.approx(1)
        and told["mean_value"] == pytest.approx(10)
    )
    assert (tmp_path / "gridworld.png").stat().st_size > 5000


def test_arrows_brackets_and_numbers(capsys):
    gridworld()
    first, *_, fourth, fifth = capsys.readouterr().out.splitlines()[:5]
    assert first.split() == ["↓", "→", "↓", "↓", "↓", "5.83", "5.58", "6.20", "6.48", "5.83"]
    assert fourth.split()[:5] == ["→", "→#", "[○]", "←#", "←"] and fifth.split()[0] == "↑"


def test_a_policy_that_draws_has_dots_and_the_averages_of_the_solves(capsys):
    told = gridworld(rows=2, columns=3, policy="uniform", gamma=0.5)
    assert "·" in capsys.readouterr().out and told["actions"] is None
    world = world_of(2, 3, None, None, 0.5)
    want = exact(world, torch.full((6, 5), 0.2, dtype=torch.float64))
    assert told["mean_reward"] == pytest.approx(want.mean_reward.item()) and told["target"] == [1, 2]


def test_a_best_policy_with_several_ends_is_shown_with_a_share_of_drawn_steps():
    """Where every step costs alike, it stays where it is."""
    world = world_of(2, 2, "0,0", None, 0.0)
    pi, found = solved(world, "best")
    assert torch.equal(found.v, value_iteration(world)[0]) and found.d.sum() == pytest.approx(1)
    assert (pi.sum(1) == 1).all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--goal", "9,9"], "cell (9, 9) is outside of 5 x 5"),
        (["--goal", "1,1 2,2"], "are 2 cells; allowed: one"),
        (["--goal", "here"], "are no cells; allowed: row,column"),
        (["--forbidden", "1"], "are no cells"),
        (["--gamma", "1"], "gamma = 1.0 is impossible; allowed: from 0 to below 1"),
        (["--rows", "100", "--columns", "100"], "100 x 100 are more cells than are solved at once"),
        (["--rows", "0"], "a grid of 0 x"),
        (["--out", "."], "is a folder"),
    ],
)
def test_one_line_for_every_mistake(argv, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["gridworld", *argv])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_cells():
    assert cells("3,2 4,1", "x") == [(3, 2), (4, 1)] and cells("", "x") == []
    with pytest.raises(UsageError):
        cells("1,2,3", "x")
