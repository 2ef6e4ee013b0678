"""`vectorization_mode="vector_entry_point"`: a vector class of the environment's own, as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from megaflow import errors
from zoo.lockstep import assert_same
from zoo.makers import MakeVec

NATIVE = {"vectorization_mode": "vector_entry_point"}


def _compare(expected: Any, actual: Any, steps: int, mode: AutoresetMode | None = None) -> int:
    """Steps both from one seed; returns how many episodes ended."""
    expected.action_space.seed(3)
    assert expected.action_space == actual.action_space
    assert expected.observation_space == actual.observation_space
    assert expected.single_action_space == actual.single_action_space
    assert expected.single_observation_space == actual.single_observation_space
    assert_same(expected.reset(seed=9), actual.reset(seed=9), "reset")
    ended = 0
    for step in range(steps):
        action = expected.action_space.sample()
        one, other = expected.step(action), actual.step(action)
        assert_same(one, other, f"step {step}")
        done = one[2] | one[3]
        ended += int(done.sum())
        if mode == AutoresetMode.DISABLED and done.any():
            results: list[Any] = [
                envs.reset(options={"reset_mask": done.copy()}) for envs in (expected, actual)
            ]
            assert_same(results[0], results[1], f"masked reset after step {step}")
    assert_same(expected.reset(), actual.reset(), "reset without a seed")
    return ended


@pytest.mark.parametrize("num_envs", [1, 5])
def test_cartpoles_own_class(num_envs: int, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected = local_vec("CartPole-v1", num_envs, **NATIVE)
    actual = remote_vec("CartPole-v1", num_envs, **NATIVE)
    assert _compare(expected, actual, 1000 if num_envs > 1 else 200) > 5
    assert actual.metadata == expected.metadata
    assert isinstance(actual.metadata["autoreset_mode"], AutoresetMode)


def test_cartpoles_own_class_takes_its_options(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    options = {"low": -0.01, "high": 0.02}
    results: list[Any] = [
        make("CartPole-v1", 3, **NATIVE).reset(seed=2, options=dict(options))
        for make in (local_vec, remote_vec)
    ]
    assert_same(results[0], results[1], "reset with options")


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_the_zoos_own_class(mode: AutoresetMode, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    """Its autoreset mode is an argument of its own, so that it is one of `env_kwargs`."""
    kwargs = {"goal": 3, "note": "native"}
    expected = local_vec("zoo/NativeCounter-v0", 4, mode=mode.value, **kwargs, **NATIVE)
    actual: Any = remote_vec(
        "zoo/NativeCounter-v0", 4, env_kwargs={**kwargs, "mode": mode.value}, **NATIVE
    )
    assert actual.metadata["autoreset_mode"] is mode
    assert actual.autoreset_mode is mode
    assert actual.num_envs == 4
    assert _compare(expected, actual, 200, mode) > 50


def test_frames_of_a_native_class(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    logs: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make("zoo/NativeCounter-v0", 2, render_mode="rgb_array", **NATIVE)
        assert envs.render_mode == "rgb_array"
        envs.reset(seed=1)
        envs.step(np.array([1, 1]))
        logs.append(envs.render())
    assert_same(logs[0], logs[1], "frames")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("per_env_kwargs", [{}, {}]),
        ("wrappers", ["gymnasium.wrappers:TimeAwareObservation"]),
        ("autoreset_mode", AutoresetMode.SAME_STEP),
        ("observation_mode", "different"),
    ],
)
def test_options_that_a_native_class_has_not(option: str, value: Any, remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match=option):
        remote_vec("CartPole-v1", 2, **NATIVE, **{option: value})


def test_a_list_of_ids_is_no_native_class(remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match="vector_entry_point"):
        remote_vec(["CartPole-v1", "CartPole-v1"], None, **NATIVE)


def test_an_environment_without_a_class_of_its_own(remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match="vector_entry_point"):
        remote_vec("zoo/Box-v0", 2, **NATIVE)


def test_calls_that_a_native_class_has_not(remote_vec: MakeVec) -> None:
    envs: Any = remote_vec("CartPole-v1", 2, **NATIVE)
    first, _ = envs.reset(seed=1)
    with pytest.raises(errors.InvalidArgument, match="seed"):
        envs.reset(seed=[1, 2])
    with pytest.raises(errors.InvalidArgument, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(errors.InvalidArgument, match="call"):
        envs.call("render_mode")
    assert_same(first, envs.reset(seed=1)[0], "a reset afterwards")
