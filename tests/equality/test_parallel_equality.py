"""Sub-environments that step side by side, in threads or processes, give what gymnasium's `SyncVectorEnv` gives."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import megaflow
from autoreset_modes import MODES, id_and_mode
from zoo.lockstep import assert_same, vectors_in_lockstep
from zoo.makers import MakeVec

SIDE_BY_SIDE = ["thread", "process"]
# One of each kind of batch: arrays, nested ones, tuples of what has none; infos; rewards and flags of any type.
IDS = ["CartPole-v1", "zoo/Nested-v0", "zoo/Graph-v0", "zoo/Infos-v0", "zoo/Scalars-v0"]


@pytest.fixture(params=SIDE_BY_SIDE)
def parallel(request: pytest.FixtureRequest) -> Any:
    return request.param


@id_and_mode(IDS, [])
def test_equal_in_every_autoreset_mode(id: str, mode: AutoresetMode, local_vec: MakeVec) -> None:
    """Each in every mode and in both ways, and every mode in both ways; not all three together."""
    parallel: Any = SIDE_BY_SIDE[(IDS.index(id) + MODES.index(mode)) % 2]
    with closing(megaflow.make_vec(id, 3, autoreset_mode=mode, parallel=parallel)) as envs:
        expected = local_vec(id, 3, autoreset_mode=mode)
        assert vectors_in_lockstep(expected, envs, steps=100) > 0


def test_attributes_calls_and_generators(parallel: Any, local_vec: MakeVec) -> None:
    local: Any = local_vec("zoo/Counter-v0", 3)
    remote: Any = megaflow.make_vec("zoo/Counter-v0", 3, parallel=parallel)
    with closing(remote) as envs:
        for each in (local, envs):
            each.reset(seed=[3, 2, 1])
            each.set_attr("favourite", ["a", ("b", 1), None])
        for name in ("favourite", "np_random_seed"):
            assert_same(local.get_attr(name), envs.get_attr(name), name)
        for ours, theirs in zip(envs.np_random, local.np_random, strict=True):
            assert ours.bit_generator.state == theirs.bit_generator.state


class Marking(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper of the user's own script."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, "wrapped": True}


def test_code_of_the_users_own_script(parallel: Any) -> None:
    class Own(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self, start: float) -> None:
            self.start = start

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            return np.array([self.start], np.float32), {}

    starts = [{"start": 0.25}, {"start": 0.5}]
    made = megaflow.make_vec(Own, 2, parallel=parallel, per_env_kwargs=starts, wrappers=[Marking])
    with closing(made) as envs:
        observations, infos = envs.reset()
        assert observations.tolist() == [[0.25], [0.5]]
        assert infos["wrapped"].tolist() == [True, True]
