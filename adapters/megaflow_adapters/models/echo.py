"""A model that repeats what the user said last: for trying a set-up out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from megaflow.generation import Request, Text
from megaflow_adapters.models.scripted import ScriptedModel
from megaflow_adapters.models.settings import checked

__all__ = ["EchoModel"]


class EchoModel(ScriptedModel):
    """Answers with the text of the last message of the user's, or with the prompt.

    Args:
        delay: seconds before an answer.
    """

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> EchoModel:
        """A table with `delay`, or without."""
        return cls(delay=checked(_Table, settings).delay)

    def __init__(self, *, name: str = "echo", delay: float = 0.0) -> None:
        super().__init__(_said, name=name, delay=delay)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # Seconds before an answer.
    delay: float = Field(default=0.0, ge=0)


def _said(request: Request) -> str:
    if request.prompt is not None:
        prompt = request.prompt
        return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    for message in reversed(request.messages):
        if message.role == "user":
            return "".join(part.text for part in message.parts if isinstance(part, Text))
    return ""
