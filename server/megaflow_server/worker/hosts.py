"""What a session hosts: one environment, a shard of a vector environment, or a native vector class.

A shard is gymnasium's own `SyncVectorEnv` over its sub-environments, so that autoreset, seeding, masks and
batching are the installed gymnasium's to the letter. Only the infos are kept apart, one per
sub-environment: batching them is not associative, so the client does it for the whole.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate

from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space, encode_space


class Host(ABC):
    """The verbs of a session, on what it hosts; requests and results are the wire's."""

    @abstractmethod
    def describe(self) -> pb.EnvironmentDescription: ...

    @abstractmethod
    def reset(self, request: pb.Reset) -> pb.Transition: ...

    @abstractmethod
    def step(self, request: pb.Step) -> pb.Transition: ...

    @abstractmethod
    def call(self, request: pb.Call) -> bytes: ...

    @abstractmethod
    def set_attr(self, request: pb.SetAttr) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


def _decode(data: bytes, path: str) -> Any:
    return values.decode(data, path=path) if data else None


def _arguments(request: pb.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = _decode(request.args, "args")
    kwargs = _decode(request.kwargs, "kwargs")
    args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, tuple):
        raise InvalidArgument(f"call.args={args!r} is no tuple")
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise InvalidArgument(f"call.kwargs={kwargs!r} is no dict with str keys")
    return args, kwargs


def _entries(request: pb.SetAttr, count: int) -> list[Any]:
    entries = values.decode(request.values, path=request.name)
    if not isinstance(entries, list) or len(entries) != count:
        raise InvalidArgument(
            f"set_attr.values={entries!r} is no list of {count}, one per environment"
        )
    return entries


def _metadata(metadata: dict[str, Any]) -> bytes:
    plain = {key: value for key, value in metadata.items() if key != "autoreset_mode"}
    return values.encode(plain, path="metadata")


def _spec_json(spec: EnvSpec | None) -> str:
    if spec is None:
        return ""
    try:
        return spec.to_json()
    except (ValueError, TypeError):  # made from a callable or with an array, which JSON cannot hold
        return ""


