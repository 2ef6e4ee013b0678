"""What a remote environment is asked to be, and what its server says that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from megaflow.connection import Connection
from megaflow.deadlines import Deadlines, OnStepTimeout
from megaflow.errors import InvalidArgument
from megaflow.keeping import Keep, Keeping
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space
from megaflow.specs import EnvironmentLike, WrapperLike, environment_spec, kwargs_of

__all__ = ["EnvDescription", "EnvOptions"]


@dataclass(frozen=True)
class EnvOptions:
    """The arguments of RemoteEnv that say what it is; see there."""

    env_id: EnvironmentLike
    env_kwargs: Mapping[str, Any]
    wrappers: Sequence[WrapperLike]
    render_mode: str | None
    deadlines: Deadlines
    keeping: Keeping

    @staticmethod
    def checked(
        *,
        env_kwargs: Mapping[str, Any] | None,
        kwargs: dict[str, Any],
        render_mode: str | None,
        deadlines: tuple[float | None, float | None, float | None, OnStepTimeout],
        keep: tuple[Keep, float],
        **rest: Any,
    ) -> EnvOptions:
        """The options, or the error that names the one that cannot be."""
        if render_mode == "human":
            raise InvalidArgument(
                "render_mode='human': a server has no screen. megaflow.make and gymnasium.make show it on "
                "this side; or pass 'rgb_array' and wrap the environment in gymnasium.wrappers.HumanRendering"
            )
        given = kwargs_of(env_kwargs, "env_kwargs") | kwargs
        return EnvOptions(
            env_kwargs=given,
            render_mode=render_mode,
            deadlines=Deadlines.checked(*deadlines),
            keeping=Keeping.checked(*keep),
            **rest,
        )

    def spec(self, connection: Connection) -> pb.EnvironmentSpec:
        """What the server is asked for."""
        every = dict(self.env_kwargs)
        if self.render_mode is not None:
            every["render_mode"] = self.render_mode
        return environment_spec(
            connection, self.env_id, num_envs=0, env_kwargs=every, wrappers=self.wrappers
        )

    def as_kwargs(self) -> dict[str, Any]:
        """The arguments of RemoteEnv that differ from its defaults, for a spec."""
        own: dict[str, Any] = {"env_id": self.env_id, "env_kwargs": dict(self.env_kwargs)}
        own |= {"wrappers": list(self.wrappers), "render_mode": self.render_mode}
        changed = {key: value for key, value in own.items() if value}
        return {**changed, **self.deadlines.as_kwargs(), **self.keeping.as_kwargs()}


@dataclass(frozen=True)
class EnvDescription:
    """What a server says of an environment."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None
    remote_spec: EnvSpec | None

    @staticmethod
    def of(description: pb.EnvironmentDescription) -> EnvDescription:
        metadata = values.decode(description.metadata, path="metadata")
        modes = metadata.get("render_modes")
        if isinstance(modes, list | tuple):
            metadata["render_modes"] = [mode for mode in modes if mode != "human"]
        return EnvDescription(
            observation_space=decode_space(description.single_observation_space),
            action_space=decode_space(description.single_action_space),
            metadata=metadata,
            render_mode=description.render_mode if description.HasField("render_mode") else None,
            remote_spec=EnvSpec.from_json(description.env_spec) if description.env_spec else None,
        )
