"""What every method of the catalogue keeps, whatever it learns. A method joins by being in the catalogue."""

import copy
import dataclasses
import io
import json
import os
import random
import signal
import typing

import numpy as np
import pytest
import torch
from catalogue import (
    BINARY,
    CONTROL,
    DENSITIES,
    LEARNED,
    REAL,
    STEPS,
    STOP,
    every_binary_density,
    every_density,
    every_method,
    module,
    settings,
    train,
    units,
)
from PIL import Image

import ptheta
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import Interrupted
from ptheta.engine.hardware import detect
from ptheta.engine.method import Between
from ptheta.engine.run import Run


def results(run: Run) -> dict[str, bytes]:
    """What must be equal bit for bit: metrics, the best model, the tensors of the last checkpoint."""
    _, last = max(checkpoint.steps(run.checkpoints))
    files = [run.path / "metrics.jsonl", *sorted(run.model.iterdir()), last / "tensors.safetensors"]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files}


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Runs choose the number of threads; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that gives the short run of a method, made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name: str) -> Run:
        if name not in made:
            made[name] = train(name, folder / name)
        return made[name]

    return run


@pytest.fixture
def learner(request):
    """A function that gives a method after three updates, and its data."""

    def make(name: str, updates: int = 3):
        chosen = settings(name)
        data = module(name).Method.open_data(chosen.pop("data"), chosen.pop("size", 28), 0.5)
        config, steps = module(name).Config(**chosen), units(name, STEPS)
        method = module(name).Method(config, data, 0, detect("cpu", "fp32", 1), steps)
        for _, batch in zip(range(updates), method.batches(0, 0, 1)):
            method.update(batch)
        return method, data

    return make


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", LEARNED)
def test_the_declared_figure_improves(name, runs):
    method = module(name).Method
    assert (
        method.better in ("lower", "higher") and method.unit in ("updates", "env_steps", "tokens") and method.steps > 0
    )
    measured = [m for m in runs(name).metrics() if method.figure in m]
    first, last = measured[0], measured[-1]
    gain = (first[method.figure] - last[method.figure]) * (1 if method.better == "lower" else -1)
    assert (first["step"], last["step"]) == (0, STEPS)
    assert gain > 2 * first.get(f"{method.figure}_se", 0.0)


@every_method
def test_another_seed_gives_another_result(name, runs, tmp_path):
    """That one seed gives one result, a run that was stopped shows: it equals one that another call made."""
    run, other = runs(name), train(name, tmp_path / "other", seed=1, steps=10)
    assert other.metrics()[1] != run.metrics()[1]
    assert (other.model / "model.safetensors").read_bytes() != (run.model / "model.safetensors").read_bytes()


@every_method
def test_a_stopped_run_goes_on_bit_for_bit(name, runs, tmp_path, monkeypatch):
    method, count = module(name).Method, [0]
    update = method.update

    def interrupted(self, batch):
        count[0] += 1
        if count[0] == STOP:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(method, "update", interrupted)
        with pytest.raises(Interrupted) as stopped:
            train(name, tmp_path / "run")
    assert stopped.value.step == units(name, STOP)
    assert results(train(name, tmp_path / "run", resume=True)) == results(runs(name))


@every_method
def test_measuring_and_drawing_change_nothing(name, learner):
    """No parameter, buffer, mode or global generator; and the next updates are what they would have been."""
    watched, data = learner(name)
    left_alone, _ = learner(name)

    def snapshot():
        nets = {k: v for k, v in vars(watched).items() if isinstance(v, torch.nn.Module)}
        tensors = {f"{k}.{n}": t.clone() for k, net in nets.items() for n, t in net.state_dict().items()}
        modes = {f"{k}.{n}": m.training for k, net in nets.items() for n, m in net.named_modules()}
        return tensors, modes, torch.get_rng_state(), np.random.get_state(), random.getstate()

    before = snapshot()
    assert before[0] and before[1]
    for split in data.splits:
        watched.evaluate(data, split, 2 if name in CONTROL else 20)
    watched.pictures()
    after = snapshot()
    assert before[0].keys() == after[0].keys() and all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2]) and str(before[3]) == str(after[3]) and before[4] == after[4]

    losses = []
    for method in (watched, left_alone):
        losses.append([method.update(b)["loss"].item() for _, b in zip(range(3), method.batches(3, 0, 1))])
    assert losses[0] == losses[1]