class EnvHost(Host):
    """One environment and its bare values."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not isinstance(env, gym.Env):
            raise InvalidArgument(f"the environment is {type(env)}, which is no gymnasium.Env")
        self._env = env

    def describe(self) -> pb.EnvironmentDescription:
        env = self._env
        return pb.EnvironmentDescription(
            single_observation_space=encode_space(env.observation_space),
            single_action_space=encode_space(env.action_space),
            metadata=_metadata(env.metadata),
            render_mode=env.render_mode,
            env_spec=_spec_json(env.spec),
        )

    def reset(self, request: pb.Reset) -> pb.Transition:
        observation, info = self._env.reset(
            seed=_decode(request.seed, "seed"), options=_decode(request.options, "options")
        )
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            info=values.encode(info, path="info"),
        )

    def step(self, request: pb.Step) -> pb.Transition:
        action = values.decode(request.action, path="action")
        try:
            observation, reward, terminated, truncated, info = self._env.step(action)
        except Exception as error:
            _note_invalid(error, [(None, action)], self._env.action_space)
            raise
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            reward=values.encode(reward, path="reward"),
            terminated=values.encode(terminated, path="terminated"),
            truncated=values.encode(truncated, path="truncated"),
            info=values.encode(info, path="info"),
        )

    def call(self, request: pb.Call) -> bytes:
        if request.name == "render":
            return values.encode(self._env.render(), path="render()")
        attribute = self._env.get_wrapper_attr(request.name)
        if request.lookup:
            found = (True, None) if callable(attribute) else (False, attribute)
            return values.encode(found, path=request.name)
        if not callable(attribute):
            return values.encode(attribute, path=request.name)
        args, kwargs = _arguments(request)
        return values.encode(attribute(*args, **kwargs), path=f"{request.name}()")

    def set_attr(self, request: pb.SetAttr) -> None:
        (value,) = _entries(request, 1)
        self._env.set_wrapper_attr(request.name, value, force=request.force)

    def close(self) -> None:
        self._env.close()


class _Shard(SyncVectorEnv):
    """A SyncVectorEnv that keeps the infos of its sub-environments apart, in `raw_infos`."""

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> None:
        self.raw_infos: list[tuple[int, dict[str, Any]]] = []
        # Observations are encoded at once, so they need not be copied.
        super().__init__(env_fns, False, **kwargs)

    def __del__(self) -> None:
        # gymnasium's closes once more what the host closed, or what failed to be made or closed.
        pass

    def _add_info(
        self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[str, Any]:
        if len(env_info):
            self.raw_infos.append((env_num, env_info))
        return vector_infos

    def take_infos(self, first: int) -> bytes:
        """The infos since the last call, encoded; empty where there are none."""
        infos, self.raw_infos = self.raw_infos, []
        if not infos:
            return b""
        try:
            return values.encode(infos)
        except InvalidArgument:
            for index, info in infos:  # find the one at fault, to name it as the user knows it
                values.encode(info, path=f"infos[{first + index}]")
            raise


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


def _make_all(
    env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
) -> list[gym.Env[Any, Any]]:
    """All environments, or none: what was made is closed where one cannot be."""
    made: list[gym.Env[Any, Any]] = []
    try:
        for fn in env_fns:
            made.append(fn())
            if not isinstance(made[-1], gym.Env):
                raise InvalidArgument(
                    f"the environment is {type(made[-1])}, which is no gymnasium.Env"
                )
    except BaseException as error:
        for env in made:
            if isinstance(env, gym.Env):
                close_after(env, error)
        raise
    return made


class VectorHost(Host):
    """Sub-environments `first` … of a vector environment, batched."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        *,
        first: int,
        autoreset_mode: str,
        observation_mode: str | tuple[gym.Space[Any], gym.Space[Any]],
    ) -> None:
        self._first = first
        self._made = _make_all(env_fns)
        self._alike = observation_mode == "same"
        try:
            self._envs = _Shard(
                [functools.partial(_itself, env) for env in self._made],
                autoreset_mode=autoreset_mode,
                observation_mode=observation_mode,
            )
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            # Spaces that do not go together: the client, which sees those of all shards, says so as gymnasium
            # does for the whole.
            self._unfit: Exception | None = error
        else:
            self._unfit = None

    def describe(self) -> pb.EnvironmentDescription:
        first = self._made[0]
        # All spaces where they may differ; else the one that they share.
        told = self._made if self._unfit or not self._alike else self._made[:1]
        return pb.EnvironmentDescription(
            single_observation_space=encode_space(first.observation_space),
            single_action_space=encode_space(first.action_space),
            metadata=_metadata(first.metadata),
            render_mode=first.render_mode,
            env_spec=_spec_json(first.spec),
            observation_spaces=[encode_space(env.observation_space) for env in told],
            action_spaces=[encode_space(env.action_space) for env in told],
        )

    def reset(self, request: pb.Reset) -> pb.Transition:
        options = _decode(request.options, "options")
        if request.mask:
            mask = values.decode(request.mask, path="reset_mask")
            options = {**(options or {}), "reset_mask": mask}
        envs = self._batched
        envs.raw_infos.clear()
        observation, _ = envs.reset(seed=_decode(request.seed, "seed"), options=options)
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            info=envs.take_infos(self._first),
        )

    def step(self, request: pb.Step) -> pb.Transition:
        envs = self._batched
        actions = values.decode(request.action, path="action")
        envs.raw_infos.clear()
        try:
            observation, rewards, terminations, truncations, _ = envs.step(actions)
        except Exception as error:
            each = enumerate(iterate(envs.action_space, actions), start=self._first)
            _note_invalid(error, each, envs.single_action_space)
            raise
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            reward=values.encode(rewards),
            terminated=values.encode(terminations),
            truncated=values.encode(truncations),
            info=envs.take_infos(self._first),
        )

    def call(self, request: pb.Call) -> bytes:
        if request.name == "render":
            return values.encode(list(self._batched.render() or ()), path="render()")
        args, kwargs = _arguments(request)
        results = self._batched.call(request.name, *args, **kwargs)
        return values.encode(list(results), path=request.name)

    def set_attr(self, request: pb.SetAttr) -> None:
        self._batched.set_attr(request.name, _entries(request, len(self._made)))

    @property
    def _batched(self) -> _Shard:
        if self._unfit is not None:
            raise self._unfit
        return self._envs

    def close(self) -> None:
        for env in self._made:
            env.close()


