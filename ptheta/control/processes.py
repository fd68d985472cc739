r"""Environments that are stepped by several processes: for physics that take longer than a message.

One process holds the first environments and learns; each other one is a fork of it that holds as many more, and is
told to step them while the first steps its own. Actions, observations and rewards lie in memory that they share; a
message is one byte, and who waits for one looks again and again for a while before it sleeps, as being woken takes a
good part of the time that the physics do. Environment e is seeded and seen as it would be in one process, so that how
many there are changes nothing but the time.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import os
import select
import signal
import statistics
import sys
import time
import weakref
from typing import Any

import numpy as np

from ptheta.control.envs import Environment, Envs, Step
from ptheta.engine.errors import InputError

WORTH = 4e-4  # seconds of a step of all environments, from which on a message is worth its while
GAIN = 1.4  # times as many steps a second, from which on another process is: of cores that share one, it is not
AWAKE = 2e-3  # seconds that one waits before it sleeps
STEP, STEP_SOME, LOOK, RESET, STATE, LOAD, QUIT = b"s", b"g", b"o", b"r", b"d", b"l", b"q"


def envs_of(environment: Environment, count: int, seed: int, staggered: bool, processes: int) -> Any:
    """`Envs`, or `Spread` over so many processes where that pays."""
    able = sys.platform.startswith("linux") and "fork" in multiprocessing.get_all_start_methods()
    processes = min(processes, count // 4) if able else 1
    if processes > 1 and worthwhile(environment, count, processes):
        return Spread(environment, count, seed, staggered, processes)
    return Envs(environment, count, seed, staggered=staggered)


def worthwhile(environment: Environment, count: int, processes: int) -> bool:
    """Whether steps take long, and several processes make many more of them a second than one."""
    alone = seconds(environment)
    return count * alone >= WORTH and processes * alone >= GAIN * beside_others(environment, processes)


def seconds(environment: Environment, steps: int = 50) -> float:
    """Of a step under random actions, of a copy that nobody else sees; the median of so many."""
    with contextlib.closing(environment.make()) as env:
        try:
            env.reset(seed=0)
            env.action_space.seed(0)
            taken = []
            for _ in range(steps):
                action, began = env.action_space.sample(), time.perf_counter()
                _, _, over, cut, _ = env.step(action)
                taken.append(time.perf_counter() - began)
                if over or cut:
                    env.reset()
            return statistics.median(taken)
        except Exception:  # an environment that is broken: whoever steps it in earnest will say so
            return 0.0


def beside_others(environment: Environment, processes: int) -> float:
    """Seconds of a step, while forks of this process step copies of their own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    others = [context.Process(target=busy, args=(environment, there), daemon=True) for _ in range(processes - 1)]
    try:
        for other in others:
            other.start()
        for _ in others:
            if not here.poll(10):  # one that cannot even begin
                return math.inf
            here.recv_bytes()
        return seconds(environment)
    finally:
        for other in others:
            other.kill()
            other.join()


def busy(environment: Environment, connection: Any) -> None:
    """Step, having said so, until killed or nobody is left who would."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send_bytes(STEP)
    parent = os.getppid()
    while os.getppid() == parent:
        seconds(environment)


class Shared:
    """Arrays of E environments in memory that forks see."""

    def __init__(self, spaces: Any, count: int):
        action = ((count,), np.int64) if spaces.actions else ((count, spaces.components), np.float32)
        seen = ((count, *spaces.observation), np.uint8 if spaces.pixels else np.float32)
        one = ((count,), np.float64)
        shapes = {
            "actions": action, "going": ((count,), np.bool_), "observations": seen, "last": seen,
            "rewards": ((count,), np.float32), "terminated": ((count,), np.bool_), "truncated": ((count,), np.bool_),
            "ended": ((count,), np.bool_), "returns": one, "lengths": one, "now": ((count,), np.int64),
        }  # fmt: skip
        sizes = {name: int(np.prod(shape)) * np.dtype(kind).itemsize for name, (shape, kind) in shapes.items()}
        sizes = {name: (size + 63) // 64 * 64 for name, size in sizes.items()}  # each begins on a cache line
        memory, at = mmap.mmap(-1, sum(sizes.values())), 0
        self.arrays: dict[str, np.ndarray] = {}
        for name, (shape, kind) in shapes.items():
            self.arrays[name] = np.frombuffer(memory, kind, int(np.prod(shape)), at).reshape(shape)
            at += sizes[name]

    def look(self, rows: slice, envs: Envs) -> None:
        """Where some environments are."""
        self.arrays["observations"][rows], self.arrays["now"][rows] = envs.observations, envs.lengths

    def put(self, rows: slice, step: Step, envs: Envs) -> None:
        """What a step of some environments has said."""
        self.look(rows, envs)
        x = self.arrays
        x["rewards"][rows] = step.rewards
        x["terminated"][rows], x["truncated"][rows] = step.terminated, step.truncated
        x["ended"][rows] = False
        for e, last in step.ended_with.items():
            x["ended"][rows.start + e], x["last"][rows.start + e] = True, last
        for e, total, length in envs.finished:
            x["returns"][rows.start + e], x["lengths"][rows.start + e] = total, length
        envs.finished.clear()


def awaited(connection: Any) -> Any:
    """A function that returns when there is something to receive, or nothing has come for some time."""
    looked = select.poll()
    looked.register(connection.fileno(), select.POLLIN)

    def wait() -> None:
        until = time.perf_counter() + AWAKE
        while not looked.poll(0) and time.perf_counter() < until:
            pass

    return wait


def serve(connection: Any, others: list[Any], make: Any, shared: Shared, rows: slice) -> None:
    """What a forked process does, until it is told to quit or nobody is left to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    envs: Any = None
    wait = awaited(connection)
    while True:
        wait()
        try:
            told = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        try:
            envs = envs or make()
            said: Any = None
            if told in (STEP, STEP_SOME):
                going = shared.arrays["going"][rows].copy() if told == STEP_SOME else None
                shared.put(rows, envs.step(shared.arrays["actions"][rows], going), envs)
            elif told == RESET:
                envs.reset()
            elif told == STATE:
                said = envs.state_dict()
            elif told == LOAD:
                envs.load_state_dict(connection.recv())
            elif told == QUIT:
                os._exit(0)
            shared.look(rows, envs)
            connection.send((True, said))
        except InputError as error:
            connection.send((False, str(error)))
        except BaseException as error:  # a defect: told where it can be seen
            connection.send((False, f"{type(error).__name__}: {error}"))


