"""The report: what works, lacks or is broken is told apart, and nobody's folders are given away."""

import json
import os
import sys

import pytest

from ptheta.doctor import doctor, examine, tidy

module = sys.modules["ptheta.doctor"]
CORE = [part for part in module.PARTS if not part[1]]


def test_what_is_installed_works(monkeypatch, tmp_path):
    """Every check really runs here, so this fails where a check or its package is wrong."""
    monkeypatch.chdir(tmp_path)
    for part in module.PARTS:
        status = examine(*part)["status"]
        assert status == "ok" or (part[1] and status == f"missing: pip install 'ptheta[{part[1]}]'"), part[0]
    assert not os.listdir()  # and no check leaves a file behind


def test_text_and_json_agree(capsys, monkeypatch):
    monkeypatch.setattr(module, "PARTS", CORE[:2])
    assert doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert doctor(json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert [part["part"] for part in report["parts"]] == ["torch", "models"]
    names = [line.split()[0] for line in lines[:-1]]
    assert sorted(names) == sorted([*(key for key in report if key not in ("parts", "ok")), "torch", "models"])
    assert report["python"].split()[1] == sys.version.split()[0]
    assert all(f"{part['versions'][part['part']]}" in lines[names.index(part["part"])] for part in report["parts"][:1])


def test_broken_import_is_told_and_fails(capsys, monkeypatch):
    monkeypatch.setattr(module, "PARTS", [part for part in CORE if part[0] in ("models", "tyro")])
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # installed, and its import fails
    assert doctor() == 1
    out = capsys.readouterr().out
    assert "broken: ModuleNotFoundError: import of safetensors.torch halted" in out
    assert "not in order: models\n" in out
    assert out.index("tyro ") > out.index("models ")  # the parts after it were tried all the same


def test_package_that_computes_wrongly_is_broken(monkeypatch):
    import safetensors.torch
    import torch

    monkeypatch.setattr(safetensors.torch, "load_file", lambda path: {"kept": torch.zeros(5)})
    models = next(part for part in CORE if part[0] == "models")
    assert examine(*models)["status"] == "broken: RuntimeError: a tensor came back changed"


def test_exit_and_output_of_a_package_are_contained(capsys):
    def loud():
        print("banner")
        raise SystemExit(3)

    assert examine("loud", "", ("torch",), loud)["status"] == "broken: SystemExit: 3"
    assert capsys.readouterr().out == ""


def absent():
    import ptheta_of_another_world  # noqa: F401


@pytest.mark.parametrize(
    ("extra", "code", "hint"),
    [("control", 0, "missing: pip install 'ptheta[control]'"), ("", 1, "missing: pip install 'ptheta'")],
)
def test_only_the_core_must_be_there(capsys, monkeypatch, extra, code, hint):
    monkeypatch.setattr(module, "PARTS", [("part", extra, ("ptheta-of-another-world",), absent)])
    assert doctor(json=True) == code
    assert json.loads(capsys.readouterr().out)["parts"][0]["status"] == hint


def test_a_broken_extra_fails(monkeypatch, capsys):
    monkeypatch.setattr(module, "PARTS", [("control", "control", ("torch",), absent)])
    assert doctor() == 1
    assert "broken: ModuleNotFoundError" in capsys.readouterr().out


def test_home_is_written_as_a_tilde(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PARTS", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PTHETA_DATA", str(tmp_path))
    assert tidy(f"{tmp_path}/a {tmp_path}.old {tmp_path}") == f"~/a {tmp_path}.old ~"
    assert doctor() == 0
    out = capsys.readouterr().out
    assert str(tmp_path) not in out
    assert "~/cache, not there yet: writable" in out
    assert not (tmp_path / "cache").exists() and not os.listdir(tmp_path)
