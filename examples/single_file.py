"""Everything in one script: an environment, a wrapper, and eight of them in other processes.

With no server named, megaflow starts one beside this script and ends it with the script. To such a server a
class or a function goes as it is; a server that others started takes names (see gym_make.py).

    python examples/single_file.py
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import megaflow

Position = npt.NDArray[np.float32]


class Corridor(gym.Env[Position, np.int64]):
    """Walk to the right end of a corridor in which a draught blows to either side."""

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.observation_space = gym.spaces.Box(-1.0, length, shape=(1,), dtype=np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Position, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0.0
        return self._observation(), {"process": os.getpid()}

    def step(self, action: np.int64) -> tuple[Position, float, bool, bool, dict[str, Any]]:
        draught = self.np_random.uniform(-0.5, 0.5)
        self.position = float(np.clip(self.position + 2 * action - 1 + draught, -1.0, self.length))
        return self._observation(), 0.0, self.position >= self.length, False, {}

    def _observation(self) -> Position:
        return np.array([self.position], dtype=np.float32)


class Impatient(gym.RewardWrapper[Position, np.int64]):
    """Every step costs one."""

    def reward(self, reward: Any) -> float:
        return float(reward) - 1.0


def make() -> gym.Env[Position, np.int64]:
    """A function that makes an environment, as AsyncVectorEnv takes them."""
    return Impatient(Corridor(length=12))


def main() -> None:
    # A class, with its arguments and wrappers; or a function.
    envs = megaflow.make_vec(Corridor, num_envs=8, env_kwargs={"length": 12}, wrappers=[Impatient])
    same = megaflow.make_vec(make, num_envs=8)
    local = gym.vector.SyncVectorEnv([make] * 8)

    _, infos = envs.reset(seed=1)
    print(f"8 environments in processes {set(infos['process'].tolist())}, this is {os.getpid()}")
    same.reset(seed=1)
    local.reset(seed=1)

    returns = np.zeros(8)
    for _ in range(10):
        actions = np.ones(8, dtype=np.int64)
        observations, rewards, *_ = envs.step(actions)
        returns += rewards
        # All of them are the same as what gymnasium gives locally, to the last bit.
        np.testing.assert_array_equal(observations, same.step(actions)[0])
        np.testing.assert_array_equal(observations, local.step(actions)[0])
    print(f"after 10 steps at {observations.ravel().round(1)}, with returns {returns}")

    for each in (envs, same, local):
        each.close()


if __name__ == "__main__":
    main()
