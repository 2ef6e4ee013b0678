"""An environment that counts: nothing random, so that what it gives can be said in advance."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

__all__ = ["CounterEnv"]


class CounterEnv(gym.Env[Any, Any]):
    """Observes [start, steps]; the reward is the action; terminates after `goal` steps.

    Args:
        goal: steps to an episode.
        start: what the first number of the observation is.
        note: comes back in the info of `reset`.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, goal: int = 5, start: int = 0, note: str = "", render_mode: str | None = None
    ) -> None:
        self.observation_space = Box(-100.0, 100.0, (2,), np.float32)
        self.action_space = Discrete(3)
        self.render_mode = render_mode
        self._goal, self._start, self._note = goal, start, note

    def _observe(self) -> np.ndarray[Any, Any]:
        return np.array([self._start, self._steps], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {"note": self._note}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return (
            self._observe(),
            float(action),
            self._steps >= self._goal,
            False,
            {"steps": self._steps},
        )
