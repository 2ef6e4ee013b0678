"""Makes remote and local environments, and closes them when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import VectorEnv

import megaflow
import zoo  # noqa: F401  # registers its environments
from zoo.makers import MakeEnv, MakeVec


@pytest.fixture(scope="session", params=["inline", None], ids=["inline", "embedded"])
def server(request: pytest.FixtureRequest) -> str | None:
    """The `server` argument: in this process, or the embedded server's workers."""
    address: str | None = request.param
    return address


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def remote(server: str | None, closing: ExitStack) -> MakeEnv:
    """`megaflow.make` on the server under test."""

    def make(id: Any, **kwargs: Any) -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = megaflow.make(id, **{"server": server, **kwargs})
        closing.callback(env.close)
        return env

    return make


@pytest.fixture
def remote_vec(server: str | None, closing: ExitStack) -> MakeVec:
    """`megaflow.make_vec` on the server under test."""

    def make(id: Any, num_envs: Any = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        if num_envs is not None:
            kwargs["num_envs"] = num_envs
        envs: VectorEnv[Any, Any, Any] = megaflow.make_vec(id, **{"server": server, **kwargs})
        closing.callback(envs.close)
        return envs

    return make


@pytest.fixture
def local(closing: ExitStack) -> MakeEnv:
    """`gym.make`."""

    def make(id: Any, **kwargs: Any) -> gym.Env[Any, Any]:
        env = gym.make(id, **kwargs)
        closing.callback(env.close)
        return env

    return make


def _end(envs: Any) -> None:
    """A worker of `AsyncVectorEnv` that raised is gone, and the ordinary close would wait for its answer."""
    for process in getattr(envs, "processes", ()):
        process.terminate()
        process.join()
    if hasattr(envs, "processes"):
        envs.closed = True
    envs.close()


@pytest.fixture
def local_vec(closing: ExitStack) -> MakeVec:
    """`gym.make_vec`, by default "sync", the autoreset mode as a keyword of its own."""

    def make(id: Any, num_envs: Any = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        vector_kwargs: dict[str, Any] = {
            name: kwargs.pop(name)
            for name in ("autoreset_mode", "observation_mode")
            if name in kwargs
        }
        mode = kwargs.pop("vectorization_mode", "sync")
        envs = gym.make_vec(
            id, num_envs, vectorization_mode=mode, vector_kwargs=vector_kwargs, **kwargs
        )
        closing.callback(_end, envs)
        return envs

    return make
