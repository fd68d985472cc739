"""Environments in several processes are those of one, to the last bit; and nobody is left behind."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import ptheta
from ptheta.control import processes
from ptheta.control.envs import Environment, Envs
from ptheta.control.processes import Spread, envs_of
from ptheta.engine.errors import InputError


def actions(spaces, count, g):
    return (
        g.randint(spaces.actions, size=count)
        if spaces.actions
        else g.uniform(-1, 1, (count, spaces.components)).astype("f")
    )


def same(one, two) -> None:
    for name in ("observations", "rewards", "terminated", "truncated"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.ended_with.keys() == two.ended_with.keys()
    assert all(np.array_equal(one.ended_with[e], two.ended_with[e]) for e in one.ended_with)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Hopper-v5", "ptheta/GridWorld-v0"])
def test_they_are_those_of_one_process(env):
    one, two = (f(Environment(env), 7, 3, staggered=True) if f is Envs else f(Environment(env), 7, 3, True, 3)
                for f in (Envs, Spread))  # fmt: skip
    assert [rows.stop - rows.start for rows in two.rows] == [2, 3, 2] and len(two) == 7
    assert np.array_equal(one.observations, two.observations)
    g = np.random.RandomState(0)
    for t in range(60):
        a, going = actions(one.spaces, 7, g), (g.rand(7) < 0.7 if t % 3 else None)
        same(one.step(a, going), two.step(a, going))
        assert sorted(one.finished) == sorted(two.finished) and np.array_equal(one.lengths, two.lengths)
    state = two.state_dict()
    other = Spread(Environment(env), 7, 9, True, 2)
    other.load_state_dict(state)  # another number of processes
    alone = Envs(Environment(env), 7, 9)
    alone.load_state_dict(state)
    for _ in range(60):
        a = actions(one.spaces, 7, g)
        said = one.step(a)
        for envs in (two, other, alone):
            same(said, envs.step(a))
    one.reset()
    two.reset()
    assert np.array_equal(one.observations, two.observations)
    for envs in (two, other):
        envs.close()


def test_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "WORTH", 0.0)
    monkeypatch.setattr(processes, "GAIN", 0.0)
    made = []
    whole = processes.Spread.__init__
    monkeypatch.setattr(processes.Spread, "__init__", lambda self, *a: (made.append(self), whole(self, *a))[1])
    before = torch.get_num_threads()
    try:
        files = []
        for threads in (1, 2):
            run = ptheta.train(
                "a2c", "CartPole-v1", out=str(tmp_path / str(threads)), steps=640, eval_every=320, eval_size=1,
                threads=threads, envs=8, hidden=(8,),
            )  # fmt: skip
            files.append((run.path / "metrics.jsonl").read_text())
    finally:
        torch.set_num_threads(before)
    assert len(made) == 1 and files[0] == files[1]


def test_what_is_wrong_in_another_process_is_told_here():
    import gymnasium

    class Broken(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.t += 1
            return np.full(1, np.nan if self.t == 4 and action else 0.0, np.float32), 0.0, False, False, {}

    envs = Spread(Environment(Broken), 8, 0, False, 2)
    a = np.zeros(8, np.int64)
    for _ in range(3):
        envs.step(a)
    a[5] = 1
    with pytest.raises(InputError, match=r"Broken gives an observation that is not finite \(copy 5, its step 4"):
        envs.step(a)
    envs.close()


def test_a_process_that_is_killed_is_missed():
    envs = Spread(Environment("CartPole-v1"), 8, 0, False, 2)
    os.kill(envs.processes[0].pid, signal.SIGKILL)
    envs.processes[0].join()
    with pytest.raises(InputError, match="a process that steps CartPole-v1 has ended, .* --threads 1"):
        for _ in range(3):
            envs.step(np.zeros(8, np.int64))


def test_nobody_is_left_behind():
    envs = Spread(Environment("CartPole-v1"), 8, 0, False, 2)
    process = envs.processes[0]
    del envs
    gc.collect()
    process.join(10)
    assert process.exitcode == 0
    code = (
        "import os, signal\nfrom ptheta.control.envs import Environment\nfrom ptheta.control.processes import Spread\n"
        "envs = Spread(Environment('CartPole-v1'), 8, 0, False, 3)\n"
        "print(*(p.pid for p in envs.processes), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_light_environments_stay_in_one_process(monkeypatch):
    monkeypatch.setattr(processes, "GAIN", 0.0)
    assert isinstance(envs_of(Environment("CartPole-v1"), 8, 0, False, 2), Envs)
    assert isinstance(envs_of(Environment("HalfCheetah-v5"), 3, 0, False, 2), Envs)
    heavy = envs_of(Environment("Humanoid-v5"), 32, 0, False, 2)
    assert isinstance(heavy, Spread)
    heavy.close()


@pytest.mark.parametrize(("slower", "kind"), [(1.2, Spread), (1.6, Envs)])
def test_heavy_ones_stay_where_processes_share_a_core(monkeypatch, slower, kind):
    """Two processes that are each 1.6 times slower make 1.25 times as many steps."""
    monkeypatch.setattr(processes, "seconds", lambda environment: 1e-3)
    monkeypatch.setattr(processes, "beside_others", lambda environment, processes: slower * 1e-3)
    envs = envs_of(Environment("HalfCheetah-v5"), 8, 0, False, 2)
    envs.close()
    assert isinstance(envs, kind)


def test_others_are_gone_when_a_step_beside_them_has_been_timed():
    before = {child.pid for child in multiprocessing.active_children()}
    assert 0 < processes.beside_others(Environment("CartPole-v1"), 3) < 1
    assert {child.pid for child in multiprocessing.active_children()} == before


def test_who_waits_is_awake_when_something_comes_and_does_not_wait_for_ever():
    here, there = multiprocessing.Pipe()
    wait = processes.awaited(here)
    began = time.perf_counter()
    wait()
    assert processes.AWAKE <= time.perf_counter() - began < 1
    there.send_bytes(b"s")
    wait()
    assert here.recv_bytes() == b"s"
    there.close()
    wait()
    with pytest.raises(EOFError):
        here.recv_bytes()
