"""Steps that never end, truncated one after the other: nothing of them stays, and the others step as fast as ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import megaflow

ASLEEP, BUSY = 1, 2
ROUNDS = 4
# Seconds, of which those that step at once take a thousandth.
LIMIT = 0.5


class Hanging(gym.Env[Any, Any]):
    """Steps at once, or never: asleep, or computing."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == ASLEEP:
            time.sleep(1000)
        while action == BUSY:
            pass
        return np.zeros(1), 1.0, False, False, {}

    def pid(self) -> int:
        return os.getpid()


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.long
@pytest.mark.parametrize("hang", [ASLEEP, BUSY], ids=["asleep", "busy"])
@pytest.mark.parametrize("parallel", ["none", "thread"])
def test_what_hangs_goes_with_its_worker(parallel: Any, hang: int) -> None:
    envs: Any = megaflow.make_vec(
        Hanging,
        2,
        autoreset_mode="SameStep",
        parallel=parallel,
        step_timeout=LIMIT,
        on_step_timeout="truncate",
    )
    try:
        envs.reset(seed=0)
        stays, *old = envs.call("pid")
        before = threads(stays)
        for _ in range(ROUNDS):
            *_, truncations, infos = envs.step(np.array([0, hang]))
            # What has a worker of its own is not touched.
            assert truncations.tolist() == [False, True]
            assert infos["step_timeout"].tolist() == [False, True]
            first, new = envs.call("pid")
            assert first == stays
            assert new not in old
            old.append(new)
        eventually(lambda: threads(stays) <= before + 1)
        eventually(lambda: [pid for pid in old if Path(f"/proc/{pid}").exists()] == old[-1:])
        for _ in range(50):
            *_, truncations, _ = envs.step(np.zeros(2, np.int64))
            assert not truncations.any()
    finally:
        envs.close()
