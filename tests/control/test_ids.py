"""Ids of environments: which are refused and what is said, what is missing, and a physics engine that keeps quiet."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from ptheta.control import ids
from ptheta.control.envs import Environment, Envs
from ptheta.engine.errors import InputError, UsageError

NEAREST = {
    "CartPole-v9": "CartPole-v1",
    "HalfCheetah-v99": "HalfCheetah-v5",
    "Walker2d-v22": "Walker2d-v5",  # and not the version that looks most alike
    "cartpole": "CartPole-v1",
    "pendulum-v1": "Pendulum-v1",
    "LunarLander-v2": "LunarLander-v3",
    "gymnasium:Hoper-v5": "Hopper-v5",
    "GridWorld-v0": "ptheta/GridWorld-v0",
}


@pytest.mark.parametrize("id", NEAREST)
def test_an_unknown_id_names_the_nearest(id):
    with pytest.raises(UsageError, match=rf"{id}' is unknown; .*Did you mean '{NEAREST[id]}'\?$") as got:
        Environment(id)
    assert NEAREST[id] in gymnasium.registry and len(str(got.value)) < 300


@pytest.mark.parametrize("id", ["", "qqqqqq", "foo bar!", "/tmp/x", "x" * 3000, "two\nlines", "ALE/Pong-v5"])
def test_an_id_that_is_near_to_none_gets_some_to_choose_from(id):
    with pytest.raises(UsageError, match=r"allowed: any id of gymnasium, as CartPole-v1, .*, ptheta/GridWorld") as got:
        Environment(id)
    assert len(str(got.value)) < 300 and "\n" not in str(got.value) and "Did you mean" not in str(got.value)
    assert ("ale_py:ALE/Pong-v5" in str(got.value)) == (id == "ALE/Pong-v5")


def test_every_id_that_is_named_exists():
    assert all(ids._entry(name).id in gymnasium.registry for name in ids.NAMED) and ids.GRIDWORLD in gymnasium.registry


@pytest.mark.parametrize("id", ["CartPole", "gymnasium:CartPole-v1", "gymnasium:CartPole"])
def test_an_id_without_a_version_or_with_a_module_is_made(id):
    assert Environment(id).spaces == Environment("CartPole-v1").spaces


# ---------------------------------------------------------------- what is missing


def test_without_gymnasium_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for spec in ("CartPole-v1", dict):
        with pytest.raises(InputError) as got:
            Environment(spec)
        said = "environments need gymnasium, which is not installed. Try: pip install 'ptheta[control]'"
        assert str(got.value) == said


def test_without_mujoco_the_message_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for id in ("HalfCheetah-v5", "HalfCheetah"):
        with pytest.raises(
            InputError, match=rf"^{id} cannot be made: .*\. Try: pip install 'ptheta\[control\]'$"
        ) as got:
            Environment(id)
        assert "\n" not in str(got.value)
    assert Environment("CartPole-v1").savable  # others need none


def test_what_another_package_has_is_not_said_to_be_in_ours(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(InputError, match=r"^LunarLander-v3 cannot be made: Box2D is not installed") as got:
        Environment("LunarLander-v3")
    assert "ptheta[control]" not in str(got.value) and ".." not in str(got.value)
    with pytest.raises(InputError, match=r"^nomodule:X-v0 cannot be made: No module named 'nomodule'") as got:
        Environment("nomodule:X-v0")
    assert "ptheta[control]" not in str(got.value)


def test_what_is_installed_and_fails_is_not_to_be_installed(monkeypatch):
    from gymnasium.envs.classic_control import CartPoleEnv

    def fails(self, **options):
        raise RuntimeError("no display")

    monkeypatch.setattr(CartPoleEnv, "__init__", fails)
    with pytest.raises(InputError, match=r"^CartPole-v1 cannot be made: RuntimeError: no display\.$"):
        Environment("CartPole-v1")


@pytest.mark.parametrize("id", ["HalfCheetah-v2", "Ant-v3"])
def test_a_version_that_was_moved_names_the_newest(id):
    with pytest.raises(InputError, match=rf"^{id} cannot be made: .* Try: {id[:-1]}5$"):
        Environment(id)


def test_what_an_entry_raises_is_one_line_and_stays_in_sight(monkeypatch):
    def entry(**options):
        raise KeyError("its\nown")

    gymnasium.register("PthetaTest/Broken-v0", entry)
    try:
        with pytest.raises(InputError, match=r"^PthetaTest/Broken-v0 cannot be made: KeyError: 'its\\nown'\.$") as got:
            Environment("PthetaTest/Broken-v0")
        assert isinstance(got.value.__cause__, KeyError)
    finally:
        del gymnasium.registry["PthetaTest/Broken-v0"]


# ---------------------------------------------------------------- MuJoCo's warnings

QUIET = """
import gymnasium, mujoco, pathlib, sys
from ptheta.control.envs import Environment, Envs
def cheetah():
    return gymnasium.make("HalfCheetah-v5")
for spec in (cheetah, "HalfCheetah", "HalfCheetah-v5"):
    mujoco.set_mju_user_warning(None)
    Envs(Environment(spec), 2, 0).close()
assert not [*pathlib.Path().iterdir()]
for stream in (sys.stdout, sys.stderr):
    print("so far", file=stream, flush=True)
mujoco.set_mju_user_warning(None)
cheetah()
"""


def test_an_old_model_file_neither_prints_nor_leaves_a_log(tmp_path):
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", QUIET], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("so far") and said.stderr.startswith("so far")
    if not list(tmp_path.iterdir()):
        pytest.skip("this MuJoCo has nothing against the file")


def test_a_physics_that_goes_wrong_is_said_once(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ids, "_said", set())
    envs = Envs(Environment("HalfCheetah-v5"), 3, 0)
    for env in envs.envs[:2]:
        env.unwrapped.data.qvel[:] = 1e12
    envs.step(np.zeros((3, 6), np.float32))
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("ptheta: MuJoCo warns, and may again: ") and "unstable" in err
    assert err.count("\n") == 1 and not list(tmp_path.iterdir())
