"""A remote environment gives what `gym.make` gives, to the last bit and type."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from zoo import CLASSIC, SPACE_IDS, TAXI, TOY_TEXT
from zoo.lockstep import assert_same, difference, envs_in_lockstep
from zoo.makers import MakeEnv

VALUES = ("zoo/Infos-v0", "zoo/EveryStepInfos-v0", "zoo/Scalars-v0", "zoo/Limited-v0")


@pytest.mark.parametrize("id", [*CLASSIC, *TOY_TEXT, *SPACE_IDS, *VALUES])
def test_equal_over_episodes(id: str, remote: MakeEnv, local: MakeEnv) -> None:
    limit = {"max_episode_steps": 90} if id in CLASSIC or id in TOY_TEXT else {}
    ended = envs_in_lockstep(local(id, **limit), remote(id, **limit), steps=150)
    assert ended >= 1


@pytest.mark.parametrize(
    "id", ["CartPole-v1", "Pendulum-v1", *TOY_TEXT, *SPACE_IDS, "zoo/Rendering-v0"]
)
def test_the_checker_passes(id: str, remote: MakeEnv) -> None:
    if gym.spec(id).entry_point and "classic" in str(gym.spec(id).entry_point):
        pytest.importorskip("pygame")
    with warnings.catch_warnings():
        # What it recommends about bounds is the environment's affair.
        warnings.filterwarnings("ignore", message=".*Box (action|observation) space.*")
        # Toy-text environments draw with pygame; frames are compared elsewhere.
        check_env(remote(id).unwrapped, skip_render_check=id in TOY_TEXT)


@pytest.mark.parametrize(
    "id", ["CartPole-v1", TAXI, "Blackjack-v1", "zoo/Nested-v0", "zoo/Rendering-v0"]
)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"], ids=str)
def test_environments_match(
    id: str, render_mode: str | None, remote: MakeEnv, local: MakeEnv
) -> None:
    env_match = pytest.importorskip("gymnasium.utils.env_match")
    if render_mode is not None:
        if not id.startswith("zoo/"):
            pytest.importorskip("pygame")
        if render_mode not in gym.make(id).metadata["render_modes"]:
            pytest.skip(f"{id} draws nothing")
    one, other = local(id, render_mode=render_mode), remote(id, render_mode=render_mode)
    env_match.check_environments_match(one, other, num_steps=60, seed=3)


def test_types_of_reward_and_flags(remote: MakeEnv) -> None:
    env = remote("zoo/Scalars-v0")
    env.reset(seed=1)
    rewards, flags = set(), set()
    for _ in range(30):
        _, reward, terminated, truncated, _ = env.step(np.int64(0))
        rewards.add(type(reward))
        flags |= {type(terminated), type(truncated)}
        if terminated or truncated:
            env.reset()
    assert rewards == {int, float, np.float32, np.float64, np.int64, bool}
    assert flags == {bool, np.bool_}


@pytest.mark.parametrize("id", ["CartPole-v1", "Blackjack-v1", "zoo/Rendering-v0", *SPACE_IDS[:3]])
def test_attributes_equal(id: str, remote: MakeEnv, local: MakeEnv) -> None:
    one, other = local(id), remote(id)
    assert isinstance(other, gym.Env)
    assert one.observation_space == other.observation_space
    assert one.action_space == other.action_space
    assert one.render_mode == other.render_mode
    # "human" is done on this side, by gymnasium's wrapper, and is no mode of a remote environment.
    modes = [mode for mode in one.metadata["render_modes"] if mode != "human"]
    expected = {**one.metadata, "render_modes": modes}
    # gymnasium 1.2's SyncVectorEnv writes its mode into the metadata of the environment's class.
    expected.pop("autoreset_mode", None)
    assert other.metadata == expected
    assert other.unwrapped.unwrapped is other.unwrapped


def test_spec_can_be_made_again(remote: MakeEnv) -> None:
    env = remote("CartPole-v1")
    assert env.spec is not None
    again = gym.make(env.spec)
    try:
        env.reset(seed=4)
        again.reset(seed=4)
        assert_same(env.step(1), again.step(1), "a step of what the spec makes")
    finally:
        again.close()


@pytest.mark.parametrize("id", ["CartPole-v1", "zoo/Box-v0"])
def test_generators_equal(id: str, remote: MakeEnv, local: MakeEnv) -> None:
    one, other = local(id), remote(id)
    for env in (one, other):
        env.reset(seed=17)
        env.step(env.action_space.sample() if id == "CartPole-v1" else np.zeros(3, np.float32))
    assert one.unwrapped.np_random_seed == other.unwrapped.np_random_seed == 17
    generators = [env.unwrapped.np_random for env in (one, other)]
    assert generators[0].bit_generator.state == generators[1].bit_generator.state


@pytest.mark.parametrize("seed", [-1, 1.5, "text", np.int64(3)], ids=repr)
def test_wrong_seeds(seed: Any, remote: MakeEnv, local: MakeEnv) -> None:
    errors = []
    for env in (local("CartPole-v1"), remote("CartPole-v1")):
        with pytest.raises(gym.error.Error) as caught:
            env.reset(seed=seed)
        errors.append((caught.type, str(caught.value)))
        env.reset(seed=1)
    assert errors[0] == errors[1]


def test_order_is_enforced_as_it_is_locally(remote: MakeEnv, local: MakeEnv) -> None:
    errors = []
    for make in (local, remote):
        env = make("CartPole-v1")
        with pytest.raises(gym.error.ResetNeeded) as caught:
            env.step(0)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("id", "mode"),
    [
        ("CartPole-v1", "rgb_array"),
        ("CartPole-v1", "rgb_array_list"),
        (TAXI, "ansi"),
        ("FrozenLake-v1", "ansi"),
        ("zoo/Rendering-v0", "rgb_array"),
        ("zoo/Rendering-v0", "rgb_array_list"),
        ("zoo/Rendering-v0", "ansi"),
        ("zoo/Rendering-v0", "ansi_list"),
    ],
)
def test_frames_equal(id: str, mode: str, remote: MakeEnv, local: MakeEnv) -> None:
    if mode.startswith("rgb") and not id.startswith("zoo/"):
        pytest.importorskip("pygame")
    logs: list[Any] = []
    for make in (local, remote):
        env = make(id, render_mode=mode)
        assert env.render_mode == mode
        env.reset(seed=2)
        log = [env.render()]
        for _ in range(3):
            env.step(1)
        log += [env.render(), env.render()]
        logs.append(log)
    assert_same(logs[0], logs[1], "frames")


@pytest.mark.requires("pygame")
@pytest.mark.filterwarnings("ignore:.*HumanRendering wrapper is being applied.*")
def test_human_rendering_happens_here(remote: MakeEnv) -> None:
    wrapped = gym.wrappers.HumanRendering(remote("zoo/Rendering-v0", render_mode="rgb_array"))
    wrapped.reset(seed=1)
    wrapped.step(1)
    assert wrapped.window is not None
    asked_for = remote("zoo/Rendering-v0", render_mode="human")
    assert asked_for.render_mode == "human"
    asked_for.reset(seed=1)
    asked_for.step(1)
    assert asked_for.get_wrapper_attr("window") is not None


@pytest.mark.requires("moviepy")
def test_videos(remote: MakeEnv, tmp_path: Path) -> None:
    env: Any = gym.wrappers.RecordVideo(
        remote("zoo/Rendering-v0", render_mode="rgb_array"),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
    )
    for _ in range(2):
        env.reset()
        while not any(env.step(1)[2:4]):
            pass
    env.close()
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2


def test_members(remote: MakeEnv, local: MakeEnv) -> None:
    logs: list[Any] = []
    for env in (local("zoo/Members-v0"), remote("zoo/Members-v0")):
        env.reset(seed=1)
        names = ("mass", "label", "table", "nothing", "double")
        log: list[Any] = [env.get_wrapper_attr(name) for name in names]
        log += [env.has_wrapper_attr("mass"), env.has_wrapper_attr("no_such_member")]
        log.append(env.get_wrapper_attr("echo")(1, np.float32(2), key=(3, [4])))
        env.set_wrapper_attr("mass", 4.0)
        log.append(env.get_wrapper_attr("weigh")(2.0, offset=1.0))
        log.append(env.get_wrapper_attr("mass"))
        with pytest.raises(AttributeError):
            env.get_wrapper_attr("no_such_member")
        logs.append(log)
    assert difference(logs[0], logs[1]) is None


def test_a_wrapper_here_and_a_wrapper_there(remote: MakeEnv, local: MakeEnv) -> None:
    one = gym.wrappers.RecordEpisodeStatistics(local("zoo/Counter-v0"))
    other = gym.wrappers.RecordEpisodeStatistics(remote("zoo/Counter-v0"))
    for env in (one, other):
        env.reset(seed=1)
    for _ in range(5):
        left, right = one.step(1), other.step(1)
    assert left[4]["episode"]["r"] == right[4]["episode"]["r"] == 5.0
    assert left[4]["episode"]["l"] == right[4]["episode"]["l"] == 5


def test_close_is_idempotent(remote: MakeEnv) -> None:
    env = remote("zoo/Counter-v0")
    env.reset()
    env.close()
    env.close()
    with remote("zoo/Counter-v0") as entered:
        entered.reset()
