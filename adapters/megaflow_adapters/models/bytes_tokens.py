"""Token ids for models that have no engine: bytes, so that a conversation that goes on extends its prefix."""

from __future__ import annotations

from collections.abc import Iterable

from megaflow.generation import (
    Completion,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ["END", "answer_ids", "prompt_ids"]

END = 256
"""Ends an answer; the other ids are bytes of UTF-8."""
_ROLES = {"system": 257, "user": 258, "assistant": 259, "tool": 260}


def _text(parts: Iterable[Part]) -> str:
    return "".join(map(_part, parts))


def _part(part: Part) -> str:
    match part:
        case Text(text) | Reasoning(text):
            return text
        case ToolCall(id, name, arguments):
            return f"<call {id} {name}>{arguments}</call>"
        case ToolResult(call_id, content):
            return f"<result {call_id}>{_text(content)}</result>"
        case Image(url):
            return f"<image {url}>"


def _message(message: Message) -> tuple[int, ...]:
    return (_ROLES[message.role], *_text(message.parts).encode(), END)


def prompt_ids(request: Request) -> tuple[int, ...]:
    """The prompt's ids; one that is given as ids is these."""
    if isinstance(request.prompt, tuple):
        return request.prompt
    if request.prompt is not None:
        return tuple(request.prompt.encode())
    told = (id for message in request.messages for id in _message(message))
    return (*told, _ROLES["assistant"])


def answer_ids(answer: Completion) -> tuple[int, ...]:
    """The answer's ids, the end included."""
    return (*_text(answer.parts).encode(), END)
