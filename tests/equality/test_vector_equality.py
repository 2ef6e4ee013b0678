"""A remote vector environment gives what gymnasium's `SyncVectorEnv` gives, to the last bit and type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import version_sets
from autoreset_modes import id_and_mode
from zoo import CLASSIC, KIND_IDS, TAXI, TOY_TEXT, VARIANT_IDS
from zoo.lockstep import assert_same, vectors_in_lockstep
from zoo.makers import MakeVec

VALUES = ("zoo/Infos-v0", "zoo/EveryStepInfos-v0", "zoo/Scalars-v0", "zoo/Limited-v0")
# Of each kind of space one runs the full thousand steps; variants of the same kind run fewer, as do infos.
FEWER = {*VARIANT_IDS, "zoo/Nested-v0", *VALUES}

# What the versions of dependencies change shows in the first few hundred.
STEPS = 1000 if version_sets.WHOLE else 300
# Of an episode that random actions do not end.
LIMIT = 90 if version_sets.WHOLE else 25

# What one process does by itself, another must do over the wire: these few stand for all of them there.
INLINE = ("CartPole-v1", "zoo/Nested-v0", "zoo/Infos-v0")

# What is slow in gymnasium itself: a random sample, and its comparison.
SLOW = ("zoo/Dict-v0", "zoo/Graph-v0", "zoo/Sequence-v0")

# Random actions end too few of their episodes within a thousand steps.
ENDLESS = {*CLASSIC[1:], TAXI, "CliffWalking-v1"}


@id_and_mode([*CLASSIC, *TOY_TEXT, *KIND_IDS, *VALUES], VARIANT_IDS, long=SLOW)
def test_equal_in_every_autoreset_mode(
    id: str, mode: AutoresetMode, server: str | None, remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    if server == "inline" and id not in INLINE:
        pytest.skip("covered on the embedded server")
    limit = {"max_episode_steps": LIMIT} if id in ENDLESS else {}
    # Five are no multiple of any usual number of workers; zoo environments have more to send.
    num_envs = 3 if id.startswith("zoo/") else 5
    steps = 150 if id in FEWER else STEPS
    ended = vectors_in_lockstep(
        local_vec(id, num_envs, autoreset_mode=mode, **limit),
        remote_vec(id, num_envs, autoreset_mode=mode, **limit),
        steps=steps,
    )
    assert ended >= 12, "too few episodes ended to say anything about autoreset"


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("id", ["CartPole-v1", "zoo/Infos-v0", "zoo/Tuple-v0"])
def test_equal_for_any_number_of_sub_environments(
    id: str, num_envs: int, mode: AutoresetMode, remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    expected = local_vec(id, num_envs, autoreset_mode=mode)
    actual = remote_vec(id, num_envs, autoreset_mode=mode)
    vectors_in_lockstep(expected, actual, steps=200)


@pytest.mark.parametrize("seed", [0, 123456789, [5, 4, 3], [2**40, 0, 7], (1, 2, 3)], ids=str)
def test_equal_for_any_seed(seed: Any, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec("zoo/Infos-v0", 3), remote_vec("zoo/Infos-v0", 3)
    vectors_in_lockstep(expected, actual, steps=30, seed=seed)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low": -0.1, "high": 0.1},
        {
            "pair": (1, [2, None]),
            "array": np.arange(3, dtype=np.int16),
            "scalar": np.float32(1.5),
            "nested": {"text": "ä", "deeper": {}},
        },
    ],
    ids=["empty", "flat", "nested"],
)
def test_options_arrive_as_they_were_sent(
    options: dict[str, Any], remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    expected, actual = local_vec("zoo/Infos-v0", 3), remote_vec("zoo/Infos-v0", 3)
    vectors_in_lockstep(expected, actual, steps=30, options=options)


def test_gymnasiums_own_options_have_their_effect(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec("CartPole-v1", 3), remote_vec("CartPole-v1", 3)
    vectors_in_lockstep(expected, actual, steps=30, options={"low": -0.01, "high": 0.01})


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_equal_where_observations_and_actions_are_of_different_kinds(
    mode: AutoresetMode, remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    kwargs = {"acts": "Nested"}
    expected = local_vec("zoo/Graph-v0", 3, autoreset_mode=mode, **kwargs)
    actual = remote_vec("zoo/Graph-v0", 3, autoreset_mode=mode, env_kwargs=kwargs)
    vectors_in_lockstep(expected, actual, steps=200)


def test_a_reset_between_an_end_and_its_autoreset_cancels_it(
    remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    expected, actual = local_vec("zoo/Counter-v0", 2), remote_vec("zoo/Counter-v0", 2)
    for envs in (expected, actual):
        envs.reset(seed=0)
        for _ in range(4):
            assert not envs.step(np.array([1, 1]))[2].any()
        assert envs.step(np.array([1, 1]))[2].all()
        assert envs.reset()[0][:, 1].tolist() == [0, 0]
        observation, reward, *_ = envs.step(np.array([2, 1]))
        assert observation[:, 1].tolist() == [1, 1]
        assert reward.tolist() == [2.0, 1.0]


def test_masked_resets_take_seeds_and_options(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    mode = AutoresetMode.DISABLED
    expected = local_vec("zoo/Infos-v0", 4, autoreset_mode=mode)
    actual = remote_vec("zoo/Infos-v0", 4, autoreset_mode=mode)
    results: list[Any] = []
    for envs in (expected, actual):
        seeds: Any = [9, 8, 7, None]
        first = envs.reset(seed=1)
        options = {"reset_mask": np.array([True, False, False, True]), "note": "masked"}
        masked = envs.reset(seed=seeds, options=options)
        assert masked[0][1:3].tolist() == first[0][1:3].tolist()
        assert masked[1]["_options"].tolist() == [True, False, False, True]
        results.append([first, masked, options])
    assert_same(results[0], results[1], "masked reset")
