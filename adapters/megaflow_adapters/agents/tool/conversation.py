"""What a model is shown: everything since the beginning, or, where that grows too long, without old answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from megaflow.errors import FailedPrecondition
from megaflow.generation import Completion, Image, Message, Text, ToolCall, ToolResult
from megaflow_adapters.agents.tool.toolset import Answer

__all__ = ["Conversation"]

_LEFT_OUT: Final = Text("[left out: the conversation would be too long]")
# Characters of a token, until the engine has counted some; and how many tokens an image is taken for.
_TOKEN: Final = 4.0
_IMAGE: Final = 1500
# What is left when old answers are left out, of the limit: so that it is not done again at every turn, since each time
# makes a prompt that does not continue the last one, and so a row of its own in training.
_ROOM: Final = 0.6


class Conversation:
    """The messages of one attempt.

    Args:
        system, task: the first two.
        most_tokens: of a prompt; None for no limit.
    """

    def __init__(
        self, system: str, task: Sequence[Text | Image], *, most_tokens: int | None
    ) -> None:
        self._messages = [
            Message("system", (Text(system),)),
            Message("user", tuple(task)),
        ]
        self._most = most_tokens
        self._token = _TOKEN

    @property
    def messages(self) -> tuple[Message, ...]:
        """What to ask with."""
        return tuple(self._messages)

    def answered(self, completion: Completion) -> None:
        """The model has answered what was asked last."""
        if completion.usage is not None and completion.usage.prompt_tokens:
            size = sum(map(_size, self._messages))
            self._token = max(size / completion.usage.prompt_tokens, 0.5)
        self._messages.append(Message("assistant", completion.parts))

    def results(self, call: ToolCall, answer: Answer, *, is_error: bool = False) -> None:
        """A call of the model's gave this."""
        result = ToolResult(call.id, answer.content, is_error)
        self._messages.append(Message("tool", (result,)))

    def ask(self, text: str) -> None:
        """Say something to the model."""
        self._messages.append(Message("user", (Text(text),)))

    def shorten(self) -> None:
        """Leave old answers of tools out where the next prompt would be too long; the last turn's stay.

        Raises:
            FailedPrecondition: it is too long without them.
        """
        if self._most is None or self._tokens() <= self._most:
            return
        last = max(
            (index for index, one in enumerate(self._messages) if one.role == "assistant"),
            default=0,
        )
        for index, message in enumerate(self._messages[:last]):
            if self._tokens() <= self._most * _ROOM:
                return
            if message.role == "tool":
                (result,) = message.parts
                assert isinstance(result, ToolResult)
                self._messages[index] = Message("tool", (replace(result, content=(_LEFT_OUT,)),))
        if self._tokens() > self._most:
            raise FailedPrecondition(
                f"the conversation has some {self._tokens():.0f} tokens without the old answers of its tools, and "
                f"context_tokens={self._most}: give more, or a task with shorter answers"
            )

    def _tokens(self) -> float:
        return sum(map(_size, self._messages)) / self._token


def _size(message: Message) -> int:
    """Characters, about."""
    size = 0
    for part in message.parts:
        match part:
            case Image():
                size += int(_IMAGE * _TOKEN)
            case ToolCall():
                size += len(part.name) + len(part.arguments)
            case ToolResult():
                size += _size(Message("user", part.content))
            case _:
                size += len(part.text)
    return size
