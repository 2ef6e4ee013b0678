"""The comparison itself: it passes over equal environments, and each kind of difference fails it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from zoo.lockstep import difference, envs_in_lockstep, vectors_in_lockstep


def _sync(id: str, mode: AutoresetMode, cls: type[SyncVectorEnv] = SyncVectorEnv) -> SyncVectorEnv:
    return cls([lambda: gym.make(id) for _ in range(3)], autoreset_mode=mode)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("id", ["CartPole-v1", "zoo/Nested-v0", "zoo/Infos-v0"])
def test_equal_environments_pass(id: str, mode: AutoresetMode) -> None:
    assert vectors_in_lockstep(_sync(id, mode), _sync(id, mode), steps=300) > 10


class _Broken(SyncVectorEnv):
    """Changes one of the five things that `step` returns, late."""

    change: Callable[[list[Any]], None]
    count = 0

    def step(self, actions: Any) -> Any:
        self.count += 1
        result = list(super().step(actions))
        if self.count >= 100:
            type(self).change(result)
        return tuple(result)


def _observation(result: list[Any]) -> None:
    result[0][0, 0] = np.nextafter(result[0][0, 0], np.float32(9))


def _observation_dtype(result: list[Any]) -> None:
    result[0] = result[0].astype(np.float64)


def _reward(result: list[Any]) -> None:
    result[1][-1] += 1e-9


def _reward_dtype(result: list[Any]) -> None:
    result[1] = result[1].astype(np.float32)


def _flag(result: list[Any]) -> None:
    result[3][1] ^= True


def _info(result: list[Any]) -> None:
    result[4]["new"] = 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_observation, "step 99, observation: at (0, 0)"),
        (_observation_dtype, "step 99, observation: expected float32"),
        (_reward, "step 99, reward: at (2,)"),
        (_reward_dtype, "step 99, reward: expected float64"),
        (_flag, "step 99, truncated: at (1,)"),
        (_info, "step 99, info: expected keys"),
    ],
)
def test_a_change_in_what_a_step_returns_is_named(
    change: Callable[[list[Any]], None], named: str
) -> None:
    broken = _sync(
        "CartPole-v1", AutoresetMode.NEXT_STEP, type("B", (_Broken,), {"change": change})
    )
    with pytest.raises(AssertionError) as caught:
        vectors_in_lockstep(_sync("CartPole-v1", AutoresetMode.NEXT_STEP), broken, steps=150)
    assert named in str(caught.value)


class _Reseeding(gym.Wrapper[Any, Any, Any, Any]):
    """Forgets where the generator stood, at each reset without a seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.env.reset(seed=5 if seed is None else seed, options=options)


def test_an_autoreset_that_reseeds_fails() -> None:
    broken = SyncVectorEnv([lambda: _Reseeding(gym.make("zoo/Box-v0")) for _ in range(3)])
    with pytest.raises(AssertionError, match="observation"):
        vectors_in_lockstep(_sync("zoo/Box-v0", AutoresetMode.NEXT_STEP), broken, steps=300)


class _Casting(gym.ActionWrapper[Any, Any, Any]):
    """Turns numpy integers into python's, as a careless encoding does."""

    def action(self, action: Any) -> Any:
        return int(action)


def test_an_action_of_another_type_shows_in_the_reward() -> None:
    broken = SyncVectorEnv([lambda: _Casting(gym.make("zoo/Discrete-v0")) for _ in range(3)])
    with pytest.raises(AssertionError, match="step 0, reward"):
        vectors_in_lockstep(_sync("zoo/Discrete-v0", AutoresetMode.NEXT_STEP), broken, steps=10)


class _PlainReward(gym.RewardWrapper[Any, Any]):
    def reward(self, reward: Any) -> Any:
        return float(reward)


def test_a_reward_of_another_type_fails_for_a_single_environment() -> None:
    one = gym.make("zoo/Scalars-v0")
    with pytest.raises(AssertionError, match="reward: expected <class 'int'>"):
        envs_in_lockstep(one, _PlainReward(gym.make("zoo/Scalars-v0")), steps=10)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), [1, 2]),
        (1, 1.0),
        (1.0, np.float64(1.0)),
        (True, np.bool_(True)),
        (np.float32(1), np.array(1, np.float32)),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, [2, (3,)]], [1, [2, (4,)]]),
        (np.array([None, 1], object), np.array([None, 1.0], object)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (None, {}),
    ],
)
def test_differences_of_type_shape_and_content_are_found(one: Any, other: Any) -> None:
    assert difference(one, one) is None
    assert difference(one, other) is not None
