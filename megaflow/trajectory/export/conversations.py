"""Which calls of a model are one conversation: each begins with all that was said so far, the last answer included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from megaflow.trajectory.export.plain import dumps

__all__ = ["Conversation", "Conversations", "arguments_of", "text_of", "tool_calls_of"]

Message = Mapping[str, Any]


@dataclass(slots=True)
class Conversation:
    """What was said, as digests. `index` counts conversations from 0."""

    index: int
    said: list[bytes] = field(default_factory=list)


class Conversations:
    """The conversations of one trajectory; remembers digests, no text."""

    def __init__(self) -> None:
        self._all: list[Conversation] = []
        self._seen: set[bytes] = set()

    def place(self, messages: Sequence[Message]) -> tuple[Conversation, int, bool]:
        """The conversation that a call's messages continue, how many of them it has already, and if it is new.

        Messages that continue none begin one, with the longest beginning that they share with another counted as
        said: it was, there.
        """
        keys = [_digest(each) for each in messages]
        best, shared = None, 0
        for each in self._all:
            common = _common(each.said, keys)
            if common == len(each.said) and (best is None or common > len(best.said)):
                best = each
            shared = max(shared, common)
        new = best is None
        if best is None:
            best = Conversation(len(self._all))
            self._all.append(best)
        else:
            shared = len(best.said)
        best.said = keys
        return best, shared, new

    def seen(self, message: Message) -> bool:
        """Whether such a message was there before, anywhere; from now on it was."""
        key = _digest(message)
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def answer(self, conversation: Conversation, message: Message) -> None:
        """What the model said there."""
        key = _digest(message)
        conversation.said.append(key)
        self._seen.add(key)


def _common(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    count = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        count += 1
    return count


def _digest(message: Message) -> bytes:
    # Programs give an answer back without its reasoning, and an empty text as none.
    calls = [(name, arguments) for _, name, arguments in tool_calls_of(message)]
    content = message.get("content")
    said = [message.get("role"), message.get("tool_call_id"), content or "", calls]
    return blake2b(dumps(said).encode(), digest_size=16).digest()


def text_of(content: Any) -> str:
    """The text of a message's content; an image is named, not dropped."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list | tuple) else [content]
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text":
        return str(part.get("text", ""))
    return "[image]" if isinstance(part, Mapping) and "image_url" in part else dumps(part)


def tool_calls_of(message: Message) -> list[tuple[str, str, str]]:
    """The calls that a message asks for: id, function and arguments, these as the model wrote them."""
    calls = []
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = dumps(arguments)
        calls.append(
            (str(call.get("id") or f"call-{number}"), str(function.get("name")), arguments)
        )
    return calls


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments; under `raw` where the model wrote no JSON object."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"raw": text}
    return value if isinstance(value, dict) else {"raw": text}
