"""What a session hosts, and the host of one environment; see also native_host.py and shard/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import failures, values
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.slots import Slot
from megaflow.protocol.spaces import encode_space
from megaflow_server.worker.shard.watch import Overrun
from megaflow_server.worker.state import restore_state, state_of

ONE = "snapshots are of single environments, and this session is of a vector environment: use make"


class Failed(Exception):
    """An environment of another process raised; `message` is the wire's word for it."""

    def __init__(self, message: pb.Error) -> None:
        super().__init__(message.message)
        self.message = message


def error_message(error: BaseException, *, log_tail: str = "") -> pb.Error:
    """The wire's word for what an environment raised, here or in another process."""
    if not isinstance(error, Failed):
        return failures.to_message(error, log_tail=log_tail)
    message = pb.Error(log_tail=log_tail)
    message.MergeFrom(error.message)
    message.notes.extend(getattr(error, "__notes__", ()))
    return message


class Emit:
    """Takes the parts of a reply to one request, in order; the last one has `last` set.

    Attributes:
        slot: takes large arrays of observations; None where they go with the reply.
    """

    __slots__ = ("_send", "_sequence", "slot")

    def __init__(
        self, sequence: int, send: Callable[[pb.Reply], None], slot: Slot | None = None
    ) -> None:
        self._sequence = sequence
        self._send = send
        self.slot = slot

    def __call__(self, reply: pb.Reply) -> None:
        reply.sequence = self._sequence
        self._send(reply)


class Host(ABC):
    """What a session hosts; requests and replies are the wire's."""

    # How many requests may be under way at a time.
    concurrency = 1

    @abstractmethod
    def describe(self) -> pb.EnvironmentDescription: ...

    @abstractmethod
    def apply(self, request: pb.Request, emit: Emit) -> None:
        """Applies a request. Raises what is to be the whole reply, where nothing was emitted."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environments, after whatever they are at."""


class WholeHost(Host):
    """A host that answers each request at once and as a whole.

    Args:
        count: how many sub-environments it has; 0 where it is no vector environment.
    """

    def __init__(self, count: int) -> None:
        self._everything = range(count)
        self._overrun = Overrun()

    def apply(self, request: pb.Request, emit: Emit) -> None:
        reply = pb.Reply(last=True)
        verb = request.WhichOneof("verb")
        if verb == "step":
            if request.step.indices or request.step.in_parts or request.step.end_late:
                raise InvalidArgument(
                    "step.indices, step.in_parts, step.end_late: this session steps as a whole, since it is no vector "
                    "environment, or one of a native class (vectorization_mode='vector_entry_point')"
                )
            with self._overrun.watched(request.step.timeout_s, lambda: self._tell_late(emit)):
                self.step(request.step, reply.transition, emit.slot)
        elif verb == "reset":
            self.reset(request.reset, reply.transition, emit.slot)
        elif verb == "call":
            reply.value = self.call(request.call)
        elif verb == "set_attr":
            reply.value = values.encode(self.set_attr(request.set_attr))
        elif verb == "snapshot":
            reply.value = self.snapshot()
        elif verb == "restore":
            self.restore(request.restore.state)
        elif verb == "close":
            self.close()
        else:
            raise InvalidArgument("request.verb is empty, or one that this server does not know")
        emit(reply)

    def _tell_late(self, emit: Emit) -> None:
        emit(pb.Reply(indices=self._everything, late=pb.Late()))

    @abstractmethod
    def reset(self, request: pb.Reset, into: pb.Transition, slot: Slot | None) -> None: ...

    @abstractmethod
    def step(self, request: pb.Step, into: pb.Transition, slot: Slot | None) -> None: ...

    @abstractmethod
    def call(self, request: pb.Call) -> bytes: ...

    @abstractmethod
    def set_attr(self, request: pb.SetAttr) -> bool:
        """Whether it was set: without `force`, an attribute that nobody has is not."""

    def snapshot(self) -> bytes:
        """See `state_of`."""
        raise FailedPrecondition(ONE)

    def restore(self, state: bytes) -> None:
        """See `restore_state`."""
        raise FailedPrecondition(ONE)


