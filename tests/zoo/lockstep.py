"""Drives two environments with the same actions and says where they first differ."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv

__all__ = ["assert_same", "difference", "envs_in_lockstep", "vectors_in_lockstep"]


def difference(expected: Any, actual: Any, path: str = "") -> str | None:
    """Where and how two values differ, by the rules of `data_equivalence(exact=True)`; None where equal.

    Also held, beyond that function: arrays of more than one dimension that hold objects.
    """
    if type(expected) is not type(actual):
        return f"{path}: expected {type(expected)} {expected!r}, got {type(actual)} {actual!r}"
    if isinstance(expected, dict):
        if expected.keys() != actual.keys():
            return f"{path}: expected keys {list(expected)}, got {list(actual)}"
        return _first((expected[key], actual[key], f"{path}[{key!r}]") for key in expected)
    if isinstance(expected, (tuple, list)):
        if len(expected) != len(actual):
            return f"{path}: expected length {len(expected)}, got {len(actual)}"
        pairs = zip(expected, actual, strict=True)
        return _first((*both, f"{path}[{i}]") for i, both in enumerate(pairs))
    if isinstance(expected, np.ndarray):
        return _array_difference(expected, actual, path)
    return None if expected == actual else f"{path}: expected {expected!r}, got {actual!r}"


def _first(triples: Any) -> str | None:
    return next((text for triple in triples if (text := difference(*triple)) is not None), None)


def _array_difference(expected: Any, actual: Any, path: str) -> str | None:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return (
            f"{path}: expected {expected.dtype} {expected.shape}, got {actual.dtype} {actual.shape}"
        )
    if expected.dtype == object:
        return difference(expected.tolist(), actual.tolist(), path)
    unequal = np.argwhere(expected != actual)
    if not len(unequal):
        return None
    where = tuple(int(i) for i in unequal[0])
    return f"{path}: at {where} expected {expected[where]!r}, got {actual[where]!r}"


def assert_same(expected: Any, actual: Any, what: str) -> None:
    """Asserts `data_equivalence(exact=True)`, and names the first difference."""
    if data_equivalence(expected, actual, exact=True):
        return
    raise AssertionError(f"{what}{difference(expected, actual) or ': not data_equivalent'}")


_STEP = ("observation", "reward", "terminated", "truncated", "info")
_RESET = ("observation", "info")


def _compare(expected: Any, actual: Any, names: tuple[str, ...], when: str) -> None:
    assert len(expected) == len(actual) == len(names)
    for name, one, other in zip(names, expected, actual, strict=True):
        assert_same(one, other, f"{when}, {name}")


def _both_reset(expected: Any, actual: Any, when: str, seed: Any, options: Any = None) -> None:
    copies = [None if options is None else dict(options) for _ in range(2)]
    _compare(
        expected.reset(seed=seed, options=copies[0]),
        actual.reset(seed=seed, options=copies[1]),
        _RESET,
        when,
    )
    assert_same(copies[0], copies[1], f"{when}, options left with the caller")


def vectors_in_lockstep(
    expected: VectorEnv[Any, Any, Any],
    actual: VectorEnv[Any, Any, Any],
    *,
    steps: int = 1000,
    seed: Any = 42,
    options: dict[str, Any] | None = None,
) -> int:
    """Steps both, and asserts that all that they return is the same.

    Beside autoreset they are reset by a list of seeds with None in it, and without any seed, so that
    what depends on where the generators stand shows.

    Returns:
        how many episodes ended, over all sub-environments.
    """
    assert_same(expected.num_envs, actual.num_envs, "num_envs")
    assert expected.action_space == actual.action_space
    assert expected.observation_space == actual.observation_space
    expected.action_space.seed(7)
    seeds = [None if i % 2 else 100 + i for i in range(expected.num_envs)]
    resets = {steps * 6 // 10: seeds, steps * 8 // 10: None}
    by_hand = expected.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    ended = 0
    _both_reset(expected, actual, "first reset", seed, options)
    for step in range(steps):
        if step in resets:
            _both_reset(expected, actual, f"reset before step {step}", resets[step], options)
        action = expected.action_space.sample()
        one, other = expected.step(action), actual.step(action)
        _compare(one, other, _STEP, f"step {step}")
        done = one[2] | one[3]
        ended += int(done.sum())
        if by_hand and done.any():
            _both_reset(
                expected, actual, f"masked reset after step {step}", None, {"reset_mask": done}
            )
    return ended


def envs_in_lockstep(
    expected: gym.Env[Any, Any], actual: gym.Env[Any, Any], *, steps: int = 1000, seed: int = 42
) -> int:
    """As `vectors_in_lockstep`, for two single environments, without seeds after the first reset.

    Returns:
        how many episodes ended.
    """
    assert expected.action_space == actual.action_space
    assert expected.observation_space == actual.observation_space
    expected.action_space.seed(7)
    ended = 0
    _both_reset(expected, actual, "first reset", seed)
    for step in range(steps):
        action = expected.action_space.sample()
        one, other = expected.step(action), actual.step(action)
        _compare(one, other, _STEP, f"step {step}")
        if one[2] or one[3]:
            ended += 1
            _both_reset(expected, actual, f"reset after step {step}", None)
    return ended
