"""Rewards and flags of the types that environments really return."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

from zoo.base import Drawn

__all__ = ["ScalarsEnv"]


class ScalarsEnv(Drawn):
    """Rewards are int, float, np.float32, np.float64, np.int64 or bool in turn; flags bool or np.bool_.

    Args:
        plain_flags: python bools only, as `gymnasium.utils.env_checker` demands.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, plain_flags: bool = False, render_mode: str | None = None) -> None:
        self.observation_space: gym.Space[Any] = Discrete(10, start=1)
        self.action_space: gym.Space[Any] = Discrete(3)
        self.render_mode = render_mode
        self._plain_flags = plain_flags

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._begin(seed)
        return np.int64(1), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        kinds = (int, float, np.float32, np.float64, np.int64, bool)
        reward = kinds[self._elapsed % len(kinds)](self.np_random.integers(1, 5) + 0.25)
        terminated, truncated = self._end()
        observation = self.np_random.integers(1, 11)
        if self._plain_flags or self._elapsed % 2:
            return observation, reward, terminated, truncated, {}
        return observation, reward, np.bool_(terminated), np.bool_(truncated), {}
