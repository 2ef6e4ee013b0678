"""Types of the factories that tests are handed as fixtures: remote and local, single and vector."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
from gymnasium.vector import VectorEnv

__all__ = ["MakeEnv", "MakeVec"]


class MakeEnv(Protocol):
    """Makes one environment, which the test need not close."""

    def __call__(self, id: Any, **kwargs: Any) -> gym.Env[Any, Any]: ...


class MakeVec(Protocol):
    """Makes a vector environment, which the test need not close. `num_envs=None` leaves it out."""

    def __call__(self, id: Any, num_envs: Any = ..., **kwargs: Any) -> VectorEnv[Any, Any, Any]: ...
