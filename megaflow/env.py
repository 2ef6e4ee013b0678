"""RemoteEnv: one environment that runs behind a server, with gymnasium's `Env` for a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from megaflow.connection import Connection, connect
from megaflow.errors import InvalidArgument, SessionLost
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space
from megaflow.registration import remote_spec
from megaflow.session import Session, Shard, decoded
from megaflow.specs import EnvironmentLike, WrapperLike, environment_spec, kwargs_of

# Attributes of this object itself; others are the remote environment's.
_KEPT_HERE = frozenset(
    {
        "action_space",
        "metadata",
        "np_random",
        "observation_space",
        "remote_spec",
        "render_mode",
        "spec",
    }
)


class RemoteEnv(gym.Env[Any, Any]):
    """An environment behind a server; observations, rewards, flags and infos are what it gives locally.

    Time limits, order enforcing and checks are applied where the environment runs. Attributes and methods of
    the remote environment that `gymnasium.Env` does not have are reached through this object; what they
    take and give must be values that the wire carries.

    Raises (any method):
        SessionLost: the worker died. The next `reset` makes the environment anew.
        EnvironmentFailed, or the environment's own builtin or gymnasium exception.
    """

    # What gymnasium.make may ask for before there is an environment: human rendering is done on this side,
    # by gymnasium's wrapper over rgb_array.
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "rgb_array_list", "ansi", "ansi_list"]
    }

    def __init__(
        self,
        env_id: EnvironmentLike,
        server: str | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[WrapperLike] = (),
        render_mode: str | None = None,
        connection: Connection | None = None,
        **kwargs: Any,
    ) -> None:
        self._session: Session | None = None
        self._env_id = env_id
        self._connection = connection or connect(server)
        given = kwargs_of(env_kwargs, "env_kwargs") | kwargs
        every = dict(given)
        if render_mode == "human":
            raise InvalidArgument(
                "render_mode='human': a server has no screen. megaflow.make and gymnasium.make show it on "
                "this side; or pass 'rgb_array' and wrap the environment in gymnasium.wrappers.HumanRendering"
            )
        if render_mode is not None:
            every["render_mode"] = render_mode
        try:
            spec = environment_spec(
                self._connection, env_id, num_envs=0, env_kwargs=every, wrappers=wrappers
            )
            self._session = Session(self._connection, spec)
        except BaseException:
            self._connection.close()
            raise
        self._describe(self._shard.info.environment)
        own: dict[str, Any] = {"env_id": env_id, "env_kwargs": given}
        own |= {"wrappers": list(wrappers), "render_mode": render_mode}
        self.spec = remote_spec(
            {key: value for key, value in own.items() if value},
            self._connection.address,
            remote=self.remote_spec,
        )

    def _describe(self, description: pb.EnvironmentDescription) -> None:
        self.observation_space = decode_space(description.single_observation_space)
        self.action_space = decode_space(description.single_action_space)
        metadata = values.decode(description.metadata, path="metadata")
        modes = metadata.get("render_modes")
        if isinstance(modes, list | tuple):
            metadata["render_modes"] = [mode for mode in modes if mode != "human"]
        self.metadata = metadata  # type: ignore[misc]
        self.render_mode = description.render_mode if description.HasField("render_mode") else None
        self.remote_spec: EnvSpec | None = (
            EnvSpec.from_json(description.env_spec) if description.env_spec else None
        )

    @property
    def _shard(self) -> Shard:
        return self._live.shards[0]

    @property
    def _live(self) -> Session:
        if self._session is None:
            raise gym.error.ClosedEnvironmentError(
                f"Trying to operate on `{type(self).__name__}`, after a call to `close()`."
            )
        return self._session

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        # gymnasium's checks look at a generator on this side; it also refuses a bad seed before it travels.
        super().reset(seed=seed)
        session = self._live
        verb = pb.Reset(
            seed=values.encode(seed) if seed is not None else b"",
            options=values.encode(options, path="options") if options is not None else b"",
        )
        if self._shard.loss is not None:
            session.reopen(self._shard)
        try:
            reply = session.ask(self._shard, verb)
        except SessionLost:
            # Once more: the worker may have died of something else, or between two episodes.
            session.reopen(self._shard)
            reply = session.ask(self._shard, verb)
        transition = reply.transition
        return decoded(transition.observation, "observation"), decoded(transition.info, "info")

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        verb = pb.Step(action=values.encode(action, path="action"))
        transition = self._live.ask(self._shard, verb).transition
        return (
            decoded(transition.observation, "observation"),
            decoded(transition.reward, "reward"),
            decoded(transition.terminated, "terminated"),
            decoded(transition.truncated, "truncated"),
            decoded(transition.info, "info"),
        )

    def render(self) -> Any:
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the remote environment or of its wrappers; an attribute's value where it is none."""
        verb = pb.Call(name=name)
        if args:
            verb.args = values.encode(args, path="args")
        if kwargs:
            verb.kwargs = values.encode(kwargs, path="kwargs")
        return decoded(self._live.ask(self._shard, verb).value, name)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close()
        finally:
            self._connection.close()

    @property
    def np_random(self) -> np.random.Generator:
        """A copy of the remote environment's generator, in its present state."""
        return cast("np.random.Generator", self.call("np_random"))

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._np_random = value
        self.set_wrapper_attr("np_random", value)

    @property
    def np_random_seed(self) -> int:
        return cast("int", self.call("np_random_seed"))

    def get_wrapper_attr(self, name: str) -> Any:
        """An attribute of this object, else of the remote environment; a remote method can be called."""
        return getattr(self, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the remote environment, as its outermost wrapper does."""
        verb = pb.SetAttr(name=name, values=values.encode([value], path=name), force=force)
        return cast("bool", decoded(self._live.ask(self._shard, verb).value, name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what gymnasium keeps of an environment here, and everything else on the remote environment."""
        if name.startswith("_") or name in _KEPT_HERE or self.__dict__.get("_session") is None:
            super().__setattr__(name, value)
        else:
            self.set_wrapper_attr(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_session" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        is_method, value = decoded(
            self._live.ask(self._shard, pb.Call(name=name, lookup=True)).value, name
        )
        return _RemoteMethod(self, name) if is_method else value

    def __str__(self) -> str:
        return f"<{type(self).__name__}<{name_of(self._env_id)}>>"

    def __del__(self) -> None:
        session = self.__dict__.get("_session")
        if session is not None:
            session.close(wait=False)
            self._connection.close()


class _RemoteMethod:
    """A method of the remote environment, bound."""

    def __init__(self, env: RemoteEnv, name: str) -> None:
        self._env = env
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._env.call(self.__name__, *args, **kwargs)


def name_of(env: EnvironmentLike | Sequence[EnvironmentLike]) -> str:
    """How an environment is called in a repr."""
    if isinstance(env, str):
        return env
    if isinstance(env, EnvSpec):
        return env.id
    if isinstance(env, Sequence):
        return ", ".join(dict.fromkeys(name_of(one) for one in env))
    return getattr(env, "__qualname__", repr(env))
