"""Model folders: what was saved is what is loaded, what is broken is named, and nothing loaded can run."""

import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import ptheta
from ptheta.density.fvsbn import FVSBN
from ptheta.density.made import MADE
from ptheta.engine.errors import InputError
from ptheta.engine.pretrained import FORMAT


@pytest.fixture
def model():
    model = FVSBN(n=6, ordering="random", seed=3, shape=(2, 3))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return model.eval()


@pytest.fixture
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "model", about={"data": "digits"}, card="# Mine\n")


def every_vector(n: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * n)


def change(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_the_same_model_comes_back(model, folder):
    x = every_vector(6)
    for again in (
        FVSBN.from_pretrained(folder),
        FVSBN.from_pretrained(str(folder)),
        ptheta.load(folder),
        ptheta.load(str(folder)),
    ):
        assert type(again) is FVSBN and not again.training and again.shape == (2, 3)
        assert torch.equal(again.log_prob(x), model.log_prob(x))
        assert again.arguments == json.loads(json.dumps(model.arguments))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_of_the_weights_comes_back(model, tmp_path, dtype):
    folder = model.to(dtype).save_pretrained(tmp_path / "model")
    again = ptheta.load(folder)
    assert all(p.dtype == dtype for p in again.parameters()) and again.o.dtype == torch.int64
    assert torch.equal(again.log_prob(every_vector(6)), model.log_prob(every_vector(6)))


def test_a_folder_holds_safetensors_json_and_a_card_that_all_may_read(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "# Mine\n"
    config = json.loads((folder / "config.json").read_text())
    assert config.items() >= {"format": FORMAT, "library": "ptheta", "method": "fvsbn", "data": "digits"}.items()
    assert len({p.stat().st_mode & 0o777 for p in folder.iterdir()}) == 1


def test_saving_again_replaces_the_model_whole(model, folder):
    with torch.no_grad():
        model.b.add_(1)
    model.save_pretrained(folder)
    assert torch.equal(ptheta.load(folder).b, model.b)
    assert len(list(folder.iterdir())) == 3


# ---------------------------------------------------------------- broken folders


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}; copy the whole folder"):
        ptheta.load(folder)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_refused(folder, share):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read .*; copy it again") as error:
        ptheta.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": FORMAT + 1}, "model format 2; this ptheta reads up to 1: update ptheta"),
        ({"format": "2"}, "model format '2'; this ptheta reads up to 1: update ptheta"),
        ({"library": "transformers"}, "is not of a ptheta model"),
        ({"method": "oracle"}, "is of method 'oracle'; this ptheta knows fvsbn, nade"),
        ({"method": ["fvsbn"]}, "is not of a ptheta model"),
        ({"model": {"n": 6, "depth": 3}}, 'impossible "model" entry: .*depth'),
        ({"model": {}}, 'impossible "model" entry: .*n'),
        ({"model": None}, 'impossible "model" entry'),
        ({"model": {"n": -6}}, 'impossible "model" entry'),
        ({"model": {"n": 7}}, r"W has shape \(6, 6\), wanted \(7, 7\); b has shape \(6,\), wanted \(7,\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_the_reason(folder, values, message):
    change(folder, **values)
    with pytest.raises(InputError, match=message):
        ptheta.load(folder)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "\x00\xff"])
def test_a_config_that_is_no_json_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json (cannot be read|is not of a ptheta model)"):
        ptheta.load(folder)


def test_missing_unknown_and_misshapen_keys_are_all_named(folder):
    weights = load_file(folder / "model.safetensors")
    changed = {"W": weights["W"][:3].clone(), "o": weights["o"], "bias": weights["b"]}
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(InputError) as error:
        ptheta.load(folder)
    assert str(error.value).endswith(
        "does not fit its config.json: W has shape (3, 6), wanted (6, 6); b is missing; bias is unknown."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    weights["b"][2] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="values that are not finite in b"):
        ptheta.load(folder)


def test_a_folder_of_another_method_says_how_to_load_it(folder):
    with pytest.raises(InputError, match=r"holds a fvsbn model, not made; use ptheta\.load\("):
        MADE.from_pretrained(folder)


# ---------------------------------------------------------------- nothing loaded can run


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickled_model_is_refused_by_name_and_never_run(folder, tmp_path, name, save):
    (folder / "model.safetensors").unlink()
    save({"b": Evil(tmp_path / "ran")}, folder / name)
    with pytest.raises(InputError, match=f"holds {name}, a pickled file, which could run code .*model.safetensors"):
        ptheta.load(folder)
    with pytest.raises(InputError, match=name):
        ptheta.train("fvsbn", init=str(folder), out=str(tmp_path / "run"), data=every_vector(6).numpy())
    assert not (tmp_path / "ran").exists()


