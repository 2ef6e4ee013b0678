"""Workers that take more and more memory are replaced when they are empty, and ended before the host suffers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

import leftovers
import megaflow
from commands import PATIENCE, SERVE, Served

MODULE = """
import os
import gymnasium as gym

LIMIT = 600 << 20
kept = []

def taken():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024

class Leaking(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

    def pid(self):
        return os.getpid()

    def leak(self, share):
        print("leaking")
        kept.append(b"x" * max(0, int(share * LIMIT) - taken()))

gym.register("Leaking-v0", entry_point=Leaking)
"""


@pytest.fixture
def place() -> Iterator[leftovers.Place]:
    with leftovers.place() as here:
        yield here


class Server:
    """A server of one worker for each principal."""

    def __init__(self, place: leftovers.Place, *limits: str) -> None:
        place.script("leaking.py", MODULE)
        listen = ("--listen", f"unix:{place.folder / 'serve.sock'}")
        self.process = place.start(
            *SERVE, *listen, "--workers", "1", "--import", "leaking", *limits
        )
        (self._address,) = Served(self.process, 1).addresses

    def make(self) -> Any:
        env: Any = megaflow.make("Leaking-v0", server=self._address)
        env.reset(seed=0)
        return env

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture
def start(place: leftovers.Place) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def started(*limits: str) -> Server:
            server = Server(place, *limits)
            stack.enter_context(server.process)
            stack.callback(server.process.kill)
            return server

        yield started


Start = Callable[..., Server]


def pid(env: Any) -> int:
    number: int = env.get_wrapper_attr("pid")()
    return number


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def leak_and_step_on(env: Any) -> None:
    env.get_wrapper_attr("leak")(1.2)
    for _ in range(round(PATIENCE / 0.01)):
        env.step(0)
        time.sleep(0.01)


def test_one_that_comes_close_to_the_limit_is_replaced_when_it_is_empty(
    start: Start, place: leftovers.Place
) -> None:
    server = start("--worker-memory-limit", "600Mi")
    env = server.make()
    worker = pid(env)
    env.get_wrapper_attr("leak")(0.9)

    def another() -> bool:
        with closing(server.make()) as fresh:
            return pid(fresh) != worker

    eventually(another)
    assert pid(env) == worker
    env.step(0)
    assert worker in place.workers()
    env.close()
    eventually(lambda: worker not in place.workers())


@pytest.mark.long
def test_one_that_passes_the_limit_is_ended(start: Start) -> None:
    server = start("--worker-memory-limit", "600Mi")
    env = server.make()
    worker = pid(env)
    with pytest.raises(megaflow.SessionLost) as caught:
        leak_and_step_on(env)
    said = str(caught.value)
    assert re.match(
        rf"worker-0 \(process {worker}\) was ended: its memory, \d+\.\d MiB in 1 process, is over "
        r"worker_memory_limit=600\.0 MiB\. The last lines of its log:\nleaking$",
        said,
    ), said
    env.close()
    with closing(server.make()) as fresh:
        assert pid(fresh) != worker


def test_one_after_the_other_leaves_nothing_in_the_server(
    start: Start, place: leftovers.Place
) -> None:
    server = start("--max-sessions-per-worker", "3")
    seen: list[int] = []
    before = 0
    for _ in range(9):
        with closing(server.make()) as env:
            seen.append(pid(env))
            before = before or server.descriptors()
        if len(seen) % 3 == 0:
            eventually(lambda: seen[-1] not in place.processes())
    assert [seen.count(number) for number in dict.fromkeys(seen)] == [3, 3, 3]
    with closing(server.make()):
        # Give or take a connection: a descriptor for each of the three that are gone would be more.
        eventually(lambda: server.descriptors() <= before + 2)
