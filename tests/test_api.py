"""The Python interface: train on anything, get a run; load from anything, get a model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ptheta
from ptheta.data.binary import load

X = np.random.RandomState(1).randint(0, 2, (80, 6))
SMALL = {"threads": 1, "warmup": 0, "learning_rate": 0.05, "average": 0.5}
SIZES = {"fvsbn": {}, "nade": {"hidden": 4}, "made": {"hidden": (8, 6), "masks": 2}}
METHODS = pytest.mark.parametrize("name", SIZES)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, without network; the number of threads is given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTHETA_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PTHETA_DATA", raising=False)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def train(name="fvsbn", data=X, **options):
    return ptheta.train(name, data=data, **{"steps": 20, **SIZES[name], **SMALL, **options})


@METHODS
def test_training_on_an_array_gives_a_run_whose_figures_improve(name):
    run = train(name, np.repeat(X[:4], 20, 0), seed=5)
    assert isinstance(run, ptheta.Run) and run.about["method"] == name and run.about["seed"] == 5
    figures = [m for m in run.metrics() if m["split"] == "valid"]
    assert figures[0]["step"] == 0 and figures[-1]["step"] == 20
    assert figures[-1]["nats"] < figures[0]["nats"]
    assert {"nats", "nats_se", "bits_per_dim", "bits_per_dim_se"} <= figures[0].keys()
    assert {"loss"} <= [m for m in run.metrics() if m["split"] == "train"][0].keys()
    assert str(run.path).startswith("runs") and name in run.path.name and run.path.name.endswith("seed5")


@METHODS
def test_a_model_loads_from_a_run_its_path_and_its_folder(name):
    run = train(name)
    models = [ptheta.load(s) for s in (run, run.path, str(run.path), run.model, str(run.model))]
    x = load(X).split("valid")
    first = models[0].log_prob(x)
    assert all(type(m) is type(models[0]) and not m.training for m in models)
    assert all(torch.equal(m.log_prob(x), first) for m in models)
    best = min(m["nats"] for m in run.metrics() if m["split"] == "valid")
    assert -first.double().mean().item() == pytest.approx(best, abs=1e-5), "the model is not the best on validation"
    assert models[0].sample(3).shape == (3, 6) and models[0].embed(X).shape[0] == 80
    assert models[0].complete(X, np.arange(6) < 3, particles=2).x.shape == (80, 6)


def test_every_kind_of_data_is_taken():
    np.savetxt("mine.csv", X, fmt="%d", delimiter=",")
    np.save("mine.npy", X)
    np.savez("mine.npz", train=X[:50], valid=X[50:60], test=X[60:])
    specs = [X, X > 0, {"train": X[:50], "valid": X[50:60]}, load(X), "mine.csv", Path("mine.npy")]
    for i, spec in enumerate([*specs, "mine.npz"]):
        run = train(data=spec, steps=2, out=f"run{i}")
        data = load(spec)
        assert run.about["data"]["n"] == 6 and run.about["data"]["fingerprint"] == data.fingerprint()
        by_split = {m["split"] for m in run.metrics()}
        assert by_split == {"train", "valid"}
        figure = -ptheta.load(run).log_prob(data.split("valid")).double().mean().item()
        assert min(m["nats"] for m in run.metrics() if "nats" in m) == pytest.approx(figure, abs=1e-6)
    assert "mine.npz" in run.about["data"]["spec"] and "own splits" in run.about["data"]["origin"]
    assert len(load("mine.npz").split("test")) == 20


def test_a_tensor_is_taken_like_an_array():
    run = train(data=torch.from_numpy(X), steps=2)
    assert run.about["data"]["fingerprint"] == load(X).fingerprint()
    assert run.about["data"]["spec"] == "Tensor in memory"


def test_data_without_a_validation_split_are_judged_on_training_rows():
    run = train(data={"train": X[:30]}, steps=3)
    assert {m["split"] for m in run.metrics() if "nats" in m} == {"train"}
    assert len(ptheta.load(run).log_prob(X)) == 80


@METHODS
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    x = np.repeat(X[:8], 10, 0)
    weights = [ptheta.load(train(name, x, seed=seed, batch_size=8)).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert any(not torch.equal(v, weights[2][k]) for k, v in weights[0].items())


def test_training_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train()
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def test_a_run_says_all_that_is_needed_to_repeat_it():
    run = train("made", hidden=(7,), seed=9, steps=3)
    about = json.loads((run.path / "config.json").read_text())
    assert about["method"] == "made" and about["seed"] == 9 and about["options"]["steps"] == 3
    assert about["config"]["hidden"] == [7] and about["config"]["masks"] == 2 and about["config"]["batch_size"] == 100
    assert about["versions"].keys() >= {"ptheta", "torch", "python"}
    assert about["versions"]["ptheta"] == ptheta.__version__ and about["versions"]["torch"] == torch.__version__
    assert "git" in about and about["command"].startswith("ptheta.train('made'")
    assert about["data"]["n"] == 6 and "given in Python" in about["data"]["origin"]
    assert train(command="as typed", steps=1).about["command"] == "as typed"


@METHODS
def test_the_model_card_names_the_data_and_every_hyperparameter(name):
    run = train(name, seed=2)
    card = (run.model / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ptheta\n") and f"# {name} on array" in card
    assert "given in Python, 80 rows" in card and "seed 2" in card and "6 variables" in card
    for field, value in run.about["config"].items():
        shown = tuple(value) if isinstance(value, list) else value
        assert f"| {field} | {shown} |" in card
    assert 'ptheta.load("' in card
    assert {p.name for p in run.model.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_moments_are_drawn_of_any_data_and_pictures_of_pictures():
    assert {p.name for p in (train().path / "pictures").iterdir()} == {"curves.png", "moments.png"}
    run = train(data="digits", steps=2, out="digits")
    drawn = {p.name for p in (run.path / "pictures").iterdir()}
    assert drawn == {"curves.png", "moments.png", "samples.png", "completions.png"}


def test_a_run_goes_on_where_it_stopped_and_equals_one_that_never_did():
    whole = train("made", steps=20, out="whole", eval_every=5)
    train("made", steps=20, out="parts", eval_every=5, max_time=1e-9)
    stopped = [m["step"] for m in ptheta.Run.open("parts").metrics()]
    assert max(stopped) < 20
    parts = train("made", steps=20, out="parts", eval_every=5, resume=True, max_time=60.0)
    assert parts.metrics() == whole.metrics()
    for name, value in ptheta.load(whole).state_dict().items():
        assert torch.equal(ptheta.load(parts).state_dict()[name], value)
    with pytest.raises(ptheta.InputError, match="was trained on other data"):
        train("made", 1 - X, steps=20, out="parts", resume=True)
    with pytest.raises(ptheta.UsageError, match="has masks = 2, not 3"):
        train("made", steps=20, out="parts", resume=True, masks=3)


def test_a_run_starts_from_the_weights_of_another():
    old = train(out="old", steps=30)
    new = train(out="new", steps=1, init="old", seed=8, learning_rate=1e-9)
    for name, value in ptheta.load(old).state_dict().items():
        torch.testing.assert_close(ptheta.load(new).state_dict()[name], value, rtol=0, atol=1e-6)


WRONG = [
    (
        "UsageError",
        "method 'mead' is unknown; allowed: .*, byol, .*, made, mae, .*, vicreg, .* Did you mean 'made'",
        {"name": "mead"},
    ),
    ("UsageError", "field 'hiden' is unknown; allowed: .*Did you mean 'hidden'", {"name": "made", "hiden": 3}),
    ("UsageError", "field 'hidden' is unknown; allowed", {"name": "fvsbn", "hidden": 3}),
    ("UsageError", "hidden = 0 is impossible; allowed: at least 1", {"name": "nade", "hidden": 0}),
    ("UsageError", "hidden = 3 is no list; allowed: a list of int", {"name": "made", "hidden": 3}),
    ("UsageError", "steps = -1 is impossible; allowed: at least 1", {"steps": -1}),
    ("UsageError", "ordering 'reverse' is unknown; allowed: natural, random", {"ordering": "reverse"}),
    ("UsageError", "data set 'digit' is unknown; .*Did you mean 'digits'", {"data": "digit"}),
    ("UsageError", "data is a list; allowed", {"data": [[0, 1]]}),
    ("UsageError", "data is a int; allowed", {"data": 3}),
    ("InputError", "the array holds 2 in row 0, column 0", {"data": 2 - X * 0}),
    ("InputError", "the array has shape", {"data": X[0]}),
    ("InputError", "gone.csv does not exist", {"data": "gone.csv"}),
    ("InputError", "gone is neither a folder nor a Hub id", {"init": "gone"}),
]


@pytest.mark.parametrize(("kind", "says", "wrong"), WRONG)
def test_what_is_wrong_is_told_before_anything_is_written(kind, says, wrong):
    with pytest.raises(getattr(ptheta, kind), match=says) as error:
        ptheta.train(**{"name": "fvsbn", "data": X, "steps": 1, **wrong})
    assert type(error.value).__name__ == kind and "\n" not in str(error.value)
    assert not Path("runs").exists()


def test_what_is_no_model_is_refused():
    Path("empty").mkdir()
    for source, says in (
        ("gone", "neither a folder nor a Hub id"),
        ("empty", "has no config.json"),
        (Path("no/x/y"), "neither a folder nor a Hub id"),
    ):
        with pytest.raises(ptheta.InputError, match=says):
            ptheta.load(source)


def test_the_catalogue_is_a_copy():
    first = ptheta.list()
    assert first.keys() >= SIZES.keys() and all(first.values())
    first.clear()
    assert ptheta.list().keys() >= SIZES.keys()


def test_every_public_name_is_there_and_an_unknown_one_is_told():
    assert set(dir(ptheta)) == set(ptheta.__all__)
    assert all(getattr(ptheta, name) is not None for name in ptheta.__all__)
    with pytest.raises(AttributeError, match="ptheta has no 'trian'; it has train, load"):
        ptheta.trian  # noqa: B018


def test_training_works_in_a_program_of_three_lines():
    code = "import ptheta, numpy as np\nrun = ptheta.train('fvsbn', data=np.eye(4), steps=2, threads=1)\n"
    code += "print(ptheta.load(run).log_prob(np.eye(4)).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "torch.Size([4])\n" and "Traceback" not in done.stderr, done.stderr