def test_a_pickle_by_the_name_of_safetensors_is_refused_and_never_run(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputError, match="cannot be read"):
        ptheta.load(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the pickle would not have done anything anyway"


# ---------------------------------------------------------------- runs


def test_a_run_gives_its_best_model(tmp_path):
    x = every_vector(6).numpy()
    run = ptheta.train("fvsbn", data=x, out=str(tmp_path / "run"), steps=10, threads=1)
    for source in (run, run.path, str(run.path), run.model):
        assert torch.equal(ptheta.load(source).b, FVSBN.from_pretrained(run.model).b)


def test_a_run_without_a_model_yet_is_told(tmp_path):
    run = ptheta.train("fvsbn", data=every_vector(6).numpy(), out=str(tmp_path / "run"), steps=1, threads=1)
    shutil.rmtree(run.model)
    with pytest.raises(InputError, match="has no model yet; let it train up to its first evaluation"):
        ptheta.load(run)


def test_init_starts_from_a_models_weights(folder, model, tmp_path):
    x = every_vector(6)
    run = ptheta.train(
        "fvsbn",
        data=x.numpy(),
        out=str(tmp_path / "run"),
        init=str(folder),
        ordering="random",
        seed=3,
        steps=1,
        threads=1,
    )
    valid = run.metrics()[0]
    from ptheta.data.binary import load

    nats = -model.log_prob(load(x.numpy()).split("valid")).double().mean()
    assert valid["step"] == 0 and valid["nats"] == pytest.approx(float(nats), rel=1e-6)


def test_init_of_another_size_is_refused_and_makes_no_run(folder, tmp_path):
    with pytest.raises(InputError, match=r"--init holds a fvsbn of .*'n': 6.*; this run wants .*'n': 5"):
        ptheta.train("fvsbn", data=every_vector(5).numpy(), out=str(tmp_path / "run"), init=str(folder))
    assert not (tmp_path / "run").exists()


def test_init_of_another_method_is_refused_and_makes_no_run(folder, tmp_path):
    with pytest.raises(InputError, match="--init holds a fvsbn"):
        ptheta.train("made", data=every_vector(6).numpy(), out=str(tmp_path / "run"), init=str(folder), hidden=(4,))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the Hub


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/not/here", "a/b/c", "~/x", ""])
def test_what_is_neither_a_folder_nor_an_id_is_told_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is neither a folder nor a Hub id \(owner/name\)|has no config.json"):
        ptheta.load(name)


def test_offline_a_hub_id_is_one_line_and_asks_nobody(monkeypatch):
    import socket

    from huggingface_hub import constants  # before the variable is set, as in a long session

    assert not constants.HF_HUB_OFFLINE
    asked = []

    def connect(*to, **_):
        asked.append(to)
        raise OSError("no network here")

    monkeypatch.setenv("PTHETA_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    with pytest.raises(
        InputError, match="nobody/nothing is no folder here and could not be had from the Hugging Face Hub: "
    ) as error:
        ptheta.load("nobody/nothing")
    assert "\n" not in str(error.value) and not asked


def test_the_hubs_own_offline_switch_is_honoured_by_the_command_line(start):
    process = start("sample", "nobody/nothing")  # with HF_HUB_OFFLINE=1
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and out == ""
    assert err.startswith("ptheta: nobody/nothing is no folder here") and err.count("\n") == 1


def test_pushing_uploads_the_folder_and_nothing_else(model, monkeypatch):
    import huggingface_hub

    seen = {}

    class Hub:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, repo_id, folder_path):
            seen["files"] = sorted(os.listdir(folder_path))
            seen["b"] = ptheta.load(folder_path).b
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert model.push_to_hub("me/mine", private=True, token="t") == "https://hub/me/mine"
    assert seen["token"] == "t" and seen["repo"] == ("me/mine", True, True)
    assert seen["files"] == ["README.md", "config.json", "model.safetensors"] and torch.equal(seen["b"], model.b)


def test_loading_imports_no_unpickler_of_torch(folder, monkeypatch):
    """torch.load is never reached, whatever the folder holds besides."""
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder / "ran")))

    def never(*_, **__):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(sys.modules["pickle"], "load", never)
    ptheta.load(folder)
    assert not (folder / "ran").exists()
