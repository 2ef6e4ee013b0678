"""What a server is handed for what a user writes, and what a server of names is not handed."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from megaflow.connection import Connection
from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space
from megaflow.specs import environment_spec
from zoo.counter import CounterEnv


class Store:
    """Keeps what it is given under its path."""

    def __init__(self) -> None:
        self.things: dict[str, object] = {}

    def put(self, thing: object, *, path: str) -> str:
        self.things[path] = thing
        return path


class Server:
    """The part of a connection that descriptions depend on."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.code_policy = pb.CODE_POLICY_EMBEDDED if store else pb.CODE_POLICY_REGISTERED


def describe(server: Server, env: Any, *, num_envs: int = 0, **options: Any) -> pb.EnvironmentSpec:
    options.setdefault("env_kwargs", None)
    return environment_spec(cast("Connection", server), env, num_envs=num_envs, **options)


@pytest.fixture
def remote() -> Server:
    return Server(None)


@pytest.fixture
def embedded() -> Server:
    return Server(Store())


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    ids: list[str] = []

    def add(entry_point: Any = "zoo.counter:CounterEnv", **options: Any) -> str:
        ids.append(f"sdk/Own{len(ids)}-v0")
        gym.register(ids[-1], entry_point=entry_point, **options)
        return ids[-1]

    yield add
    for env_id in ids:
        del gym.registry[env_id]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("env_id", ["Unknown-v0", "module:Env-v0", "package.module:make"])
def test_names_go_as_names(env_id: str, remote: Server, embedded: Server) -> None:
    for server in (remote, embedded):
        assert describe(server, env_id).makers == [pb.Maker(id=env_id)]


def test_an_id_of_this_script_takes_its_definition_along(
    remote: Server, embedded: Server, register: Callable[..., str]
) -> None:
    env_id = register(max_episode_steps=7)
    definition = gym.spec(env_id).to_json()
    # An embedded server is its user's: it takes the user's definition.
    assert describe(embedded, env_id).makers == [pb.Maker(env_spec=definition)]
    # Somebody else's has its own idea of an id, and takes that first.
    assert describe(remote, env_id).makers == [pb.Maker(env_spec=definition, known_as=env_id)]


@pytest.mark.parametrize(
    "kwargs", [{"size": (3, 4)}, {"table": np.zeros(2)}, {"by_number": {1: "one"}}], ids=str
)
def test_a_definition_that_json_would_change_goes_as_it_is(
    kwargs: dict[str, Any], remote: Server, embedded: Server, register: Callable[..., str]
) -> None:
    env_id = register(kwargs=kwargs)
    (maker,) = describe(embedded, env_id).makers
    assert maker.WhichOneof("kind") == "code"
    assert embedded.store is not None
    assert embedded.store.things[maker.code] is gym.spec(env_id)
    (maker,) = describe(remote, env_id).makers
    assert env_id in (maker.id, maker.known_as)


def test_an_id_registered_with_a_function(
    remote: Server, embedded: Server, register: Callable[..., str]
) -> None:
    env_id = register(lambda: CounterEnv())
    (maker,) = describe(embedded, env_id).makers
    assert embedded.store is not None
    assert embedded.store.things[maker.code] is gym.spec(env_id)
    assert describe(remote, env_id).makers == [pb.Maker(id=env_id)]


def test_a_spec_of_the_users_own_is_not_taken_for_the_registered_one(
    remote: Server, embedded: Server
) -> None:
    spec = copy.deepcopy(gym.spec("CartPole-v1"))
    assert describe(remote, spec).makers[0].known_as == "CartPole-v1"
    spec.max_episode_steps = 7
    for server in (remote, embedded):
        (maker,) = describe(server, spec).makers
        assert maker.known_as == ""
        assert EnvSpec.from_json(maker.env_spec).max_episode_steps == 7


# ---------------------------------------------------------------- callables


@pytest.mark.parametrize(
    ("thing", "hint"),
    [
        (CounterEnv, ', here "zoo.counter:CounterEnv"'),
        (lambda: CounterEnv(), None),
        (functools.partial(CounterEnv, goal=3), None),
    ],
    ids=["class", "lambda", "partial"],
)
def test_callables_are_for_embedded_servers(
    thing: Any, hint: str | None, remote: Server, embedded: Server
) -> None:
    assert describe(embedded, thing).makers == [pb.Maker(code="env_id")]
    assert embedded.store is not None
    assert embedded.store.things["env_id"] is thing
    with pytest.raises(InvalidArgument) as caught:
        describe(remote, thing)
    message = caught.value.message
    assert message.startswith("env_id=")
    assert "leave server= and $MEGAFLOW_SERVER unset" in message
    assert "pass an id, or `module:attribute`" in message
    assert (hint or ", with the module installed on the server") in message


