"""Misuse raises what gymnasium's `AsyncVectorEnv` raises, by type and message, and breaks nothing.

Each scenario runs over both; what it logs must be the same. The names of the classes are taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from zoo.lockstep import assert_same
from zoo.makers import MakeVec
from zoo.outcomes import outcome, raised

Scenario = Callable[[Any], list[Any]]

ACTIONS = np.array([1, 1])


def _waits_without_calls(envs: Any) -> list[Any]:
    return [outcome(wait) for wait in (envs.step_wait, envs.reset_wait, envs.call_wait)]


def _waits_for_another_call(envs: Any) -> list[Any]:
    log = []
    envs.reset_async(seed=1)
    log += [outcome(envs.step_wait), outcome(envs.call_wait), outcome(envs.reset_wait)]
    envs.step_async(ACTIONS)
    log += [outcome(envs.reset_wait), outcome(envs.call_wait), outcome(envs.step_wait)]
    envs.call_async("mass")
    log += [outcome(envs.reset_wait), outcome(envs.step_wait), outcome(envs.call_wait)]
    return log


def _second_calls(envs: Any) -> list[Any]:
    log = [outcome(lambda: envs.reset(seed=1))]
    starts: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
        (lambda: envs.step_async(ACTIONS), envs.step_wait),
        (lambda: envs.reset_async(seed=2), envs.reset_wait),
        (lambda: envs.call_async("render_mode"), envs.call_wait),
    ]
    for start, wait in starts:
        start()
        log += [outcome(begin) for begin, _ in starts]
        log += [
            outcome(lambda: envs.set_attr("mass", 1)),
            outcome(lambda: envs.step(ACTIONS)),
            outcome(envs.reset),
            outcome(lambda: envs.call("render_mode")),
            outcome(lambda: envs.get_attr("render_mode")),
            outcome(wait),
            outcome(wait),
        ]
    return log


def _after_close(envs: Any) -> list[Any]:
    envs.reset(seed=1)
    envs.close()
    calls: list[Callable[[], Any]] = [
        envs.reset,
        lambda: envs.reset(seed=[1]),
        lambda: envs.step(ACTIONS),
        lambda: envs.step_async(ACTIONS),
        envs.step_wait,
        envs.reset_async,
        envs.reset_wait,
        lambda: envs.call("mass"),
        lambda: envs.call_async("mass"),
        envs.call_wait,
        lambda: envs.get_attr("mass"),
        lambda: envs.set_attr("mass", 1),
        lambda: envs.set_attr("mass", [1]),
        envs.render,
        lambda: envs.np_random,
        envs.close,
    ]
    return [outcome(call) for call in calls]


def _wrong_seeds(envs: Any) -> list[Any]:
    seeds: list[Any] = [[1], [1, 2, 3], [], (1,), np.int64(3), "ab c", 1.5]
    return [outcome(envs.reset, seed=seed) for seed in seeds]


def _wrong_attribute_values(envs: Any) -> list[Any]:
    values: list[Any] = [[1], [1, 2, 3], (), (1, 2, 3)]
    return [outcome(envs.set_attr, "mass", value) for value in values]


def _wrong_batches_of_actions(envs: Any) -> list[Any]:
    envs.reset(seed=1)
    return [outcome(envs.step, batch) for batch in (1, np.int64(1), None)]


@pytest.mark.parametrize(
    "scenario",
    [
        _waits_without_calls,
        _waits_for_another_call,
        _second_calls,
        _after_close,
        _wrong_seeds,
        _wrong_attribute_values,
        _wrong_batches_of_actions,
    ],
    ids=lambda scenario: scenario.__name__.strip("_"),
)
def test_the_same_errors(scenario: Scenario, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected = scenario(local_vec("zoo/Members-v0", 2, vectorization_mode="async"))
    actual = scenario(remote_vec("zoo/Members-v0", 2))
    assert len(expected) == len(actual)
    for position, (one, other) in enumerate(zip(expected, actual, strict=True)):
        assert_same(one, other, f"outcome {position}")


MASKS: list[tuple[str, Any]] = [
    ("list", [True, False]),
    ("none", None),
    ("too short", np.array([True])),
    ("too long", np.array([True, False, True])),
    ("two dimensions", np.array([[True, False]])),
    ("integers", np.array([1, 0])),
    ("nothing to reset", np.array([False, False])),
]


@pytest.mark.parametrize("mask", [mask for _, mask in MASKS], ids=[name for name, _ in MASKS])
def test_wrong_masks(mask: Any, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    results: list[Any] = []
    for mode in ("sync", "async", "remote"):
        if mode == "remote":
            envs = remote_vec("zoo/Members-v0", 2, autoreset_mode="Disabled")
        else:
            kwargs = {"autoreset_mode": AutoresetMode.DISABLED, "vectorization_mode": mode}
            envs = local_vec("zoo/Members-v0", 2, **kwargs)
        first, _ = envs.reset(seed=1)
        options = {"reset_mask": mask, "other": 1}
        result = raised(envs.reset, options=options)
        results.append((result, options))
        if mode == "remote":
            assert_same(envs.reset(seed=1)[0], first, "a reset afterwards")
    assert results[0] == results[2]
    assert results[1] == results[2]
    assert results[2][0] is not None


def test_stepping_a_sub_environment_that_ended_and_was_not_reset(
    remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    """As `SyncVectorEnv`: the asynchronous class of gymnasium does not look."""
    results: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make("zoo/Members-v0", 2, autoreset_mode=AutoresetMode.DISABLED)
        envs.reset(seed=1)
        for _ in range(4):
            terminated = envs.step(ACTIONS)[2]
        assert terminated.all()
        envs.reset(options={"reset_mask": np.array([False, True])})
        results.append(raised(envs.step, ACTIONS))
        envs.reset(options={"reset_mask": np.array([True, False])})
        assert_same(envs.step(ACTIONS)[1], np.array([1.0, 1.0]), "a step afterwards")
    assert results[0] is not None
    assert results[0] == results[1]


@pytest.mark.parametrize("batch", [np.array([1]), np.array([1, 1, 1]), [1], (1, 1, 1), []], ids=str)
def test_a_batch_of_the_wrong_size(batch: Any, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    """The message is one of gymnasium's two classes', which name zip's arguments in different order."""
    allowed = []
    for mode in ("sync", "async"):
        envs = local_vec("zoo/Members-v0", 2, vectorization_mode=mode)
        envs.reset(seed=1)
        allowed.append(raised(envs.step, batch))
    envs = remote_vec("zoo/Members-v0", 2)
    envs.reset(seed=1)
    result = raised(envs.step, batch)
    assert result is not None
    assert result in allowed
    # gymnasium's classes have stepped some of theirs by now; here nothing has happened.
    assert envs.step(ACTIONS)[4]["steps"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda envs: envs.call("reset"),
        lambda envs: envs.call("step", 1),
        lambda envs: envs.call("close"),
        lambda envs: envs.call("no_such_member"),
        lambda envs: envs.get_attr("no_such_member"),
        lambda envs: envs.call("weigh"),
        lambda envs: envs.call("weigh", "text", offset=1),
        lambda envs: envs.reset(seed=-1),
        lambda envs: envs.reset(seed=[np.int64(1), 2]),
        lambda envs: envs.reset(seed=["a", "b"]),
        lambda envs: envs.set_attr("double", 1),
    ],
    ids=[
        "call reset",
        "call step",
        "call close",
        "call unknown",
        "get unknown",
        "call without its argument",
        "call with a wrong argument",
        "negative seed",
        "numpy seed",
        "text seed",
        "set a property",
    ],
)
def test_what_sub_environments_refuse(
    misuse: Callable[[Any], Any], remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    """Here gymnasium's workers end; a remote vector environment is as usable as before."""
    reference = local_vec("zoo/Members-v0", 2, vectorization_mode="async")
    envs: Any = remote_vec("zoo/Members-v0", 2)
    for made in (reference, envs):
        # gymnasium's checker never gets over a first reset that fails.
        made.reset(seed=1)
    expected = raised(lambda: misuse(reference))
    assert expected is not None
    assert raised(lambda: misuse(envs)) == expected
    assert envs.call("mass") == (1.5, 1.5)
    assert envs.reset(seed=1)[0].tolist() == [[0, 0], [0, 0]]
    assert envs.step(ACTIONS)[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("mode", ["sometimes", "next_step", 3], ids=str)
def test_an_unknown_autoreset_mode(mode: Any, remote_vec: MakeVec) -> None:
    expected = raised(lambda: SyncVectorEnv([], autoreset_mode=mode))
    assert expected is not None
    assert raised(lambda: remote_vec("CartPole-v1", 2, autoreset_mode=mode)) == expected
