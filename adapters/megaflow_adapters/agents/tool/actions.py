"""One tool, `act`, where an action is a member of any gymnasium space; observations as JSON, frames as images."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gymnasium import Space, spaces

from megaflow.agent import AgentEnv
from megaflow.generation import Image, Text, Tool
from megaflow.trajectory import png
from megaflow_adapters.agents.tool.toolset import Answer, Misused, capped, function

__all__ = ["ActionTools", "action_of", "schema_of", "shown"]

_ACT: Final = "act"


class ActionTools:
    """See `Toolset`.

    Args:
        instruction: the task's, where it has one.
    """

    system = (
        "You act in an environment, one call of the tool act at a time, until the episode is over. Your aim is the "
        "highest sum of rewards."
    )

    def __init__(self, env: AgentEnv, instruction: str | None) -> None:
        self._env = env
        self._instruction = instruction
        description = (
            f"Take an action, a member of {env.action_space}; gives observation and reward."
        )
        self.tools: tuple[Tool, ...] = (
            function(_ACT, description, {"action": schema_of(env.action_space)}),
        )

    def begin(self, observation: Any) -> tuple[Text | Image, ...]:
        """The instruction, and the first observation."""
        said = [Text(self._instruction)] if self._instruction else []
        return (*said, *shown("observation", observation))

    async def call(
        self, name: str, arguments: Mapping[str, Any], about: Mapping[str, Any]
    ) -> Answer:
        """See `Toolset.call`."""
        if name != _ACT:
            raise Misused(f"there is no tool {name!r:.100}; there is act")
        if "action" not in arguments:
            raise Misused(f"act: action is missing; it takes {self._env.action_space}")
        action = action_of(self._env.action_space, arguments["action"])
        observation, reward, terminated, truncated, _ = await self._env.step(action, about)
        over = terminated or truncated
        said = [f"reward: {reward:g}", *(["the episode is over"] if over else [])]
        return Answer((*shown("observation", observation), Text("\n".join(said))), over)


def schema_of(space: Space[Any]) -> dict[str, Any]:
    """The JSON schema of a space's members, as far as one says it."""
    match space:
        case spaces.Discrete():
            first = int(space.start)
            return {"type": "integer", "minimum": first, "maximum": first + int(space.n) - 1}
        case spaces.Text():
            return {"type": "string", "maxLength": space.max_length}
        case spaces.Dict():
            parts = {name: schema_of(part) for name, part in space.spaces.items()}
            return {"type": "object", "properties": parts, "required": list(parts)}
        case spaces.Tuple():
            return {"type": "array", "prefixItems": [schema_of(part) for part in space.spaces]}
        case spaces.Box() | spaces.MultiBinary() | spaces.MultiDiscrete():
            whole = not isinstance(space, spaces.Box) or space.dtype.kind in "iu"
            return _nested(space.shape, "integer" if whole else "number")
    return {}


def _nested(shape: tuple[int, ...], kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def action_of(space: Space[Any], value: Any) -> Any:
    """The member of a space that JSON stands for. Raises Misused, with what the space takes."""
    try:
        action = _member(space, value)
        if space.contains(action):
            return action
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        pass  # said below, as for what is of the right form and outside
    raise Misused(f"act: action={json.dumps(value):.200}: is not in {space}")


def _member(space: Space[Any], value: Any) -> Any:
    match space:
        case spaces.Dict():
            return {name: _member(part, value[name]) for name, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_member(part, one) for part, one in zip(space.spaces, value, strict=True))
        case spaces.Discrete():
            # True is an int, and 1.5 is no action.
            if isinstance(value, bool) or int(value) != value:
                raise ValueError
            return int(value)
        case spaces.Box() | spaces.MultiBinary() | spaces.MultiDiscrete():
            found = np.asarray(value)
            with np.errstate(invalid="ignore", over="ignore"):
                member = found.astype(space.dtype)
            # 0.3 is 0.3 to 32 bits, too, and 1.5 is no whole number.
            if member.dtype.kind != "f" and not np.array_equal(member, found):
                raise ValueError
            return member
    return space.from_jsonable([value])[0]


def shown(name: str, value: Any) -> tuple[Text | Image, ...]:
    """An observation for a model: text as it is, a frame as an image, anything else as JSON."""
    if isinstance(value, str):
        return (Text(capped(value)),)
    if isinstance(value, np.ndarray) and png.is_frame(value):
        data = base64.b64encode(png.write(value)).decode()
        return (Text(f"{name}:"), Image(f"data:image/png;base64,{data}"))
    if isinstance(value, Mapping):
        return tuple(part for key, one in value.items() for part in shown(f"{name}.{key}", one))
    if isinstance(value, tuple):
        return tuple(
            part for index, one in enumerate(value) for part in shown(f"{name}[{index}]", one)
        )
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return (Text(capped(f"{name}: {json.dumps(plain, default=str)}")),)
