"""Fixtures of the data tests."""

import sys
from pathlib import Path

import pytest

from ptheta.data import download

sys.path.insert(0, str(Path(__file__).parent))  # for mirror.py and samples.py


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own, no data, no proxies, no pauses."""
    for name in ("PTHETA_DATA", "PTHETA_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PTHETA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSE", 0.001)
    return tmp_path / "home"