def test_wrappers(remote: Server, embedded: Server) -> None:
    named = WrapperSpec("TimeLimit", "gymnasium.wrappers:TimeLimit", {"max_episode_steps": 3})
    kwargs = values.encode({"max_episode_steps": 3})
    for server in (remote, embedded):
        spec = describe(server, "X-v0", wrappers=["module:Wrapper", named])
        assert spec.wrappers == [
            pb.Maker(id="module:Wrapper"),
            pb.Maker(id="gymnasium.wrappers:TimeLimit", kwargs=kwargs),
        ]
    assert describe(embedded, "X-v0", wrappers=[TimeLimit]).wrappers == [
        pb.Maker(code="wrappers[0]")
    ]
    with pytest.raises(
        InvalidArgument, match=r"^wrappers\[1\]=.*WrapperSpec where it takes arguments"
    ):
        describe(remote, "X-v0", wrappers=["m:W", TimeLimit])


@pytest.mark.parametrize("env", [None, 3, b"CartPole-v1", {"id": "CartPole-v1"}])
def test_what_is_no_environment(env: Any, remote: Server, embedded: Server) -> None:
    for server in (remote, embedded):
        with pytest.raises(InvalidArgument, match="is neither an environment's id nor an EnvSpec"):
            describe(server, env)


@pytest.mark.parametrize("wrapper", [None, 3, {"id": "x"}])
def test_what_is_no_wrapper(wrapper: Any, remote: Server, embedded: Server) -> None:
    for server in (remote, embedded):
        with pytest.raises(
            InvalidArgument, match=r"wrappers\[0\]=.* is neither a `module:attribute`"
        ):
            describe(server, "X-v0", wrappers=[wrapper])


# ---------------------------------------------------------------- arguments


def test_arguments_go_as_values_and_else_as_code(remote: Server, embedded: Server) -> None:
    plain = {"size": (3, 4), "table": np.arange(3)}
    for server in (remote, embedded):
        (maker,) = describe(server, "X-v0", env_kwargs=plain).makers
        assert values.decode(maker.kwargs)["size"] == (3, 4)
        assert maker.kwargs_code == ""
    odd = {"outer": [threading.Event]}
    (maker,) = describe(embedded, "X-v0", env_kwargs=odd).makers
    assert maker.kwargs_code == "env_kwargs"
    with pytest.raises(InvalidArgument, match=r"env_kwargs\['outer'\]\[0\]"):
        describe(remote, "X-v0", env_kwargs=odd)


def test_arguments_of_each_are_laid_over_those_of_all(remote: Server) -> None:
    spec = describe(
        remote,
        "X-v0",
        num_envs=3,
        env_kwargs={"a": 1, "b": 2},
        per_env_kwargs=[{}, {"b": 3}, {"c": 4}],
    )
    kwargs = [values.decode(maker.kwargs) for maker in spec.makers]
    assert kwargs == [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 4}]
    with pytest.raises(InvalidArgument, match=r"per_env_kwargs\[1\]\['b'\]"):
        describe(remote, "X-v0", num_envs=2, per_env_kwargs=[{}, {"b": object()}])


def test_a_list_of_environments_is_one_for_each(remote: Server) -> None:
    spec = describe(remote, ["X-v0", "Y-v0"], num_envs=2, env_kwargs={"a": 1})
    assert [maker.id for maker in spec.makers] == ["X-v0", "Y-v0"]
    with pytest.raises(InvalidArgument, match=r"^env_id\[1\]="):
        describe(remote, ["X-v0", CounterEnv], num_envs=2)


# ---------------------------------------------------------------- the rest


def test_options_of_a_vector(remote: Server) -> None:
    spec = describe(remote, "X-v0", num_envs=4, autoreset=AutoresetMode.SAME_STEP)
    assert (spec.num_envs, spec.vectorization_mode) == (4, "sync")
    assert (spec.autoreset_mode, spec.observation_mode) == ("SameStep", "same")
    assert len(spec.makers) == 1


def test_a_custom_observation_mode_sends_the_single_space(remote: Server) -> None:
    single = gym.spaces.Box(0, 1, (2,))
    batched = gym.spaces.Box(0, 1, (4, 2))
    spec = describe(remote, "X-v0", num_envs=4, observation_mode=(batched, single))
    assert spec.observation_mode == "custom"
    assert decode_space(spec.single_observation_space) == single


def test_import_paths_are_for_embedded_servers(remote: Server, embedded: Server) -> None:
    assert describe(remote, "X-v0").import_paths == []
    assert describe(embedded, "X-v0").import_paths