class Spread:
    """As `Envs`, with the environments in several processes."""

    def __init__(self, environment: Environment, count: int, seed: int, staggered: bool, processes: int):
        self.environment, self.spaces, self.seed = environment, environment.spaces, seed
        self.count, self.shared = count, Shared(environment.spaces, count)
        edges = [round(k * count / processes) for k in range(processes + 1)]
        self.rows = [slice(a, b) for a, b in zip(edges, edges[1:])]
        context, self.connections, self.waits, self.processes = multiprocessing.get_context("fork"), [], [], []
        for rows in self.rows[1:]:
            here, there = context.Pipe()

            def make(rows: slice = rows) -> Envs:
                return Envs(environment, rows.stop - rows.start, seed, "train", staggered, rows.start, count)

            process = context.Process(
                target=serve, args=(there, [*self.connections, here], make, self.shared, rows), daemon=True
            )
            process.start()
            there.close()
            self.connections.append(here)
            self.waits.append(awaited(here))
            self.processes.append(process)
        self.close = weakref.finalize(self, quit, self.connections)
        self.mine = Envs(environment, edges[1], seed, "train", staggered, 0, count)
        self.dtype = self.mine.dtype
        self.finished: list[tuple[int, float, int]] = []
        self.taken = 0
        self._each(LOOK)
        self._gather()

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode so far."""
        return self.shared.arrays["now"]

    def _tell(self, what: bytes) -> None:
        for connection in self.connections:
            try:
                connection.send_bytes(what)
            except OSError as error:
                raise self._gone() from error

    def _hear(self) -> list[Any]:
        """What the others answer; all are heard before one's complaint is told."""
        heard = []
        for connection, wait in zip(self.connections, self.waits):
            wait()
            try:
                heard.append(connection.recv())
            except (EOFError, OSError) as error:
                raise self._gone() from error
        for fine, said in heard:
            if not fine:
                raise InputError(said)
        return [said for _, said in heard]

    def _gone(self) -> InputError:
        return InputError(
            f"a process that steps {self.environment.name} has ended, killed perhaps for want of memory; resume, with "
            "--threads 1 for one process."
        )

    def _each(self, what: bytes) -> list[Any]:
        self._tell(what)
        return self._hear()

    def _gather(self) -> None:
        self.shared.look(self.rows[0], self.mine)
        self.observations = self.shared.arrays["observations"].copy()

    def reset(self) -> None:
        """As `Envs.reset`."""
        self._tell(RESET)
        self.mine.reset()
        self._hear()
        self._gather()

    def step(self, actions: np.ndarray, going: np.ndarray | None = None) -> Step:
        """As `Envs.step`."""
        x, mine = self.shared.arrays, self.rows[0]
        x["actions"][...] = actions
        if going is not None:
            x["going"][...] = going
        self._tell(STEP if going is None else STEP_SOME)
        try:
            self.shared.put(mine, self.mine.step(actions[mine], None if going is None else going[mine]), self.mine)
        finally:
            self._hear()
        ended = np.flatnonzero(x["ended"]).tolist()
        self.finished += [(e, float(x["returns"][e]), int(x["lengths"][e])) for e in ended]
        self.taken += 1
        self.observations = x["observations"].copy()
        return Step(
            self.observations, x["rewards"].copy(), x["terminated"].copy(), x["truncated"].copy(),
            {e: x["last"][e].copy() for e in ended},
        )  # fmt: skip

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """As it would be of one process."""
        parts = [self.mine.state_dict(), *self._each(STATE)]
        self._gather()
        if "envs" not in parts[0]:
            return parts[0]
        import torch

        envs = [parts[k]["envs"][str(e)] for k, rows in enumerate(self.rows) for e in range(rows.stop - rows.start)]
        whole = {name: torch.cat([part[name] for part in parts]) for name in ("observations", "returns", "lengths")}
        return {**parts[0], **whole, "envs": {str(e): state for e, state in enumerate(envs)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.finished.clear()
        self.taken = state["taken"]
        for k, rows in enumerate(self.rows):
            part = dict(state)
            if "envs" in state:
                part |= {name: state[name][rows] for name in ("observations", "returns", "lengths")}
                part["envs"] = {str(e): state["envs"][str(rows.start + e)] for e in range(rows.stop - rows.start)}
            if k == 0:
                self.mine.load_state_dict(part)
            else:
                self.connections[k - 1].send_bytes(LOAD)
                self.connections[k - 1].send(part)
        self._hear()
        self._gather()


def quit(connections: list[Any]) -> None:
    """The others end."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send_bytes(QUIT)
            connection.close()
