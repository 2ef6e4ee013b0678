"""parallel="process": programs that a sub-environment has started end with its process, and no other's do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import megaflow

HANG, EXIT, CRASH = 1, 2, 3
STEP_TIMEOUT = 0.5

# Of its own; left by a shell that has ended; and a daemon, which has a session of its own.
CHILD = "exec sleep 600"
ORPHAN = "sleep 600 >/dev/null 2>&1 & echo $!"
DAEMON = "setsid sh -c 'sleep 600 >/dev/null 2>&1 & echo $!'"


class Starting(gym.Env[Any, Any]):
    """Starts programs at each reset, and observes itself and them."""

    observation_space = gym.spaces.Box(0, 1e9, (4,), np.float64)
    action_space = gym.spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.child = subprocess.Popen(["sh", "-c", CHILD])
        left = [int(subprocess.check_output(["sh", "-c", one])) for one in (ORPHAN, DAEMON)]
        self.pids = np.array([os.getpid(), self.child.pid, *left], np.float64)
        return self.pids, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == HANG:
            time.sleep(600)
        if action == EXIT:
            os._exit(3)
        if action == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.pids, 1.0, False, False, {}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def none_of(true: Callable[[int], bool], pids: list[int]) -> None:
    """Waits until it holds for none of them."""
    end = time.monotonic() + 10.0
    while any(map(true, pids)):
        assert time.monotonic() < end
        time.sleep(0.01)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def envs() -> Iterator[Any]:
    made = megaflow.make_vec(
        Starting,
        4,  # two to a worker
        parallel="process",
        autoreset_mode="SameStep",
        step_timeout=STEP_TIMEOUT,
        on_step_timeout="truncate",
        on_lost="truncate",
    )
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("end", [HANG, EXIT, CRASH], ids=["hang", "exit", "crash"])
def test_they_end_with_a_process_that_is_truncated_or_dies(envs: Any, end: int) -> None:
    staying, ending, *_ = envs.reset(seed=0)[0].astype(int).tolist()
    assert all(map(runs, [*staying, *ending]))
    for _ in range(3):
        observations, _, _, truncations, _ = envs.step(np.array([0, end, 0, 0]))
        assert truncations.tolist() == [False, True, False, False]
        gone, ending = ending, observations[1].astype(int).tolist()
        assert not set(gone) & set(ending)
        none_of(runs, gone)
        assert all(map(runs, [*staying, *ending]))
    # Nothing is left to be reaped either.
    none_of(lambda pid: Path(f"/proc/{pid}").exists(), gone)


@pytest.mark.long
def test_they_end_when_it_is_closed_and_its_worker_stays(envs: Any) -> None:
    pids = envs.reset(seed=0)[0].astype(int).ravel().tolist()
    workers = [parent(parent(pid)) for pid in pids[::8]]
    began = time.monotonic()
    envs.close()
    none_of(runs, pids)
    assert time.monotonic() - began < 3.0
    time.sleep(2.5)  # a worker in which something was left would be ended by now
    assert all(map(runs, workers))
