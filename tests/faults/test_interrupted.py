"""Ctrl-C while a remote environment is waited for: nothing is stuck, crossed or left open afterwards."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import megaflow
from megaflow.transport import channels


class Slow(gym.Env[Any, Any]):
    """Counts its steps; a step with action 1, and closing after one, takes a while."""

    observation_space = gym.spaces.Discrete(1000)
    action_space = gym.spaces.Discrete(2)
    steps = 0
    slow_close = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1:
            time.sleep(0.5)
        self.steps += 1
        return self.steps, 0.0, False, False, {}

    def dawdle(self) -> None:
        self.slow_close = True

    def close(self) -> None:
        if self.slow_close:
            time.sleep(0.5)


def interrupted(call: Callable[[], Any]) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    timer.join()


def test_interrupted_steps_do_not_fill_the_window() -> None:
    env = megaflow.make(Slow)
    env.reset()
    for _ in range(6):
        interrupted(lambda: env.step(1))
        time.sleep(0.6)  # it was taken all the same
    assert env.step(0)[0] == 7
    env.close()


def test_interrupted_vector_steps_do_not_cross() -> None:
    envs = megaflow.make_vec(Slow, num_envs=3)
    envs.reset()
    interrupted(lambda: envs.step(np.array([1, 0, 0])))
    observations, *_ = envs.step(np.zeros(3, dtype=np.int64))
    assert observations.tolist() == [2, 2, 2]
    envs.close()


def test_interrupted_close_leaves_no_connection() -> None:
    before = set(channels._process.channels)
    envs = megaflow.make_vec(Slow, num_envs=2)
    envs.call("dawdle")  # type: ignore[attr-defined]
    interrupted(envs.close)
    assert envs.closed
    assert set(channels._process.channels) == before
    envs.close()


def test_forgotten_environments_are_freed_without_the_collector() -> None:
    """So that their streams are never closed from whatever thread the collector happens to run in."""
    before = set(channels._process.channels)
    gc.disable()
    try:
        env, envs = megaflow.make(Slow), megaflow.make_vec(Slow, num_envs=2)
        envs.reset()
        del env, envs
        assert set(channels._process.channels) == before
    finally:
        gc.enable()
