"""From the wire's makers to environments: registries, `module:` names, and the code of an embedded server."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.registration import ENTRY_POINT
from megaflow.sandbox_proxy import SandboxProxy
from megaflow.sandbox_request import SandboxRequest
from megaflow_server.worker.hosts import close_after
from megaflow_server.worker.shard.nursery import Origin
from megaflow_server.worker.wanted import wanted_by

Creator = Callable[..., Any]

_PLAIN_ID = "; or start it with --import MODULE and use the plain id"


class MakerResolver:
    """Finds what a maker names, as far as this server's code policy goes.

    Args:
        load: gives the thing that a client put into the private code folder.
        origin: for sub-environments with processes of their own.
    """

    def __init__(
        self,
        policy: pb.CodePolicy,
        load: Callable[[str], Any] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._policy = policy
        self._load = load
        self._origin = origin
        self._loaded: dict[str, Any] = {}  # by `wanted`, and not used yet

    def opening(self) -> MakerResolver:
        """One like it for one thread and one opening: what `wanted` loads for it is not loaded again to be made."""
        one = copy.copy(self)
        one._loaded = {}
        return one

    @property
    def origin(self) -> Origin:
        """How another process gets a resolver like this one. Raises InvalidArgument where none can."""
        if self._origin is None:
            raise InvalidArgument(
                "environment.parallel='process': what is made here is made in this process alone; use 'none'"
            )
        return self._origin

    def use_paths(self, paths: Sequence[str]) -> None:
        """Adds the import paths of a client's script, which only an embedded server takes."""
        if paths and self._policy != pb.CODE_POLICY_EMBEDDED:
            raise FailedPrecondition(
                f"environment.import_paths={list(paths)!r}: only an embedded server imports from its client's "
                "paths; install the module where this server's workers run"
            )
        for path in paths:
            if path not in sys.path:
                sys.path.append(path)

    def environment(self, maker: pb.Maker) -> Callable[[], gym.Env[Any, Any]]:
        """A function that makes the environment; what can be found out beforehand is found out now."""
        target, kwargs = self._target(maker), self._kwargs(maker)
        if isinstance(target, EnvSpec):
            return functools.partial(gym.make, target, **kwargs)
        return functools.partial(target, **kwargs)

    def wrapped(
        self, maker: pb.Maker, wrappers: Sequence[pb.Maker]
    ) -> Callable[[], gym.Env[Any, Any]]:
        """The same with wrappers around it, innermost first."""
        make = self.environment(maker)
        around = [self.wrapper(wrapper) for wrapper in wrappers]
        return functools.partial(_make_wrapped, make, around) if around else make

    def vector_environment(self, maker: pb.Maker, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """The environment's own vector class, made."""
        target, kwargs = self._target(maker), self._kwargs(maker)
        if isinstance(target, EnvSpec):
            if target.vector_entry_point is None:
                raise InvalidArgument(
                    f"vectorization_mode='vector_entry_point': {target.id} has no vector class of its own; "
                    "use 'sync'"
                )
            made: Any = gym.make_vec(
                target, num_envs, vectorization_mode="vector_entry_point", **kwargs
            )
        else:
            made = target(num_envs=num_envs, **kwargs)
        if not isinstance(made, VectorEnv):
            raise InvalidArgument(
                f"vectorization_mode='vector_entry_point': {target!r} makes {type(made)}, which is no "
                "gymnasium.vector.VectorEnv"
            )
        return made

    def wanted(self, maker: pb.Maker) -> Mapping[str, SandboxRequest]:
        """The sandboxes that are still to be given to what a maker names, by the parameters of its constructor."""
        target = self._target(maker)
        if maker.WhichOneof("kind") == "code":
            self._loaded[maker.code] = target
        return wanted_by(target, functools.partial(self._kwargs, maker))

    def wrapper(self, maker: pb.Maker) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]:
        """A function from an environment to the wrapped one."""
        kwargs = self._kwargs(maker)
        if maker.WhichOneof("kind") == "code":
            return functools.partial(self._code(maker.code), **kwargs)
        if ":" not in maker.id:
            raise InvalidArgument(
                f"wrapper {maker.id!r} is no `module:attribute` name, such as "
                '"gymnasium.wrappers:FlattenObservation"'
            )
        return functools.partial(self._attribute(maker.id, ""), **kwargs)

    def _target(self, maker: pb.Maker) -> EnvSpec | Creator:
        kind = maker.WhichOneof("kind")
        if kind == "code":
            thing = self._code(maker.code)
            return thing if isinstance(thing, EnvSpec) else _callable(thing, "the environment")
        if kind == "env_spec":
            return self._from_definition(maker)
        return self._from_id(maker.id)

    def _from_definition(self, maker: pb.Maker) -> EnvSpec:
        if maker.known_as and maker.known_as in gym.registry:
            return _hosted(gym.registry[maker.known_as])
        if self._policy == pb.CODE_POLICY_REGISTERED:
            if not maker.known_as:
                raise FailedPrecondition(
                    "an EnvSpec other than the registered one says what code to run, which this server takes "
                    "only when started with --allow-import; pass an id of this server, and env_kwargs"
                )
            raise NotFound(
                f"{_unknown(maker.known_as)}. Your script registers it itself: start the server with "
                "--import MODULE of the module that registers it, or with --allow-import"
            )
        try:
            return EnvSpec.from_json(maker.env_spec)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"env_spec={maker.env_spec!r} is no EnvSpec: {error}") from error

    def _from_id(self, env_id: str) -> EnvSpec | Creator:
        module, colon, name = env_id.rpartition(":")
        if colon:
            self._import(module, env_id, _PLAIN_ID)
            if name not in gym.registry and all(p.isidentifier() for p in name.split(".")):
                return _callable(self._attribute(env_id, _PLAIN_ID), f"env_id={env_id!r}")
        found = name if name in gym.registry else _latest_version(name)
        if found is not None:
            return _hosted(gym.registry[found])
        raise NotFound(f"{_unknown(name)} (`megaflow envs list` shows what a server has)")

    def _attribute(self, name: str, instead: str) -> Any:
        module_name, _, attribute = name.rpartition(":")
        module = self._import(module_name, name, instead)
        try:
            return attrgetter(attribute)(module)
        except AttributeError:
            close = difflib.get_close_matches(attribute, dir(module), n=1)
            hint = f"; did you mean {module_name}:{close[0]}?" if close else ""
            raise NotFound(
                f"module {module_name!r} on the server has no attribute {attribute!r}{hint}"
            ) from None

    def _import(self, module: str, name: str, instead: str) -> Any:
        if self._policy == pb.CODE_POLICY_REGISTERED:
            raise FailedPrecondition(
                f"{name!r} imports code, which this server does only when started with --allow-import{instead}"
            )
        if not all(part.isidentifier() for part in module.split(".")):
            raise InvalidArgument(
                f"{name!r}: {module!r} is no module's name; write `module:attribute`"
            )
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise NotFound(
                f"the server cannot import module {error.name!r}, which {name!r} needs: install it where "
                f"the server's workers run ({sys.executable}), or check the spelling"
            ) from error

    def _code(self, name: str) -> Any:
        if name in self._loaded:
            return self._loaded.pop(name)
        if self._load is None:
            raise FailedPrecondition(
                "this server takes names of environments and wrappers, not code: only an embedded server does"
            )
        try:
            return self._load(name)
        except ModuleNotFoundError as error:
            raise NotFound(
                f"the worker process cannot import module {error.name!r}, in which the environment or its "
                f"wrapper is defined. It looks where your process did: {sys.path}. Put the module's folder "
                "on sys.path before the first megaflow call, or define the class in the script itself"
            ) from error
        except AttributeError as error:
            raise NotFound(
                f"the worker process imported the module of the environment or its wrapper, but there "
                f"{error}; a file that changed since the server started is read again by a new process"
            ) from error

    def _kwargs(self, maker: pb.Maker) -> dict[str, Any]:
        if maker.kwargs_code:
            loaded = self._code(maker.kwargs_code)
        else:
            loaded = values.decode(maker.kwargs, path="env_kwargs") if maker.kwargs else {}
        if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
            raise InvalidArgument(f"env_kwargs={loaded!r} is no dict with str keys")
        lent = {one.parameter: SandboxProxy(one.path, one.capability) for one in maker.sandboxes}
        return {**loaded, **lent}


