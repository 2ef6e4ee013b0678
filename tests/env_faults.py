"""Environments that `megaflow envs check` must find fault with."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym


class Plain(gym.Env[Any, Any]):
    """Does nothing wrong."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": []}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 1, 0.0, False, False, {}


class Unseeded(Plain):
    """Its instances differ, whatever the seed."""

    _instances = itertools.count()

    def __init__(self) -> None:
        self._number = next(self._instances)

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 1, float(self._number), False, False, {}


class Outside(Plain):
    """Its observations are not in its space."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 7, 0.0, False, False, {}


class Raising(Plain):
    """Its steps raise."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        raise LookupError("no such thing")


class Unmakeable(Plain):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")
