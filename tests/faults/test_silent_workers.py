"""Workers that say nothing: noticed, explained and ended; slow environments are left alone."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import leftovers
import megaflow
from commands import PATIENCE, SERVE, Served

HEARTBEAT_TIMEOUT = 2.0
# From there until it has been noticed and told, which takes half a second on a machine that does nothing else.
TOLD = 10.0

MODULE = """
import ctypes, hashlib, os, re, time
import gymnasium as gym

def hold(seconds):
    # A call into native code that keeps the interpreter's lock.
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hashlib.pbkdf2_hmac("sha256", b"x", b"salt", 100_000)

class Silent(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, held=0.0):
        hold(held)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

    def say(self, what):
        print(what)

    def pid(self):
        return os.getpid()

    def sleep(self, seconds):
        time.sleep(seconds)

    def hold(self, seconds):
        hold(seconds)

    def compute(self, seconds):
        compute(seconds)

    def spin(self):
        re.match("(a+)+$", "a" * 60 + "b")

gym.register("Silent-v0", entry_point=Silent)
"""


class Server:
    """A server of one worker that is ended after two seconds of silence."""

    def __init__(self, place: leftovers.Place) -> None:
        place.script("silent.py", MODULE)
        config = place.script(
            "megaflow.toml", f"[server]\nheartbeat_timeout = {HEARTBEAT_TIMEOUT}\n"
        )
        self.process = place.start(
            *SERVE, "--listen", f"unix:{place.folder / 'serve.sock'}", "--workers", "1", "--import", "silent",
            "--config", str(config),
        )  # fmt: skip
        (self.address,) = Served(self.process, 1).addresses

    def make(self, **kwargs: Any) -> Any:
        env: Any = megaflow.make("Silent-v0", server=self.address, env_kwargs=kwargs)
        env.reset(seed=0)
        return env

    def end(self) -> str:
        """What it logged."""
        self.process.terminate()
        return self.process.communicate(timeout=PATIENCE)[1]


@pytest.fixture
def place() -> Iterator[leftovers.Place]:
    with leftovers.place() as here:
        yield here


@pytest.fixture
def server(place: leftovers.Place) -> Iterator[Server]:
    server = Server(place)
    with server.process:
        yield server
        server.process.kill()


def lost(call: Any, *args: Any) -> tuple[str, float]:
    """What the client is told of its loss, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(megaflow.SessionLost) as caught:
        call(*args)
    return str(caught.value), time.monotonic() - began


def stop(pid: int) -> None:
    """Stops a process, all its threads: one of them may serve a step before it hears of the signal."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE
    while True:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        states = {(task / "stat").read_bytes().rpartition(b")")[2].split()[0] for task in tasks}
        if states == {b"T"}:
            return
        assert time.monotonic() < deadline, states
        time.sleep(0.001)


@pytest.mark.long
def test_a_stopped_worker(server: Server) -> None:
    env = server.make()
    pid = env.get_wrapper_attr("pid")()
    stop(pid)
    said, seconds = lost(env.step, 0)
    assert re.search(rf"worker-0 \(process {pid}\) was ended: no heartbeat for [2-9]\.", said), said
    assert "it is stopped (SIGSTOP, SIGTSTP)" in said
    assert seconds < HEARTBEAT_TIMEOUT + TOLD
    env.close()
    with closing(server.make()) as fresh:  # by another worker
        fresh.step(0)
    # Before that, it was said that one is missing.
    assert re.search(rf"worker-0 \(process {pid}\): no heartbeat for \d\.", server.end())


@pytest.mark.long
def test_a_worker_that_spins(server: Server) -> None:
    env = server.make()
    env.get_wrapper_attr("say")("last words")
    said, seconds = lost(env.get_wrapper_attr("spin"))
    assert said.endswith("The last lines of its log:\nlast words")
    # A machine with more to do gives a process that spins no CPU, and that is what it is told of then.
    causes = "it computes without letting go of Python's interpreter lock", "gets no CPU"
    assert any(cause in said for cause in causes)
    assert seconds < HEARTBEAT_TIMEOUT + TOLD
    env.close()


@pytest.mark.long
def test_a_worker_that_waits_with_the_lock_held(server: Server) -> None:
    env = server.make()
    said, seconds = lost(env.get_wrapper_attr("hold"), 60)
    assert "it waits for something without letting go" in said
    assert seconds < HEARTBEAT_TIMEOUT + TOLD
    env.close()


@pytest.mark.long
def test_slow_environments_are_left_alone(server: Server) -> None:
    env = server.make()
    pid = env.get_wrapper_attr("pid")()
    env.get_wrapper_attr("sleep")(HEARTBEAT_TIMEOUT + 0.7)
    env.get_wrapper_attr("compute")(HEARTBEAT_TIMEOUT + 0.7)
    env.get_wrapper_attr("hold")(HEARTBEAT_TIMEOUT / 2)
    # Making an environment may hold the lock for as long as it takes, whoever else is there.
    with closing(server.make(held=1.5 * HEARTBEAT_TIMEOUT)) as other:
        assert other.get_wrapper_attr("pid")() == pid
    assert env.get_wrapper_attr("pid")() == pid
    env.close()
