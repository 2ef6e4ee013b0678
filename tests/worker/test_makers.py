"""What a worker makes of a description: as far as its code policy goes, and with a way out where it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from megaflow import errors
from megaflow.code import CodeFolder
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow_server.worker.makers import MakerResolver, catalogue
from megaflow_server.worker.verbs import make_host
from worker_rig import ODD, PATIENCE, OddEnv, maker, single, vector

REGISTERED = MakerResolver(pb.CODE_POLICY_REGISTERED)
IMPORT = MakerResolver(pb.CODE_POLICY_IMPORT)
REMOTE = EnvSpec("own/Env-v0", entry_point="os:system", kwargs={"command": "true"})


@pytest.fixture(autouse=True)
def _forget_what_was_closed() -> Iterator[None]:
    yield
    OddEnv.forget()


def refused(
    error: type[Exception],
    match: str,
    spec: pb.EnvironmentSpec,
    resolver: MakerResolver = REGISTERED,
) -> None:
    with pytest.raises(error, match=match) as caught:
        make_host(spec, resolver)
    assert caught.type is error


@pytest.mark.parametrize(
    "env_id", ["os:system", "zoo.counter:CounterEnv", "zoo:zoo/Counter-v0", "zoo:CartPole-v1"]
)
def test_registered_refuses_names_that_import(env_id: str) -> None:
    refused(errors.FailedPrecondition, "--allow-import; or start it with --import", single(env_id))


def test_registered_refuses_wrappers_that_import() -> None:
    spec = single()
    spec.wrappers.add(id="gymnasium.wrappers:FlattenObservation")
    refused(errors.FailedPrecondition, "only when started with --allow-import$", spec)


def test_registered_refuses_definitions_of_its_clients() -> None:
    spec = pb.EnvironmentSpec(makers=[pb.Maker(env_spec=REMOTE.to_json(), known_as="own/Env-v0")])
    refused(errors.NotFound, "Your script registers it itself", spec)
    spec.makers[0].ClearField("known_as")
    refused(errors.FailedPrecondition, "only when started with --allow-import; pass an id", spec)


def test_a_definition_gives_way_to_the_servers_own_environment() -> None:
    spec = pb.EnvironmentSpec(makers=[pb.Maker(env_spec=REMOTE.to_json(), known_as="CartPole-v1")])
    host = make_host(spec, REGISTERED)
    assert '"CartPole-v1"' in host.describe().env_spec
    host.close()


@pytest.mark.parametrize("resolver", [REGISTERED, IMPORT])
def test_code_is_for_embedded_servers(resolver: MakerResolver) -> None:
    by_code = pb.EnvironmentSpec(makers=[pb.Maker(code="0" * 64)])
    refused(errors.FailedPrecondition, "only an embedded server", by_code, resolver)
    kwargs = pb.EnvironmentSpec(makers=[pb.Maker(id=ODD, kwargs_code="0" * 64)])
    refused(errors.FailedPrecondition, "only an embedded server", kwargs, resolver)


@pytest.mark.parametrize("resolver", [REGISTERED, IMPORT])
def test_import_paths_are_for_embedded_servers(resolver: MakerResolver, tmp_path: Path) -> None:
    spec = single()
    spec.import_paths.append(str(tmp_path))
    refused(errors.FailedPrecondition, "only an embedded server imports", spec, resolver)
    assert str(tmp_path) not in sys.path


def test_an_embedded_worker_looks_where_its_client_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = single()
    spec.import_paths.extend([str(tmp_path), sys.path[0]])
    before = list(sys.path)
    make_host(spec, MakerResolver(pb.CODE_POLICY_EMBEDDED)).close()
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.parametrize("env_id", ["megaflow/Remote-v0", "megaflow/Remote"])
@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_the_door_to_servers_is_not_hosted(env_id: str, mode: str) -> None:
    # Through it a client of a server that imports nothing could have its worker start one that does.
    spec = vector(2, env_id, env_id="os:system", server="inline")
    spec.vectorization_mode = mode
    refused(errors.InvalidArgument, "nothing that a server hosts", spec)
    known = pb.EnvironmentSpec(
        makers=[pb.Maker(env_spec=REMOTE.to_json(), known_as="megaflow/Remote-v0")]
    )
    refused(errors.InvalidArgument, "nothing that a server hosts", known)


@pytest.mark.parametrize(
    ("env_id", "match"),
    [
        ("CartPoel-v1", "did you mean 'CartPole-v1'"),
        ("CartPole-v77", "did you mean 'CartPole-v1'"),
        ("cartpole", "no environment 'cartpole'.*megaflow envs list"),
        ("", "no environment ''"),
    ],
)
def test_an_unknown_id_says_what_comes_close(env_id: str, match: str) -> None:
    refused(errors.NotFound, match, single(env_id))


def test_an_id_without_a_version_is_the_newest() -> None:
    host = make_host(single("CartPole"), REGISTERED)
    newest = max(key for key in gym.registry if key.startswith("CartPole-v"))
    assert f'"{newest}"' in host.describe().env_spec
    host.close()


@pytest.mark.parametrize(
    ("env_id", "error", "match"),
    [
        ("zoo.counter:CounterEvn", errors.NotFound, "did you mean zoo.counter:CounterEnv"),
        ("no_such_module:Env", errors.NotFound, "cannot import module 'no_such_module'"),
        ("zoo.counter:__name__", errors.InvalidArgument, "cannot be called"),
        (":Env", errors.InvalidArgument, "is no module's name"),
        ("..x:Env", errors.InvalidArgument, "is no module's name"),
        ("builtins:dict", errors.InvalidArgument, "no gymnasium.Env"),
    ],
)
def test_names_that_lead_nowhere(env_id: str, error: type[Exception], match: str) -> None:
    refused(error, match, single(env_id), IMPORT)


def test_names_of_modules() -> None:
    spec = single("zoo.counter:CounterEnv")
    spec.wrappers.append(
        pb.Maker(id="gymnasium.wrappers:TimeLimit", kwargs=values.encode({"max_episode_steps": 5}))
    )
    make_host(spec, IMPORT).close()


@pytest.mark.parametrize("name", ["TimeLimit", "", "gymnasium.wrappers"])
def test_a_wrapper_is_named_with_its_module(name: str) -> None:
    spec = single()
    spec.wrappers.add(id=name)
    refused(errors.InvalidArgument, "is no `module:attribute` name", spec, IMPORT)


@pytest.mark.parametrize("kwargs", [values.encode([1]), values.encode({1: 2}), b"\xc1"])
def test_keyword_arguments_have_names(kwargs: bytes) -> None:
    spec = pb.EnvironmentSpec(makers=[pb.Maker(id=ODD, kwargs=kwargs)])
    refused(errors.InvalidArgument, "env_kwargs", spec)


def edited(edit: Callable[[pb.EnvironmentSpec], Any]) -> pb.EnvironmentSpec:
    spec = vector(2)
    edit(spec)
    return spec


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (pb.EnvironmentSpec(), "makers is empty"),
        (pb.EnvironmentSpec(makers=[maker(), maker()]), "2 entries for num_envs=0"),
        (edited(lambda spec: spec.makers.extend([maker(), maker()])), "3 entries for num_envs=2"),
        (edited(lambda spec: spec.ClearField("vectorization_mode")), "vectorization_mode=''"),
        (edited(lambda spec: setattr(spec, "vectorization_mode", "async")), "takes 'sync'"),
        (edited(lambda spec: setattr(spec, "autoreset_mode", "Never")), "takes 'NextStep'"),
        (edited(lambda spec: setattr(spec, "observation_mode", "other")), "takes 'same'"),
    ],
)
def test_descriptions_that_contradict_themselves(spec: pb.EnvironmentSpec, match: str) -> None:
    refused(errors.InvalidArgument, match, spec)


def test_a_native_class_takes_no_wrappers_and_one_maker() -> None:
    spec = vector(2, "CartPole-v1")
    spec.vectorization_mode = "vector_entry_point"
    spec.wrappers.add(id="gymnasium.wrappers:TimeLimit")
    refused(errors.InvalidArgument, "environment.wrappers", spec)
    del spec.wrappers[:]
    spec.makers.append(maker("CartPole-v1"))
    refused(errors.InvalidArgument, "2 entries", spec)


def test_an_environment_without_a_native_class() -> None:
    spec = vector(2)
    spec.vectorization_mode = "vector_entry_point"
    refused(errors.InvalidArgument, f"{ODD} has no vector class of its own; use 'sync'", spec)


def test_what_a_failing_wrapper_was_to_wrap_is_closed(tmp_path: Path) -> None:
    def fail(env: Any) -> Any:
        raise ValueError("no")

    store = CodeFolder(tmp_path)
    spec = single(name="wrapped")
    spec.wrappers.add(code=store.put(fail, path="wrappers[0]"))
    refused(ValueError, "no", spec, MakerResolver(pb.CODE_POLICY_EMBEDDED, store.load))
    assert OddEnv.closed.get(timeout=PATIENCE) == "wrapped"


def test_the_catalogue_says_what_is_known_of_an_environment() -> None:
    (info,) = [info for info in catalogue() if info.id == "CartPole-v1"]
    assert info.max_episode_steps == 500
    assert info.reward_threshold == 475.0
    assert info.vector_entry_point
    assert info.entry_point == "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
