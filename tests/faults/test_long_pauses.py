"""Workers and servers that stand still for longer than a connection would, and go on as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

import leftovers
import megaflow
from commands import PATIENCE, SERVE, Served
from impatient import DROPPED, ENVIRON, impatient

# Longer than gRPC gives a connection that is asked and does not answer; far below the heartbeats' own limit.
PAUSE = DROPPED + 3.0

MODULE = """
import os
import gymnasium as gym

class Counting(gym.Env):
    observation_space = gym.spaces.Discrete(1000)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return 0, {}

    def step(self, action):
        self.count += 1
        return self.count, 1.0, False, False, {}

    def pid(self):
        return os.getpid()

gym.register("Counting-v0", entry_point=Counting)
"""


@pytest.fixture
def place() -> Iterator[leftovers.Place]:
    with leftovers.place() as here:
        yield here


@pytest.mark.long
def test_whoever_stands_still_loses_nothing(place: leftovers.Place) -> None:
    """Side by side, since each takes its time: a server that is stopped, and the worker of another."""
    place.script("counting.py", MODULE)
    with impatient(), ExitStack() as stack:
        servers, envs = [], []
        for name in ("one", "other"):
            listen = f"unix:{place.folder / name}"
            process = place.start(
                *SERVE,
                "--listen",
                listen,
                "--workers",
                "1",
                "--import",
                "counting",
                variables=ENVIRON,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            (address,) = Served(process, 1).addresses
            env: Any = stack.enter_context(closing(megaflow.make("Counting-v0", server=address)))
            env.reset(seed=0)
            assert env.step(0)[0] == 1
            servers.append(process)
            envs.append(env)
        stopped = [servers[0].pid, envs[1].get_wrapper_attr("pid")()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(PAUSE)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)  # what was asked before is settled
        for env in envs:
            assert env.step(0)[0] == 2
            env.close()
        for server in servers:
            server.terminate()
        for server in servers:
            said = server.communicate(timeout=PATIENCE)[1]
            assert "is ended" not in said
