"""What `make` and `make_vec` take beside an id."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_differing_spaces, batch_space
from gymnasium.wrappers import ClipReward, TimeLimit, TransformReward

from megaflow import errors
from zoo.counter import CounterEnv
from zoo.lockstep import vectors_in_lockstep
from zoo.makers import MakeEnv, MakeVec
from zoo.outcomes import raised

ONES = np.array([1, 1])


def _starts(envs: Any) -> list[float]:
    observation, _ = envs.reset(seed=0)
    return [float(row[0]) for row in observation]


def _lengths(envs: Any) -> list[int]:
    """The step at which each sub-environment's first episode ends."""
    envs.reset(seed=0)
    lengths = [0] * envs.num_envs
    for step in range(1, 20):
        *_, terminated, truncated, _ = envs.step(np.ones(envs.num_envs, np.int64))
        for i in np.flatnonzero(terminated | truncated):
            lengths[i] = lengths[i] or step
    return lengths


def test_env_kwargs_reach_every_sub_environment(remote_vec: MakeVec) -> None:
    envs = remote_vec("zoo/Counter-v0", 3, env_kwargs={"start": 5, "goal": 2})
    assert _starts(envs) == [5.0, 5.0, 5.0]
    assert _lengths(envs) == [2, 2, 2]


def test_keywords_reach_every_sub_environment_too(remote_vec: MakeVec, remote: MakeEnv) -> None:
    """So that `gym.make("Id", key=1)` becomes `megaflow.make("Id", key=1)`."""
    assert _starts(remote_vec("zoo/Counter-v0", 2, start=6)) == [6.0, 6.0]
    env = remote("zoo/Counter-v0", start=7)
    assert env.reset()[0][0] == 7.0
    assert remote("zoo/Counter-v0", env_kwargs={"start": 8}).reset()[0][0] == 8.0


def test_per_env_kwargs_are_laid_over_env_kwargs(remote_vec: MakeVec) -> None:
    per_env: list[dict[str, Any]] = [{}, {"start": 1}, {"goal": 4, "note": "third"}]
    envs = remote_vec(
        "zoo/Counter-v0", 3, env_kwargs={"start": 9, "goal": 2}, per_env_kwargs=per_env
    )
    assert _starts(envs) == [9.0, 1.0, 9.0]
    assert envs.reset()[1]["note"].tolist() == ["", "", "third"]
    assert _lengths(envs) == [2, 2, 4]
    assert per_env == [{}, {"start": 1}, {"goal": 4, "note": "third"}]


@pytest.mark.parametrize("count", [1, 3])
def test_per_env_kwargs_of_the_wrong_number(count: int, remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match="per_env_kwargs"):
        remote_vec("zoo/Counter-v0", 2, per_env_kwargs=[{}] * count)


def test_a_list_of_ids_gives_one_sub_environment_each(remote_vec: MakeVec) -> None:
    envs = remote_vec(["zoo/Counter-v0", "zoo/Limited-v0", "zoo/Counter-v0"], None)
    assert envs.num_envs == 3
    assert _lengths(envs) == [5, 6, 5]


def test_a_list_of_ids_and_per_env_kwargs(remote_vec: MakeVec) -> None:
    ids = ["zoo/Counter-v0", "zoo/Limited-v0"]
    envs = remote_vec(ids, None, per_env_kwargs=[{"start": 1}, {"start": 2}])
    assert _starts(envs) == [1.0, 2.0]


def test_a_list_of_ids_against_another_number(remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match="num_envs"):
        remote_vec(["zoo/Counter-v0", "zoo/Limited-v0"], 3)


@pytest.mark.parametrize("num_envs", [0, -1])
def test_too_few_sub_environments(num_envs: int, remote_vec: MakeVec) -> None:
    with pytest.raises(errors.InvalidArgument, match="num_envs"):
        remote_vec("zoo/Counter-v0", num_envs)


def test_an_id_may_import_its_module(remote_vec: MakeVec, remote: MakeEnv) -> None:
    assert remote_vec("zoo:zoo/Counter-v0", 2).reset()[0].shape == (2, 2)
    assert remote("zoo:zoo/Counter-v0").reset()[0].shape == (2,)


def test_names_of_code(remote_vec: MakeVec, remote: MakeEnv) -> None:
    """What a server with --allow-import takes, an embedded one takes too."""
    envs = remote_vec("zoo.counter:CounterEnv", 2, env_kwargs={"start": 3})
    assert _starts(envs) == [3.0, 3.0]
    env = remote("CartPole-v1", wrappers=["gymnasium.wrappers:TimeAwareObservation"])
    assert env.reset()[0].shape == (5,)


def test_classes_functions_and_thunks(remote_vec: MakeVec, remote: MakeEnv) -> None:
    captured = 4

    class Local(CounterEnv):
        """Defined in the test itself, where no import reaches it."""

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            observation, reward, *rest = super().step(action)
            return observation, reward + captured, *rest

    assert remote(CounterEnv, env_kwargs={"start": 3}).reset()[0][0] == 3.0
    envs = remote_vec(Local, 2, env_kwargs={"start": 2})
    assert _starts(envs) == [2.0, 2.0]
    assert envs.step(ONES)[1].tolist() == [5.0, 5.0]
    assert _starts(remote_vec([lambda: Local(start=1), lambda: CounterEnv(start=2)], None)) == [
        1,
        2,
    ]