class EnvHost(WholeHost):
    """One environment and its bare values."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not isinstance(env, gym.Env):
            raise InvalidArgument(f"the environment is {type(env)}, which is no gymnasium.Env")
        super().__init__(0)
        self._env = env

    def describe(self) -> pb.EnvironmentDescription:
        return describe_env(self._env)

    def reset(self, request: pb.Reset, into: pb.Transition, slot: Slot | None) -> None:
        observation, info = self._env.reset(
            seed=decoded(request.seed, "seed"), options=decoded(request.options, "options")
        )
        into.observation = values.encode(observation, path="observation", slot=slot)
        into.info = values.encode(info, path="info")

    def step(self, request: pb.Step, into: pb.Transition, slot: Slot | None) -> None:
        action = values.decode(request.action, path="action")
        try:
            observation, reward, terminated, truncated, info = self._env.step(action)
        except Exception as error:
            note_invalid(error, [(None, action)], self._env.action_space)
            raise
        into.observation = values.encode(observation, path="observation", slot=slot)
        into.reward = values.encode(reward, path="reward")
        into.terminated = values.encode(terminated, path="terminated")
        into.truncated = values.encode(truncated, path="truncated")
        into.info = values.encode(info, path="info")

    def call(self, request: pb.Call) -> bytes:
        if request.indices:
            raise InvalidArgument("call.indices: this session is of one environment")
        if request.wrapper:
            return values.encode(is_wrapped(self._env, request.wrapper))
        if request.name == "render":
            return values.encode(self._env.render(), path="render()")
        attribute = self._env.get_wrapper_attr(request.name)
        if request.lookup:
            found = (True, None) if callable(attribute) else (False, attribute)
            return values.encode(found, path=request.name)
        if not callable(attribute):
            return values.encode(attribute, path=request.name)
        args, kwargs = arguments(request)
        return values.encode(attribute(*args, **kwargs), path=f"{request.name}()")

    def set_attr(self, request: pb.SetAttr) -> bool:
        if request.indices:
            raise InvalidArgument("set_attr.indices: this session is of one environment")
        (value,) = entries(request, 1)
        return self._env.set_wrapper_attr(request.name, value, force=request.force) is not False

    def snapshot(self) -> bytes:
        return state_of(self._env)

    def restore(self, state: bytes) -> None:
        restore_state(self._env, state)

    def close(self) -> None:
        self._overrun.close()
        self._env.close()


def describe_env(env: gym.Env[Any, Any]) -> pb.EnvironmentDescription:
    """What a client is to know of one environment."""
    return pb.EnvironmentDescription(
        single_observation_space=encode_space(env.observation_space),
        single_action_space=encode_space(env.action_space),
        metadata=metadata_bytes(env.metadata),
        render_mode=env.render_mode,
        env_spec=spec_json(env.spec),
    )


def decoded(data: bytes, path: str) -> Any:
    return values.decode(data, path=path) if data else None


def arguments(request: pb.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = decoded(request.args, "args")
    kwargs = decoded(request.kwargs, "kwargs")
    args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, tuple):
        raise InvalidArgument(f"call.args={args!r} is no tuple")
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise InvalidArgument(f"call.kwargs={kwargs!r} is no dict with str keys")
    return args, kwargs


def entries(request: pb.SetAttr, count: int) -> list[Any]:
    entries = values.decode(request.values, path=request.name)
    if not isinstance(entries, list) or len(entries) != count:
        raise InvalidArgument(
            f"set_attr.values={entries!r} is no list of {count}, one per environment"
        )
    return entries


def is_wrapped(env: gym.Env[Any, Any], wrapper: str) -> bool:
    """Whether a wrapper of this class, `module:QualName`, or of one derived from it is around it."""
    while isinstance(env, gym.Wrapper):
        if any(wrapper == f"{one.__module__}:{one.__qualname__}" for one in type(env).__mro__):
            return True
        env = env.env
    return False


def metadata_bytes(metadata: dict[str, Any]) -> bytes:
    plain = {key: value for key, value in metadata.items() if key != "autoreset_mode"}
    return values.encode(plain, path="metadata")


def spec_json(spec: EnvSpec | None) -> str:
    if spec is None:
        return ""
    try:
        return spec.to_json()
    except (ValueError, TypeError):  # made from a callable or with an array, which JSON cannot hold
        return ""


def note_whose(error: BaseException, index: int) -> None:
    """Adds to an exception which sub-environment of the whole raised it."""
    error.add_note(f"Sub-environment {index} raised this.")


def note_invalid(error: Exception, actions: Any, space: gym.Space[Any]) -> None:
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
