"""What each control test has, and policies to play."""

import gymnasium
import pytest
from worlds_that_count import KINDS, saved

from ptheta.control import film


@pytest.fixture(autouse=True)
def setting(alone, one_thread):
    pass


@pytest.fixture(scope="module")
def registered():
    for kind in KINDS:
        gymnasium.register(f"test-playing/{kind.__name__}-v0", kind)
    yield
    for kind in KINDS:
        del gymnasium.registry[f"test-playing/{kind.__name__}-v0"]


@pytest.fixture(scope="module")
def folders(registered, tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    return {
        "balance": saved(at / "balance", "CartPole-v1", (0.05, 0.3, 1.0, 1.0)),
        "cart": saved(at / "cart", "CartPole-v1", (0.0, 0.0, 0.0, 0.0)),
        "pendulum": saved(at / "pendulum", "Pendulum-v1"),
        "counting": saved(at / "counting", "test-playing/Counting-v0"),
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(film, "mp4_encoder", lambda: None)
    return tmp_path
