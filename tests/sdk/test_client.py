"""The client, gymnasium's doors to remote environments, and servers that are not one's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation

import megaflow
from commands import SERVE, Served
from leftovers import place
from megaflow import embedded


@pytest.fixture
def address() -> str:
    """A server that is named, as any other would be; here it is the embedded one."""
    return embedded.ensure().address


@pytest.fixture
def registry() -> Iterator[None]:
    """gymnasium's registry as it was, whatever the test registers."""
    before = dict(gym.registry)
    yield
    for env_id in set(gym.registry) - set(before):
        del gym.registry[env_id]


def first_observation(env: gym.Env[Any, Any]) -> Any:
    observation, _ = env.reset(seed=5)
    env.close()
    return observation


def test_gymnasium_makes_remote_environments(address: str) -> None:
    local = first_observation(gym.make("CartPole-v1"))
    by_id = gym.make("megaflow/Remote-v0", env_id="CartPole-v1", server=address)
    assert isinstance(by_id.unwrapped, megaflow.RemoteEnv)
    np.testing.assert_array_equal(first_observation(by_id), local)
    by_module = gym.make("megaflow:megaflow/Remote-v0", env_id="CartPole-v1")
    np.testing.assert_array_equal(first_observation(by_module), local)


@pytest.mark.parametrize("mode", [None, "vector_entry_point", "sync"])
def test_gymnasium_makes_remote_vector_environments(address: str, mode: str | None) -> None:
    envs = gym.make_vec(
        "megaflow/Remote-v0", 3, vectorization_mode=mode, env_id="CartPole-v1", server=address
    )
    assert isinstance(envs.unwrapped, megaflow.RemoteVectorEnv) == (mode != "sync")
    local = gym.make_vec("CartPole-v1", 3, vectorization_mode="sync")
    np.testing.assert_array_equal(envs.reset(seed=5)[0], local.reset(seed=5)[0])
    envs.close()
    local.close()


def test_gymnasium_passes_the_options_on(address: str) -> None:
    envs = gym.make_vec(
        "megaflow/Remote-v0",
        2,
        env_id="CartPole-v1",
        server=address,
        env_vectorization_mode="vector_entry_point",
        max_episode_steps=7,
    )
    native = gym.make_vec(
        "CartPole-v1", 2, vectorization_mode="vector_entry_point", max_episode_steps=7
    )
    np.testing.assert_array_equal(envs.reset(seed=5)[0], native.reset(seed=5)[0])
    envs.close()
    native.close()
    assert envs.spec is not None
    again = gym.make_vec(envs.spec)
    assert again.num_envs == 2
    assert repr(again) == "RemoteVectorEnv(CartPole-v1, num_envs=2)"
    again.close()


@pytest.mark.usefixtures("registry")
def test_a_whole_server_is_registered(address: str) -> None:
    with megaflow.Client(address) as client:
        catalogue = {info.id: info for info in client.envs()}
        assert catalogue["CartPole-v1"].max_episode_steps == 500
        assert catalogue["CartPole-v1"].vector_entry_point
        ids = client.register_envs("elsewhere")
        assert client.register_envs("elsewhere") == ids  # the same again is no collision
    assert "elsewhere/CartPole-v1" in ids
    assert "elsewhere/phys2d-CartPole-v1" in ids  # gymnasium has one namespace
    env = gym.make("elsewhere/CartPole-v1")
    assert isinstance(env.unwrapped, megaflow.RemoteEnv)
    assert env.spec is not None
    assert env.spec.reward_threshold == 475.0
    env.close()