def test_wrappers_are_applied_in_order_on_the_server(remote_vec: MakeVec, remote: MakeEnv) -> None:
    wrappers = [
        functools.partial(TransformReward, func=lambda reward: 10 * float(reward)),
        functools.partial(ClipReward, max_reward=7.5),
        functools.partial(TimeLimit, max_episode_steps=3),
    ]
    envs = remote_vec("zoo/Counter-v0", 2, wrappers=wrappers)
    assert _lengths(envs) == [3, 3]
    envs.reset()
    assert envs.step(ONES)[1].tolist() == [7.5, 7.5]
    env = remote("zoo/Counter-v0", wrappers=wrappers)
    env.reset()
    assert env.step(1)[1] == 7.5
    assert not any(env.step(1)[2:4])
    assert env.step(1)[2:4] == (False, True)


def test_wrappers_equal_those_of_gymnasium(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    wrappers = [gym.wrappers.TimeAwareObservation, gym.wrappers.FlattenObservation]
    vectors_in_lockstep(
        local_vec("CartPole-v1", 3, wrappers=wrappers),
        remote_vec("CartPole-v1", 3, wrappers=wrappers),
        steps=100,
    )


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_the_autoreset_mode_may_be_a_string(mode: AutoresetMode, remote_vec: MakeVec) -> None:
    logs: list[Any] = []
    for given in (mode, mode.value):
        envs = remote_vec("zoo/Counter-v0", 2, autoreset_mode=given)
        envs.reset(seed=1)
        logs.append([envs.step(ONES)[0].tolist() for _ in range(5)])
    assert logs[0] == logs[1]
    assert logs[0][-1][0][1] == (0 if mode == AutoresetMode.SAME_STEP else 5)


def _differing(observation_mode: Any, per_env: list[dict[str, Any]], id: str) -> SyncVectorEnv:
    makers = [functools.partial(gym.make, id, **kwargs) for kwargs in per_env]
    return SyncVectorEnv(makers, observation_mode=observation_mode)


HIGHS: list[dict[str, Any]] = [{"high": 1.0}, {"high": 2.5}, {"high": 0.5}]
SINGLE = Box(-9.0, 9.0, (2,), np.float32)


@pytest.mark.parametrize(
    "mode", ["different", (batch_space(SINGLE, 3), SINGLE)], ids=["different", "spaces"]
)
def test_observation_modes(mode: Any, remote_vec: MakeVec) -> None:
    expected = _differing(mode, HIGHS, "zoo/Differing-v0")
    actual = remote_vec("zoo/Differing-v0", 3, per_env_kwargs=HIGHS, observation_mode=mode)
    assert expected.single_observation_space == actual.single_observation_space
    vectors_in_lockstep(expected, actual, steps=100)
    if mode == "different":
        spaces = [Box(-k["high"], k["high"], (2,), np.float32) for k in HIGHS]
        assert actual.observation_space == batch_differing_spaces(spaces)


@pytest.mark.parametrize(
    ("mode", "id", "per_env"),
    [
        ("same", "zoo/Differing-v0", HIGHS),
        ("different", "zoo/Misfit-v0", [{}, {"size": 3}, {}]),
        ("same", "zoo/Misfit-v0", [{}, {"actions": 3}, {}]),
        ("different", "zoo/Misfit-v0", [{}, {}, {"actions": 3}]),
        ((batch_space(SINGLE, 3), SINGLE), "zoo/Misfit-v0", [{"size": 4}] * 3),
        ((SINGLE, 1), "zoo/Differing-v0", HIGHS),
        (("a", "b"), "zoo/Differing-v0", HIGHS),
        ((Discrete(2), SINGLE, SINGLE), "zoo/Differing-v0", HIGHS),
        ("unequal", "zoo/Differing-v0", HIGHS),
        (None, "zoo/Differing-v0", HIGHS),
    ],
    ids=[
        "same, and they differ",
        "different, and shapes differ",
        "same, and actions differ",
        "different, and actions differ",
        "a space of another shape",
        "no space",
        "no spaces",
        "three spaces",
        "unknown",
        "none",
    ],
)
def test_observation_modes_that_do_not_fit(
    mode: Any, id: str, per_env: list[dict[str, Any]], remote_vec: MakeVec
) -> None:
    """As `SyncVectorEnv`, whose message names the spaces; where it has none, ours may say more."""
    expected = raised(lambda: _differing(mode, per_env, id))
    assert expected is not None
    actual = raised(lambda: remote_vec(id, 3, per_env_kwargs=per_env, observation_mode=mode))
    assert actual is not None
    assert actual == expected or (actual[0] is expected[0] and not expected[1])


def test_an_unknown_vectorization_mode_names_the_known(remote_vec: MakeVec) -> None:
    with pytest.raises((errors.InvalidArgument, ValueError), match=r"sync.*vector_entry_point"):
        remote_vec("CartPole-v1", 2, vectorization_mode="parallel")


def test_what_an_environment_does_not_take_is_its_own_type_error(
    remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    expected = raised(lambda: local_vec("zoo/Counter-v0", 2, colour="red"))
    assert expected is not None
    assert expected[0] is TypeError
    actual = raised(lambda: remote_vec("zoo/Counter-v0", 2, env_kwargs={"colour": "red"}))
    assert actual is not None
    assert actual[0] is TypeError
    assert "unexpected keyword argument 'colour'" in actual[1]
