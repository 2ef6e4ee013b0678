"""Processes that environments start and leave: they go soon after the last session of their worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import leftovers
import megaflow
from commands import PATIENCE, SERVE, Served

MODULE = """
import os, subprocess
import gymnasium as gym

DAEMON = "setsid sh -c 'sleep 600 >/dev/null 2>&1 & echo $!'"

class Leaving(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, daemon=False):
        self.daemon = int(subprocess.check_output(["sh", "-c", DAEMON])) if daemon else 0

    def reset(self, *, seed=None, options=None):
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

    def pids(self):
        return os.getpid(), self.daemon

gym.register("Leaving-v0", entry_point=Leaving)
"""


@pytest.fixture
def place() -> Iterator[leftovers.Place]:
    with leftovers.place() as here:
        yield here


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.long
def test_a_daemon_does_not_outlive_the_sessions_of_its_worker(place: leftovers.Place) -> None:
    place.script("leaving.py", MODULE)
    process = place.start(
        *SERVE, "--listen", f"unix:{place.folder / 's'}", "--workers", "1", "--import", "leaving"
    )
    with process:
        try:
            (address,) = Served(process, 1).addresses

            def made(**kwargs: Any) -> Any:
                env: Any = megaflow.make("Leaving-v0", server=address, env_kwargs=kwargs)
                env.reset(seed=0)
                return env

            with closing(made()) as env:
                worker, _ = env.get_wrapper_attr("pids")()
            time.sleep(3.0)
            assert runs(worker)  # it left nothing, so its worker stays
            with closing(made()) as other:
                with closing(made(daemon=True)) as env:
                    assert env.get_wrapper_attr("pids")()[0] == worker
                    daemon = env.get_wrapper_attr("pids")()[1]
                    assert runs(daemon)
                time.sleep(2.5)
                other.step(0)  # whose worker it is too
            eventually(lambda: not runs(daemon), 20.0)
            with closing(made()) as env:
                assert env.get_wrapper_attr("pids")()[0] != worker
            process.terminate()
            said = process.communicate(timeout=PATIENCE)[1]
            assert f"left processes behind: [{daemon}]" in said
        finally:
            process.kill()
    place.assert_nothing_left()
