"""A vector class of an environment's own, with all three autoreset modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

__all__ = ["CounterVectorEnv"]


class CounterVectorEnv(VectorEnv[Any, Any, Any]):
    """Counts in one array; sub-environment i has an episode of `goal` + i steps, with a random offset.

    Its one generator is shared by all sub-environments, and its infos are its own: no list of
    environments gives these numbers.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        goal: int = 4,
        note: str = "",
        mode: str = "NextStep",
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = dict(type(self).metadata, autoreset_mode=AutoresetMode(mode))
        self.single_observation_space = Box(-100.0, 100.0, (2,), np.float32)
        self.single_action_space = Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._mode = AutoresetMode(mode)
        self._goals = goal + np.arange(num_envs)
        self._note = note
        self._done = np.zeros(num_envs, np.bool_)
        self._state = np.zeros((num_envs, 2), np.float32)

    def _restart(self, mask: np.ndarray[Any, Any]) -> None:
        self._state[mask, 0] = self.np_random.uniform(-1.0, 1.0, int(mask.sum()))
        self._state[mask, 1] = 0.0
        self._done[mask] = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        mask = np.ones(self.num_envs, np.bool_)
        if self._mode == AutoresetMode.DISABLED and options is not None:
            mask = options.pop("reset_mask", mask)
        self._restart(mask)
        return self._state.copy(), {"note": self._note, "restarted": mask.copy()}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        info: dict[str, Any] = {"actions": np.array(actions)}
        resetting = self._done.copy()
        if self._mode == AutoresetMode.NEXT_STEP:
            self._restart(resetting)
        self._state[:, 1] += ~resetting
        terminated = (self._state[:, 1] >= self._goals) & ~resetting
        reward = np.where(resetting, 0.0, np.asarray(actions) + self._state[:, 0]).astype(
            np.float64
        )
        self._done = terminated.copy()
        if self._mode == AutoresetMode.SAME_STEP and terminated.any():
            info["final_obs"] = self._state.copy()
            info["_final_obs"] = terminated.copy()
            self._restart(terminated.copy())
        return self._state.copy(), reward, terminated, np.zeros(self.num_envs, np.bool_), info

    def render(self) -> Any:
        shade = self._state[:, 1].astype(np.uint8)
        return tuple(np.full((4, 6, 3), value, np.uint8) for value in shade)