@every_method
def test_an_update_logs_detached_numbers_without_dimensions(name, learner):
    method, _ = learner(name, updates=0)
    logs = method.update(next(method.batches(0, 0, 1)))
    assert "loss" in logs
    assert all(isinstance(v, torch.Tensor) and v.dim() == 0 and not v.requires_grad for v in logs.values())


@every_method
def test_the_state_survives_a_checkpoint(name, learner, tmp_path):
    method, _ = learner(name)
    state = method.state_dict()
    path = checkpoint.save(tmp_path, 3, {"method": state})

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b

    loaded = checkpoint.load(path)["method"]
    assert same(state, loaded) and same(loaded, state)
    fresh, _ = learner(name, updates=0)
    assert not same(fresh.state_dict(), state)
    fresh.load_state_dict(loaded)
    assert same(fresh.state_dict(), state)


# ---------------------------------------------------------------- configurations


@every_method
def test_a_config_survives_json(name):
    chosen = {k: v for k, v in settings(name).items() if k not in ("data", "size")}
    for config in (module(name).Config(), module(name).Config(**chosen)):
        assert module(name).Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@every_method
def test_an_unknown_field_is_refused_with_the_nearest_one(name, tmp_path):
    for field in (f.name for f in dataclasses.fields(module(name).Config)):
        wrong = field + "q"
        with pytest.raises(UsageError, match=f"field '{wrong}' is unknown; .* Did you mean '{field}'"):
            module(name).Config.from_dict({wrong: 1})
    with pytest.raises(UsageError, match="is unknown; .* Did you mean 'precision'"):
        ptheta.train(name, precisio=0.1, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@every_method
def test_every_impossible_value_is_refused_by_its_field(name):
    Config = module(name).Config
    hints = typing.get_type_hints(Config, include_extras=True)
    tried = 0
    for field in dataclasses.fields(Config):
        for bound in getattr(hints[field.name], "__metadata__", ()):
            if not isinstance(bound, Between):
                continue
            several = isinstance(field.default, tuple)
            kind = float if "float" in str(hints[field.name]) else int
            for value in (bound.low - 1, bound.high + 1, *([bound.low] * bound.open)):
                if value != float("inf"):
                    tried += 1
                    value = (kind(value),) if several else kind(value)
                    with pytest.raises(UsageError, match=rf"{field.name} = .* is impossible; allowed: .*option --"):
                        Config(**{field.name: value})
        if not isinstance(field.default, str):
            with pytest.raises(UsageError, match=field.name):
                Config(**{field.name: "three"})
    assert tried >= 3


# ---------------------------------------------------------------- models


@every_method
def test_the_trained_model_is_loaded_by_run_and_by_folder(name, runs):
    run = runs(name)
    models = [
        ptheta.load(run),
        ptheta.load(str(run.path)),
        ptheta.load(run.model),
        module(name).Model.from_pretrained(run.model),
    ]
    for model in models:
        assert isinstance(model, module(name).Model) and not model.training and model.name == name
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), models[0].state_dict().values()))
    card = (run.model / "README.md").read_text()
    assert "library_name: ptheta" in card and settings(name)["data"] in card and name in card


