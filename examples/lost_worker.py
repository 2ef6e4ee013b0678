"""What a step does when a worker dies under it: the two answers of on_lost=.

The simulator here crashes its whole process now and then, as native code does.

    python examples/lost_worker.py
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import megaflow

NUM_ENVS = 4
CRASH = 1  # the action that does it


class Simulator(gym.Env[npt.NDArray[np.float32], np.int64]):
    """Counts its steps, and crashes on request."""

    observation_space = gym.spaces.Box(0.0, np.inf, shape=(1,), dtype=np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(
        self, action: np.int64
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if action == CRASH:
            os.abort()
        self.count += 1
        return np.array([self.count], dtype=np.float32), 1.0, False, False, {}


def main() -> None:
    quiet = np.zeros(NUM_ENVS, dtype=np.int64)
    crash = quiet.copy()
    crash[-1] = CRASH

    print('on_lost="raise": an exception says which were lost; a reset makes these anew')
    envs = megaflow.make_vec(Simulator, num_envs=NUM_ENVS, autoreset_mode="Disabled")
    envs.reset(seed=1)
    envs.step(quiet)
    try:
        envs.step(crash)
    except megaflow.SessionLost as loss:
        print(f"  lost: {loss.indices}, because {loss.message.splitlines()[0]}")
        mask = np.isin(np.arange(NUM_ENVS), loss.indices)
        observations, _ = envs.reset(options={"reset_mask": mask})
        print(f"  the others have not noticed: {observations.ravel().tolist()}")
    envs.close()

    print('on_lost="truncate": the episodes end, flagged, and the next step is that of new ones')
    envs = megaflow.make_vec(Simulator, num_envs=NUM_ENVS, on_lost="truncate")
    envs.reset(seed=1)
    for actions in (quiet, crash, quiet, quiet):
        observations, _, _, truncations, infos = envs.step(actions)
        lost = infos.get("lost", np.zeros(NUM_ENVS, dtype=np.bool_))
        print(f"  {observations.ravel()}, truncated {truncations}, lost {lost}")
    envs.close()


if __name__ == "__main__":
    main()
