"""Ctrl-C, and other signals whose handlers raise, whenever they come: environments can be used afterwards."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import gymnasium as gym
import numpy as np
import pytest

import megaflow
from megaflow.transport import interrupts
from zoo.waiting import SleepingEnv

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])


class Struck(Exception):
    """What the handler of this module raises."""


@contextmanager
def strikes(number: int, seed: int) -> Iterator[None]:
    """A signal again and again while the body runs, whose handler raises Struck, once."""
    chance, over = random.Random(seed), threading.Event()
    armed = True

    def struck(_: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Struck

    def strike() -> None:
        while not over.wait(chance.uniform(1e-4, 3e-3)):
            os.kill(os.getpid(), number)

    striker = threading.Thread(target=strike, daemon=True)
    before = signal.signal(number, struck)
    gc.disable()  # what is raised in somebody's callback of a collection is lost, and told as a warning
    try:
        striker.start()
        yield
    finally:
        armed = False
        over.set()
        striker.join()
        gc.enable()
        signal.signal(number, before)


@SIGNALS
def test_one_environment(number: int) -> None:
    env = megaflow.make("CartPole-v1")
    env.reset(seed=1)
    for seed in range(30):
        with suppress(Struck), strikes(number, seed):
            while True:
                if any(env.step(0)[2:4]):
                    env.reset()
        env.reset(seed=7)
    assert _trajectory(env) == _trajectory(gym.make("CartPole-v1"))
    env.close()


@SIGNALS
def test_a_vector(number: int) -> None:
    envs = megaflow.make_vec("CartPole-v1", num_envs=4)
    envs.reset(seed=1)
    actions = np.zeros(4, dtype=np.int64)
    for seed in range(30):
        with suppress(Struck), strikes(number, seed):
            while True:
                envs.step(actions)
        # Nothing is pending: both halves of a step are one.
        observations, _ = envs.reset(seed=3)
        local = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
        np.testing.assert_array_equal(observations, local.reset(seed=3)[0])
    envs.close()


@SIGNALS
def test_sends_and_receives(number: int) -> None:
    envs = megaflow.make_vec("CartPole-v1", num_envs=4, parallel="thread")
    assert isinstance(envs, megaflow.RemoteVectorEnv)
    for seed in range(30):
        envs.async_reset(seed=seed)
        with suppress(Struck), strikes(number, seed):
            while True:
                ids = envs.recv(1)[4]["env_id"]
                envs.send(np.zeros(len(ids), dtype=np.int64), ids)
        with suppress(gym.error.NoAsyncCallError):
            envs.recv(timeout=20)
    envs.reset(seed=1)
    envs.close()


@pytest.mark.long
def test_a_step_that_takes_long_ends_with_ctrl_c_at_once() -> None:
    env = megaflow.make(SleepingEnv, duration=5.0)
    env.reset()
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    assert time.monotonic() - began < 3
    env.close()


def test_handlers_are_given_back_and_hear_of_what_came() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    mine = signal.getsignal(signal.SIGUSR1)
    try:
        deferral = interrupts.defer()
        assert deferral is not None
        assert interrupts.defer() is None  # calls within calls
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == []
        with interrupts.interruptible():
            assert heard == [signal.SIGUSR1]
            os.kill(os.getpid(), signal.SIGUSR1)
            assert len(heard) == 2
        os.kill(os.getpid(), signal.SIGUSR1)
        assert len(heard) == 2
        deferral.end()
        assert len(heard) == 3
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_other_threads_put_nothing_off() -> None:
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(interrupts.defer()))
    thread.start()
    thread.join()
    assert seen == [None]


def _trajectory(env: gym.Env[np.ndarray, int]) -> list[list[float]]:
    env.reset(seed=5)
    return [env.step(action)[0].tolist() for action in (0, 1, 1, 0, 1)]