class NativeHost(Host):
    """A vector class of the environment's own, whole."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self._envs = envs

    def describe(self) -> pb.EnvironmentDescription:
        envs = self._envs
        mode = envs.metadata.get("autoreset_mode")
        return pb.EnvironmentDescription(
            single_observation_space=encode_space(envs.single_observation_space),
            single_action_space=encode_space(envs.single_action_space),
            observation_space=encode_space(envs.observation_space),
            action_space=encode_space(envs.action_space),
            metadata=_metadata(envs.metadata),
            render_mode=envs.render_mode,
            env_spec=_spec_json(envs.spec),
            autoreset_mode=mode.value if isinstance(mode, AutoresetMode) else "",
        )

    def reset(self, request: pb.Reset) -> pb.Transition:
        options = _decode(request.options, "options")
        if request.mask:
            mask = values.decode(request.mask, path="reset_mask")
            options = {**(options or {}), "reset_mask": mask}
        observation, infos = self._envs.reset(seed=_decode(request.seed, "seed"), options=options)
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            info=values.encode(infos, path="infos"),
        )

    def step(self, request: pb.Step) -> pb.Transition:
        actions = values.decode(request.action, path="action")
        observation, rewards, terminations, truncations, infos = self._envs.step(actions)
        return pb.Transition(
            observation=values.encode(observation, path="observation"),
            reward=values.encode(rewards, path="reward"),
            terminated=values.encode(terminations, path="terminated"),
            truncated=values.encode(truncations, path="truncated"),
            info=values.encode(infos, path="infos"),
        )

    def call(self, request: pb.Call) -> bytes:
        if request.name == "render":
            return values.encode(self._envs.render(), path="render()")
        if request.lookup:
            return values.encode(getattr(self._envs, request.name), path=request.name)
        call = getattr(self._envs, "call", None)
        if call is None:
            raise InvalidArgument(
                f"call({request.name!r}): the vector class {type(self._envs).__name__} has no `call`, "
                "which reaches single sub-environments; vectorization_mode='sync' has"
            )
        args, kwargs = _arguments(request)
        return values.encode(call(request.name, *args, **kwargs), path=request.name)

    def set_attr(self, request: pb.SetAttr) -> None:
        set_attr = getattr(self._envs, "set_attr", None)
        if set_attr is None:
            raise InvalidArgument(
                f"set_attr({request.name!r}): the vector class {type(self._envs).__name__} has no "
                "`set_attr`; vectorization_mode='sync' has"
            )
        set_attr(request.name, values.decode(request.values, path=request.name))

    def close(self) -> None:
        self._envs.close()


def _note_invalid(error: Exception, actions: Any, space: gym.Space[Any]) -> None:
    """Adds to an environment's exception which actions were outside the space, if any."""
    for index, action in actions:
        if not space.contains(action):
            where = "" if index is None else f" of sub-environment {index}"
            error.add_note(f"The action {action!r}{where} is not in its action space, {space}.")


def close_after(env: gym.Env[Any, Any], error: BaseException) -> None:
    """Closes an environment because of an error, which is the one to be told of."""
    try:
        env.close()
    except Exception as another:
        error.add_note(
            f"Closing {env} after this failed as well: {type(another).__name__}: {another}"
        )


def single_space(definition: bytes) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The (batched, single) pair that a shard takes for a custom observation mode.

    Only the single space matters in a shard: the client keeps the batched one.
    """
    space = decode_space(definition)
    return space, space
