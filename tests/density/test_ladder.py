"""The ladder: tables by hand counts, the networks by their conditionals, and what the command prints."""

import json
import math

import numpy as np
import pytest
import torch
from zoo import everything, scatter, some

from ptheta.data.binary import load
from ptheta.density import ladder as module
from ptheta.density.ladder import MLPs, Tables, climb, command, ladder
from ptheta.engine.errors import UsageError


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_tables_are_a_distribution(n):
    tables = Tables(some(30, n))
    log_p = tables.log_prob(everything(n))
    assert log_p.shape == (2**n,) and abs(log_p.exp().sum().item() - 1) < 1e-9
    assert tables.parameters == 2**n - 1


def test_tables_count_by_hand():
    tables = Tables(torch.tensor([[0, 0], [0, 1], [0, 1], [1, 1]]))
    by_hand = {(0, 0): 4 / 6 * 2 / 5, (0, 1): 4 / 6 * 3 / 5, (1, 0): 2 / 6 * 1 / 3, (1, 1): 2 / 6 * 2 / 3}
    for x, p in by_hand.items():
        assert tables.log_prob(torch.tensor([x])).item() == pytest.approx(math.log(p))


def test_a_past_that_was_never_seen_gets_one_half():
    tables = Tables(torch.zeros(10, 3))
    assert tables.log_prob(torch.tensor([[1, 0, 1]])).item() == pytest.approx(math.log(1 / 12 * 1 / 2 * 1 / 2))


def test_tables_equal_the_frequencies_of_plenty_of_data():
    x = everything(3).repeat_interleave(torch.arange(1, 9) * 10_000, 0)
    p = Tables(x).log_prob(everything(3)).exp()
    torch.testing.assert_close(p, torch.arange(1, 9).double() / 36, rtol=1e-3, atol=0)


# ---------------------------------------------------------------- one network for every conditional


def networks(n: int, h: int = 5) -> MLPs:
    return scatter(MLPs(n, h, 0), 2).double()


@pytest.fixture
def logits(monkeypatch):
    """The networks' logits in place of their −log p."""
    monkeypatch.setattr(module, "log_bernoulli", lambda logits, x: -logits)
    return lambda model, x: model(x)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_networks_are_a_distribution(n):
    assert abs((-networks(n)(everything(n))).exp().sum().item() - 1) < 1e-9


@pytest.mark.parametrize("n", [1, 6])
def test_each_network_sees_just_the_variables_before_its_own(n, logits):
    model, J = networks(n), torch.zeros(n, n, dtype=torch.float64)
    for x in some(5, n):
        J += torch.autograd.functional.jacobian(lambda v: logits(model, v[None])[0], x).abs()
    assert (J.triu() == 0).all() and (J[torch.ones(n, n).tril(-1).bool()] > 1e-4).all()


def test_networks_equal_their_equation(logits):
    model, x = networks(5), everything(5)
    for d in range(5):
        h = torch.sigmoid(model.c[d] + x[:, :d] @ model.W[d, :d])
        torch.testing.assert_close(logits(model, x)[:, d], model.b[d] + h @ model.V[d])


@pytest.mark.parametrize(("n", "h"), [(1, 4), (2, 3), (6, 5)])
def test_the_count_of_the_networks_is_of_the_parameters_that_matter(n, h):
    model = networks(n, h)
    weight = torch.rand(2**n, generator=torch.Generator().manual_seed(0)).double()
    (model(everything(n)) * weight).sum().backward()
    matter = sum(int((p.grad != 0).sum()) for p in model.parameters())
    assert model.count() == matter


# ---------------------------------------------------------------- climbing


@pytest.fixture
def tiny(tmp_path):
    """A file of 200 rows of five variables: the first three random, then their parity, then noise."""
    x = some(200, 5)
    x[:, 3] = x[:, :3].sum(1) % 2
    np.save(tmp_path / "tiny.npy", x.numpy())
    return tmp_path / "tiny.npy"


