"""Fixtures that several folders of tests share; a folder's conftest.py says which are for each of its tests."""

import os
from pathlib import Path

import pytest
import torch

REAL = os.environ.get("PTHETA_DATA", "")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No network, no data but this test's."""
    monkeypatch.setenv("PTHETA_OFFLINE", "1")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PTHETA_DATA", raising=False)


@pytest.fixture
def one_thread():
    """Models as small as these lose time to a second thread, and lose ten times as much where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def real(monkeypatch):
    """A function that lets a test see real files, or skips where one is not at hand."""

    def need(*files: str) -> None:
        for file in files:
            if not REAL or not (Path(REAL) / file).is_file():
                pytest.skip(f"{file} is not under PTHETA_DATA ({REAL or 'not set'})")
        monkeypatch.setenv("PTHETA_DATA", REAL)

    return need