@every_density
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_gives_the_same_figures_after_saving(name, runs, tmp_path, dtype):
    model = ptheta.load(runs(name)).to(dtype)
    x = module(name).Method.open_data("digits", 28, 0.5).split("test")[:50]
    log_p = model.log_prob(x)
    assert log_p.shape == (50,) and log_p.dtype == dtype and torch.isfinite(log_p).all()
    assert name in REAL or (log_p < 0).all()
    again = ptheta.load(model.save_pretrained(tmp_path / "model"))
    assert torch.equal(again.log_prob(x), log_p)
    assert torch.equal(again.sample(5, seed=2), model.sample(5, seed=2)) and model.sample(5, seed=2).dtype == dtype


@every_density
def test_more_precision_changes_only_the_last_digits(name, runs):
    x = module(name).Method.open_data("digits", 28, 0.5).split("test")[:50]
    single, double = ptheta.load(runs(name)).log_prob(x), copy.deepcopy(ptheta.load(runs(name))).double().log_prob(x)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=0)
    assert not torch.equal(single.double(), double)


@every_method
def test_pictures_are_drawn(name, learner, runs):
    method, _ = learner(name)
    figures = method.pictures()
    drawn = {p.stem for p in (runs(name).path / "pictures").iterdir()}
    assert figures and set(figures) | {"curves"} == drawn and "curves" not in figures
    for title, figure in figures.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=50)
        picture = Image.open(file).convert("RGB")
        assert min(picture.size) > 50 and len(picture.getcolors(1 << 24) or []) > 2, title


# ---------------------------------------------------------------- bad data


NO_TABLE = {
    "NaN": (np.where(np.eye(20, 4) > 0, np.nan, 0), "nan|NaN"),
    "no rows": (np.zeros((0, 4)), "0|empty|no "),
    "one dimension": (np.zeros(20), r"\(20,\)"),
}
NOT_BINARY = {
    "grey": (np.random.RandomState(0).rand(20, 4), "0.5488"),
    "counts": (np.random.RandomState(0).randint(0, 9, (20, 4)), "5"),
}
REFUSED = [
    *((name, *case) for name in DENSITIES for case in NO_TABLE.items()),
    *((name, *case) for name in BINARY for case in NOT_BINARY.items()),
]


@pytest.mark.parametrize(("name", "kind", "case"), REFUSED)
def test_data_that_are_not_such_vectors_are_refused_before_anything_is_written(name, kind, case, tmp_path):
    values, got = case
    with pytest.raises(InputError, match=got) as error:
        ptheta.train(name, data=values, out=str(tmp_path / "run"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", NOT_BINARY)
def test_numbers_are_what_a_density_of_real_vectors_learns_from(name, kind, tmp_path):
    run = ptheta.train(name, data=NOT_BINARY[kind][0], steps=1, threads=1, out=str(tmp_path / "run"))
    assert torch.isfinite(ptheta.load(run).log_prob(NOT_BINARY[kind][0])).all()


def refuses(name: str, runs, x: torch.Tensor, message: str) -> None:
    model = ptheta.load(runs(name))
    for use in (model.log_prob, model.embed, lambda x: model.complete(x, torch.ones(64, dtype=torch.bool))):
        if x.shape[-1] != 64 and use not in (model.log_prob, model.embed):
            message = "observed"
        with pytest.raises(InputError, match=message) as error:
            use(x)
        assert "\n" not in str(error.value)


@every_density
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 63), r"x has shape \(2, 63\); allowed: \(b, 64\)"),
        (torch.zeros(64), r"x has shape \(64,\); allowed: \(b, 64\)"),
        (torch.full((2, 64), torch.nan), "x holds nan; allowed: "),
        (torch.full((2, 64), torch.inf), "x holds inf; allowed: "),
    ],
)
def test_a_model_refuses_what_it_was_not_made_for(name, runs, x, message):
    refuses(name, runs, x, message)


@every_binary_density
def test_a_model_of_binary_vectors_refuses_others(name, runs):
    refuses(name, runs, torch.full((2, 64), 0.5), "x holds 0.5; allowed: 0 and 1")