def test_four_rungs_in_order_and_the_higher_ones_learn_what_the_lower_cannot(tiny):
    rungs = climb(load(tiny), hidden=16, steps=400, rate=0.1, seed=0, split="train")
    assert [r.name for r in rungs] == ["tables", "fvsbn", "mlps", "nade"]
    assert [r.parameters for r in rungs] == [31, 15, 16 * 10 + 2 * 5 * 16 + 5, 2 * 16 * 5 + 16 + 5]
    assert all(math.isfinite(v) for r in rungs for v in (r.nats, r.nats_se, r.seconds)) and rungs[0].seconds > 0
    nats = {r.name: r.nats for r in rungs}
    assert nats["fvsbn"] > 3.3, "a parity is beyond logistic regressions"
    assert max(nats["mlps"], nats["nade"], nats["tables"]) < nats["fvsbn"] - 0.3


def test_the_figures_are_of_the_split_that_was_asked_for_and_the_best_on_validation(tiny, monkeypatch):
    data = load(tiny)
    seen = []
    monkeypatch.setattr(module, "_maximise", lambda model, train, valid, *rest: seen.append((len(train), len(valid))))
    rungs = climb(data, 4, 10, 0.1, 0, "test")
    assert seen == [(160, 20)] * 3
    by_hand = -Tables(data.split("train")).log_prob(data.split("test"))
    assert rungs[0].nats == pytest.approx(by_hand.mean().item())
    assert rungs[0].nats_se == pytest.approx(by_hand.std().item() / math.sqrt(20))


def test_the_parameters_that_were_best_on_validation_are_kept(monkeypatch):
    """Training and validation rows that contradict each other: the first evaluation is the best."""
    ones, zeros = torch.ones(200, 3, dtype=torch.uint8), torch.zeros(50, 3, dtype=torch.uint8)
    model = module.FVSBN(3)
    module._maximise(model, ones, zeros, 20, 0.1, 0)
    first = 0.1 * 0.5 * (1 + math.cos(math.pi / 20))  # how far Adam moves every bias in its first step
    assert model(zeros.float()).mean().item() == pytest.approx(3 * math.log1p(math.exp(first)), rel=1e-5)
    module._maximise(model, ones, ones, 20, 0.1, 0)
    assert model(ones.float()).mean().item() < 1, "where they agree, the last is the best"


def test_one_row_to_measure_on_has_no_standard_error(tmp_path, recwarn):
    parts = {"train": some(40, 3), "test": some(1, 3)}
    rungs = climb(load(parts), 2, 5, 0.1, 0, "test")
    assert all(math.isfinite(r.nats) and math.isnan(r.nats_se) for r in rungs) and not recwarn.list


def test_the_command_prints_a_table_or_one_object(tiny, capsys):
    assert command(["--data", str(tiny), "--steps", "5", "--hidden", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(tiny) in lines[0] and "5 variables" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["tables", "fvsbn", "mlps", "nade"]
    assert command(["--data", str(tiny), "--steps", "5", "--hidden", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test" and [r["name"] for r in printed["rungs"]] == ["tables", "fvsbn", "mlps", "nade"]
    nats = [r["nats"] for r in printed["rungs"]]
    assert [float(line.split()[2]) for line in lines[2:]] == pytest.approx(nats, abs=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"hidden": 0}, "hidden = 0 is impossible"), ({"steps": -1}, "steps = -1 is impossible"),
     ({"learning_rate": 0.0}, "learning-rate = 0.0 is impossible"),
     ({"learning_rate": math.nan}, "learning-rate = nan is impossible"),
     ({"learning_rate": math.inf}, "learning-rate = inf is impossible"),
     ({"hidden": 10**8}, "one MLP a conditional would take 2,500,000,000 weights; allowed: 268,435,456"),
     ({"split": "tset"}, "'tset' is unknown; allowed: .*Did you mean 'test'"),
     ({"data": "debd:nltc"}, "'nltc' is unknown; .*Did you mean 'nltcs'")],
)  # fmt: skip
def test_impossible_values_are_refused(tiny, wrong, message):
    with pytest.raises(UsageError, match=message):
        ladder(**{"data": str(tiny), "steps": 2, "hidden": 2, **wrong})


def test_tied_weights_beat_logistic_regressions_on_real_data(real):
    real("debd/nltcs/nltcs.train.data.gz")
    rungs = {r.name: r for r in climb(load("debd:nltcs"), hidden=32, steps=600, rate=0.02, seed=0, split="test")}
    assert rungs["nade"].nats < rungs["fvsbn"].nats - 0.01
    assert all(5.9 < r.nats < 6.6 for r in rungs.values())
