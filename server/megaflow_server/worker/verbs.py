"""Making a host from its description on the wire, and applying requests to it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from megaflow.errors import InvalidArgument
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.worker.hosts import EnvHost, Host, NativeHost, VectorHost, single_space
from megaflow_server.worker.makers import MakerResolver


def make_host(spec: pb.EnvironmentSpec, resolver: MakerResolver, *, first: int = 0) -> Host:
    """Makes the environments that the spec describes; `first` is the index of a shard's first one."""
    for path in spec.import_paths:
        if path not in sys.path:
            sys.path.append(path)
    if not spec.makers:
        raise InvalidArgument("environment.makers is empty: name what to make")
    if spec.vectorization_mode == "vector_entry_point" and spec.num_envs:
        return _native(spec, resolver)
    wrappers = [resolver.wrapper(maker) for maker in spec.wrappers]
    if spec.num_envs == 0:
        return EnvHost(_wrapped(resolver.environment(spec.makers[0]), wrappers)())
    makers = list(spec.makers)
    if len(makers) == 1:
        makers *= spec.num_envs
    if len(makers) != spec.num_envs:
        raise InvalidArgument(f"{len(makers)} makers for num_envs={spec.num_envs}")
    resolved = {m.SerializeToString(): resolver.environment(m) for m in spec.makers}
    custom = spec.observation_mode == "custom"
    return VectorHost(
        [_wrapped(resolved[m.SerializeToString()], wrappers) for m in makers],
        first=first,
        autoreset_mode=spec.autoreset_mode,
        observation_mode=(
            single_space(spec.single_observation_space) if custom else spec.observation_mode
        ),
    )


def _native(spec: pb.EnvironmentSpec, resolver: MakerResolver) -> Host:
    envs = resolver.vector_environment(spec.makers[0], spec.num_envs)
    return NativeHost(envs)


def _wrapped(
    make: Callable[[], gym.Env[Any, Any]],
    wrappers: list[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]],
) -> Callable[[], gym.Env[Any, Any]]:
    if not wrappers:
        return make
    return functools.partial(_make_wrapped, make, wrappers)


def _make_wrapped(
    make: Callable[[], gym.Env[Any, Any]],
    wrappers: list[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]],
) -> gym.Env[Any, Any]:
    env = make()
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def apply(host: Host, request: pb.Request) -> tuple[pb.Reply, Exception | None]:
    """Applies one request; the reply, and the exception that it reports, for whoever shares the process."""
    reply = pb.Reply(sequence=request.sequence, last=True)
    try:
        _dispatch(host, request, reply)
    except Exception as error:  # whatever an environment's own code raises travels to its user
        failed = pb.Reply(
            sequence=request.sequence, last=True, error=failures.to_message(error)
        )
        return failed, error
    return reply, None


def _dispatch(host: Host, request: pb.Request, reply: pb.Reply) -> None:
    verb = request.WhichOneof("verb")
    if verb == "step":
        if request.step.indices:
            raise InvalidArgument(
                "step.indices: this server steps all sub-environments of a shard at once"
            )
        reply.transition.CopyFrom(host.step(request.step))
    elif verb == "reset":
        reply.transition.CopyFrom(host.reset(request.reset))
    elif verb == "call":
        reply.value = host.call(request.call)
    elif verb == "set_attr":
        host.set_attr(request.set_attr)
    elif verb == "close":
        host.close()
    else:
        raise InvalidArgument("request.verb is empty, or one that this server does not know")