def _make_wrapped(
    make: Callable[[], gym.Env[Any, Any]],
    wrappers: list[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]],
) -> gym.Env[Any, Any]:
    env = make()
    try:
        for wrapper in wrappers:
            env = wrapper(env)
    except BaseException as error:
        close_after(env, error)
        raise
    return env


def _hosted(spec: EnvSpec) -> EnvSpec:
    """`spec`, unless it is the SDK's door to servers: through it, a client would choose what we connect to."""
    if spec.entry_point == ENTRY_POINT:
        raise InvalidArgument(
            f"env_id={spec.id!r} is what clients make remote environments with, and nothing that a server "
            "hosts: name the environment itself"
        )
    return spec


def _callable(thing: Any, name: str) -> Creator:
    if not callable(thing):
        raise InvalidArgument(f"{name} is {thing!r}, which cannot be called to make an environment")
    result: Creator = thing
    return result


def _latest_version(name: str) -> str | None:
    """The newest version of an unversioned id, as gymnasium.make takes it."""
    pattern = re.compile(re.escape(name) + r"-v(\d+)")
    found = [(int(m.group(1)), key) for key in gym.registry if (m := pattern.fullmatch(key))]
    return max(found)[1] if found else None


def _unknown(env_id: str) -> str:
    close = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"this server has no environment {env_id!r}{hint}"


def catalogue() -> list[pb.EnvironmentInfo]:
    """Every environment of this process's registry, except our own door to remote ones."""
    return [
        pb.EnvironmentInfo(
            id=spec.id,
            reward_threshold=spec.reward_threshold,
            max_episode_steps=spec.max_episode_steps,
            nondeterministic=spec.nondeterministic,
            vector_entry_point=spec.vector_entry_point is not None,
            entry_point=spec.entry_point if isinstance(spec.entry_point, str) else "",
        )
        for spec in gym.registry.values()
        if spec.entry_point != ENTRY_POINT
    ]