@pytest.mark.usefixtures("registry")
def test_a_collision_registers_nothing(address: str) -> None:
    gym.register("taken/CartPole-v1", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    before = set(gym.registry)
    with (
        megaflow.Client(address) as client,
        pytest.raises(megaflow.InvalidArgument, match=r"taken/CartPole-v1.*another namespace"),
    ):
        client.register_envs("taken")
    assert set(gym.registry) == before


def test_a_client_makes_environments_that_outlive_it(address: str) -> None:
    with megaflow.Client(address) as client:
        env = client.make("CartPole-v1")
        envs = client.make_vec("CartPole-v1", 2)
    env.reset()
    envs.reset()
    env.close()
    envs.close()
    with pytest.raises(megaflow.FailedPrecondition, match="closed"):
        client.envs()


def test_the_environment_variable_names_the_server(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGAFLOW_SERVER", address)
    with pytest.raises(megaflow.InvalidArgument, match="MEGAFLOW_SERVER"):
        megaflow.make(FlattenObservation)  # a named server takes names
    monkeypatch.setenv("MEGAFLOW_SERVER", "localhost:1")
    with pytest.raises(megaflow.Unavailable, match="localhost:1"):
        megaflow.make("CartPole-v1")


@pytest.mark.parametrize(
    "make",
    [
        lambda server: megaflow.make("CartPole-v1", server=server),
        lambda server: megaflow.make_vec("CartPole-v1", 2, server=server),
        lambda server: megaflow.Client(server),
        lambda server: gym.make("megaflow/Remote-v0", env_id="CartPole-v1", server=server),
    ],
)
def test_nobody_there_is_said_within_five_seconds(make: Any) -> None:
    start = time.monotonic()
    with pytest.raises(megaflow.Unavailable) as caught:
        make("127.0.0.1:1")
    assert time.monotonic() - start < 5.0
    for part in ("127.0.0.1:1", "refused", "megaflow serve"):
        assert part in str(caught.value)


def test_a_named_server_takes_names_of_wrappers(address: str) -> None:
    env = megaflow.make(
        "CartPole-v1", server=address, wrappers=["gymnasium.wrappers:FlattenObservation"]
    )
    env.close()
    with pytest.raises(megaflow.InvalidArgument) as caught:
        megaflow.make("CartPole-v1", server=address, wrappers=[FlattenObservation])
    assert "wrappers[0]" in str(caught.value)
    assert "FlattenObservation" in str(caught.value)


def test_the_spec_holds_no_more_than_it_was_given(address: str) -> None:
    env = megaflow.make("CartPole-v1", server=address, max_episode_steps=3)
    assert env.spec is not None
    assert env.spec.kwargs == {
        "env_id": "CartPole-v1",
        "env_kwargs": {"max_episode_steps": 3},
        "server": address,
    }
    again = gym.make(env.spec)
    again.reset()
    assert [again.step(0)[3] for _ in range(3)] == [False, False, True]
    again.close()
    env.close()


def test_attributes_are_set_where_the_environment_is() -> None:
    env, local = megaflow.make("CartPole-v1"), gym.make("CartPole-v1")
    for one in (env, local):
        one.reset(seed=1)
        one.unwrapped.state = np.array([1.0, 0.0, 0.0, 0.0])  # type: ignore[attr-defined]
        one.unwrapped.gravity = 0.0  # type: ignore[attr-defined]
    assert env.get_wrapper_attr("gravity") == 0.0
    np.testing.assert_array_equal(env.step(0)[0], local.step(0)[0])
    env.close()
    local.close()


@pytest.mark.long
def test_a_server_that_has_gone_is_told_with_the_way_out() -> None:
    with place() as here:
        served = Served(here.start(*SERVE, "--listen", f"unix:{here.folder}/g.sock"), 1)
        env = megaflow.make("CartPole-v1", server=served.addresses[0])
        env.reset()
        served.process.kill()
        served.process.communicate()
        with pytest.raises(megaflow.SessionLost):
            env.step(0)
        with pytest.raises(megaflow.Unavailable, match=r"does not answer any more.*megaflow serve"):
            env.reset()
        again = Served(here.start(*SERVE, "--listen", f"unix:{here.folder}/g.sock"), 1)
        # gRPC may wait for a while before it connects once more.
        deadline = time.monotonic() + 30
        while True:
            try:
                env.reset()
                break
            except megaflow.Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        env.step(0)
        env.close()
        assert again.end() == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"env_kwargs": [1]}, "env_kwargs"),
        ({"per_env_kwargs": [1, 2]}, r"per_env_kwargs\[0\]"),
        ({"wrappers": FlattenObservation}, "wrappers"),
        ({"wrappers": "gymnasium.wrappers:FlattenObservation"}, "wrappers"),
        ({"lost_reward": "a"}, "lost_reward"),
    ],
)
def test_options_of_the_wrong_type_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(megaflow.InvalidArgument, match=f"^{name}="):
        megaflow.make_vec("CartPole-v1", 2, **options)
