"""A remote vector environment has what gymnasium's own vector classes have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv

import zoo
from zoo.lockstep import assert_same
from zoo.makers import MakeVec
from zoo.outcomes import outcome

Vector = VectorEnv[Any, Any, Any]


@pytest.mark.parametrize("id", ["CartPole-v1", "Blackjack-v1", *zoo.SPACE_IDS])
def test_spaces_equal(id: str, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec(id, 3), remote_vec(id, 3)
    names = (
        "single_observation_space",
        "single_action_space",
        "observation_space",
        "action_space",
    )
    for name in names:
        one, other = getattr(expected, name), getattr(actual, name)
        assert isinstance(other, Space)
        assert type(one) is type(other)
        assert one == other, name
        assert repr(one) == repr(other), name
        one.seed(3)
        other.seed(3)
        assert_same(one.sample(), other.sample(), f"sample of {name}")


@pytest.mark.parametrize("id", ["CartPole-v1", "zoo/Rendering-v0", "zoo/Counter-v0"])
def test_metadata_equal(id: str, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec(id, 2), remote_vec(id, 2)
    assert_same(dict(expected.metadata), dict(actual.metadata), "metadata")


@pytest.mark.parametrize("given", [*AutoresetMode, *(mode.value for mode in AutoresetMode)])
def test_the_autoreset_mode_is_an_enum_in_metadata_and_attribute(
    given: AutoresetMode | str, remote_vec: MakeVec
) -> None:
    envs: Any = remote_vec("CartPole-v1", 2, autoreset_mode=given)
    assert envs.metadata["autoreset_mode"] is AutoresetMode(given)
    assert envs.autoreset_mode is AutoresetMode(given)


def test_metadata_is_the_instances_own(remote_vec: MakeVec) -> None:
    one = remote_vec("CartPole-v1", 2, autoreset_mode="SameStep")
    other = remote_vec("CartPole-v1", 2, autoreset_mode="Disabled")
    assert one.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    one.metadata["new"] = 1
    assert "new" not in other.metadata


def test_attributes(remote_vec: MakeVec) -> None:
    envs = remote_vec("CartPole-v1", 3)
    assert isinstance(envs, VectorEnv)
    assert envs.num_envs == 3
    assert envs.render_mode is None
    assert envs.closed is False
    assert envs.unwrapped is envs
    assert envs.spec is not None
    assert repr(envs) == "RemoteVectorEnv(CartPole-v1, num_envs=3)"
    rendering = remote_vec("CartPole-v1", 1, render_mode="rgb_array")
    assert rendering.render_mode == "rgb_array"


def test_close_is_idempotent_and_shows(remote_vec: MakeVec) -> None:
    envs = remote_vec("CartPole-v1", 2)
    envs.close()
    assert envs.closed is True
    envs.close()
    assert envs.closed is True
    never_reset: Any = remote_vec("CartPole-v1", 2)
    never_reset.close(timeout=5, terminate=False)
    terminated: Any = remote_vec("CartPole-v1", 2)
    terminated.reset()
    terminated.close(terminate=True)
    assert terminated.closed is True


@pytest.mark.parametrize("seed", [11, [3, 1, 2]], ids=str)
def test_generators_equal(seed: Any, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec("zoo/Box-v0", 3), remote_vec("zoo/Box-v0", 3)
    for envs in (expected, actual):
        envs.reset(seed=seed)
        envs.step(np.zeros((3, 3), np.float32))
    assert_same(expected.np_random_seed, actual.np_random_seed, "np_random_seed")
    generators: Any = actual.np_random
    assert isinstance(generators, tuple)
    assert all(isinstance(generator, np.random.Generator) for generator in generators)
    reference: Any = expected.np_random
    for one, other in zip(reference, generators, strict=True):
        assert one.bit_generator.state == other.bit_generator.state
        assert one.random() == other.random()


def test_unseeded_sub_environments_differ(remote_vec: MakeVec) -> None:
    envs = remote_vec("zoo/Box-v0", 4)
    observation, _ = envs.reset()
    assert len({row.tobytes() for row in observation}) == 4
    seeds: Any = envs.np_random_seed
    assert len(set(seeds)) == 4


def test_final_observation_and_info_in_same_step_mode(remote_vec: MakeVec) -> None:
    kwargs: list[dict[str, Any]] = [{"goal": 2, "start": 1}, {"goal": 3, "start": 2}]
    envs = remote_vec("zoo/Counter-v0", 2, per_env_kwargs=kwargs, autoreset_mode="SameStep")
    envs.reset(seed=0)
    assert "final_obs" not in envs.step(np.array([1, 1]))[4]
    observation, reward, terminated, truncated, infos = envs.step(np.array([1, 2]))
    assert observation.tolist() == [[1.0, 0.0], [2.0, 2.0]]
    assert reward.tolist() == [1.0, 2.0]
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [False, False]
    final = infos["final_obs"]
    assert final.dtype == object
    assert_same(np.array([1, 2], np.float32), final[0], "final_obs[0]")
    assert final[1] is None
    assert infos["_final_obs"].tolist() == [True, False]
    assert_same(np.array([2, 0]), infos["final_info"]["steps"], "final_info")
    assert infos["final_info"]["_steps"].tolist() == [True, False]
    assert infos["_final_info"].tolist() == [True, False]
    assert infos["_note"].tolist() == [True, False]
    assert infos["steps"].tolist() == [0, 2]


def test_an_empty_final_info_is_there_with_its_mask(remote_vec: MakeVec) -> None:
    envs = remote_vec("zoo/Box-v0", 2, autoreset_mode="SameStep")
    envs.reset(seed=3)
    for _ in range(200):
        *_, terminated, truncated, infos = envs.step(np.zeros((2, 3), np.float32))
        done = terminated | truncated
        if done.any():
            assert infos["final_info"] == {}
            assert infos["_final_info"].tolist() == done.tolist()
            return
    pytest.fail("no episode ended")


def test_returned_arrays_are_the_callers_own(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    expected, actual = local_vec("CartPole-v1", 2), remote_vec("CartPole-v1", 2)
    expected.reset(seed=1)
    kept, _ = actual.reset(seed=1)
    kept[:] = 7.0
    previous: Any = None
    for step in range(60):
        action = np.array([step % 2, 1])
        one, other = expected.step(action), actual.step(action)
        for name, left, right in zip("orut", one[:4], other[:4], strict=True):
            assert_same(left, right, f"step {step}, {name}")
        if previous is not None:
            for before, now in zip(previous, other[:4], strict=True):
                assert not np.shares_memory(before, now)
        for array in other[:4]:
            array.fill(1)
        previous = other[:4]
    assert (kept == 7.0).all()


def test_what_the_caller_writes_into_an_observation_stays_out_of_a_masked_reset(
    remote_vec: MakeVec,
) -> None:
    envs = remote_vec("zoo/Counter-v0", 2, autoreset_mode="Disabled")
    observation, _ = envs.reset(seed=1)
    observation[:] = 50.0
    mask = {"reset_mask": np.array([True, False])}
    assert envs.reset(options=mask)[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_infos_of_one_call_are_not_those_of_the_next(remote_vec: MakeVec) -> None:
    envs = remote_vec("zoo/Counter-v0", 2)
    envs.reset(seed=0)
    first = envs.step(np.array([1, 1]))[4]
    second = envs.step(np.array([1, 1]))[4]
    assert first["steps"].tolist() == [1, 1]
    assert second["steps"].tolist() == [2, 2]
    first["steps"][:] = 9
    assert envs.step(np.array([1, 1]))[4]["steps"].tolist() == [3, 3]


def test_a_batch_of_actions_may_be_of_any_type(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    """A batch may be an array of another dtype, or a list or tuple: sub-environments get the same."""
    batches: list[Any] = [
        np.array([1, 0], np.int32),
        np.array([1, 2], np.uint8),
        [1, 2],
        (np.int64(2), 0),
        np.array([1.0, 2.0]),
        np.array([[1], [2]]),
    ]
    for batch in batches:
        results: list[Any] = []
        for envs in (local_vec("zoo/Discrete-v0", 2), remote_vec("zoo/Discrete-v0", 2)):
            envs.reset(seed=1)
            results.append(outcome(envs.step, batch))
        assert_same(results[0], results[1], f"step({batch!r})")


def test_members(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    results: list[Any] = []
    for envs in (local_vec("zoo/Members-v0", 3), remote_vec("zoo/Members-v0", 3)):
        any_envs: Any = envs
        envs.reset(seed=1)
        log = [
            any_envs.get_attr(name)
            for name in ("mass", "label", "table", "nothing", "double", "_secret", "render_mode")
        ]
        log.append(any_envs.call("echo", 1, np.float32(2), (3, [4]), key={"a": None}))
        log.append(any_envs.call("weigh", 2.0, offset=1.0))
        log.append(any_envs.call("mass"))
        any_envs.set_attr("mass", [1, 2.5, np.float64(3)])
        log.append(any_envs.get_attr("mass"))
        any_envs.set_attr("mass", (4, 5, 6))
        log.append(any_envs.call("weigh", 1))
        any_envs.set_attr("mass", 9)
        log.append(any_envs.get_attr("double"))
        any_envs.set_attr("table", {"array": np.arange(2)})
        log.append(any_envs.get_attr("table"))
        any_envs.set_attr("made_up", "text")
        log.append(any_envs.get_attr("made_up"))
        log.extend([any_envs.call("bump"), any_envs.call("bump"), any_envs.call("draw")])
        results.append(log)
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        assert_same(one, other, "result of a member")


@pytest.mark.parametrize("id", ["CartPole-v1", "zoo/Rendering-v0"])
def test_frames_equal(id: str, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    if id.startswith("CartPole"):
        pytest.importorskip("pygame")
    results: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make(id, 2, render_mode="rgb_array")
        envs.reset(seed=1)
        frames = [envs.render()]
        envs.step(np.array([0, 1]))
        frames.append(envs.render())
        results.append(frames)
    assert_same(results[0], results[1], "frames")
    assert isinstance(results[1][0], tuple)


def test_text_frames_equal(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    results: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make("zoo/Rendering-v0", 2, render_mode="ansi")
        envs.reset(seed=1)
        envs.step(np.array([0, 1]))
        results.append(envs.render())
    assert_same(results[0], results[1], "frames")


def test_render_without_a_mode_gives_what_it_gives_locally(
    remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    results: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make("zoo/Rendering-v0", 2)
        envs.reset(seed=1)
        results.append(outcome(envs.render)[:2])
    assert results[0] == results[1] == ("returned", (None, None))
