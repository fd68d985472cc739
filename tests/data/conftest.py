"""Fixtures of the data tests."""

import os
import sys
from pathlib import Path

import pytest

from ptheta.data import download

sys.path.insert(0, str(Path(__file__).parent))  # for mirror.py and samples.py

REAL = os.environ.get("PTHETA_DATA", "")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No network, no data but this test's."""
    monkeypatch.setenv("PTHETA_OFFLINE", "1")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PTHETA_DATA", raising=False)


@pytest.fixture
def real(monkeypatch):
    """A function that gives a real set, or skips where it is not at hand."""

    def need(*files: str) -> None:
        for file in files:
            if not REAL or not (Path(REAL) / file).is_file():
                pytest.skip(f"{file} is not under PTHETA_DATA ({REAL or 'not set'})")
        monkeypatch.setenv("PTHETA_DATA", REAL)

    return need


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own, no data, no proxies, no pauses."""
    for name in ("PTHETA_DATA", "PTHETA_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSE", 0.001)
    return tmp_path / "home"
