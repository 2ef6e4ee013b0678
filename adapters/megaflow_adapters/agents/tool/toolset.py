"""What the loop has of an environment: tools, and what calling one comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from megaflow.generation import Image, Text, Tool

__all__ = ["Answer", "Misused", "Toolset", "capped", "field", "function"]

# Characters of one answer that a model is shown; the middle of a longer one is left out.
LONGEST_ANSWER = 16_000


class Misused(Exception):
    """A call that was not made, since it was wrong: the message is for the model."""


@dataclass(frozen=True)
class Answer:
    """What a call gave. Attributes: over: whether the episode has ended with it."""

    content: tuple[Text | Image, ...]
    over: bool = False

    @classmethod
    def of_text(cls, text: str, *, over: bool = False) -> Answer:
        """Text alone."""
        return cls((Text(text),), over)


class Toolset(Protocol):
    """The tools for one attempt at one environment."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the model may call."""
        ...

    @property
    def system(self) -> str:
        """What the model is told of them first."""
        ...

    def begin(self, observation: Any) -> tuple[Text | Image, ...]:
        """What the model is asked, once the episode has begun."""
        ...

    async def call(
        self, name: str, arguments: Mapping[str, Any], about: Mapping[str, Any]
    ) -> Answer:
        """Call a tool.

        Args:
            about: kept beside the actions that it takes.

        Raises:
            Misused: there is no such tool, or these are not its arguments; nothing was done.
        """
        ...


def function(name: str, description: str, properties: Mapping[str, Any]) -> Tool:
    """A tool all of whose arguments have to be given."""
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name, description, schema)


def field(tool: str, arguments: Mapping[str, Any], name: str) -> str:
    """A text among a call's arguments. Raises Misused."""
    value = arguments.get(name)
    if not isinstance(value, str):
        given = "is missing" if name not in arguments else f"is {value!r:.100}"
        raise Misused(f"{tool}: {name} {given}; it takes text")
    return value


def capped(text: str) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= LONGEST_ANSWER:
        return text
    half = LONGEST_ANSWER // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out} characters are left out]\n{text[-half:]}"
