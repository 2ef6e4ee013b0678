"""Items and tools of OpenAI's responses, read into messages."""

from __future__ import annotations

from typing import Any

from megaflow.dialects.fields import Fields, objects
from megaflow.errors import InvalidArgument
from megaflow.generation import (
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

__all__ = ["read_items", "read_tools"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def read_items(raw: object) -> tuple[Message, ...]:
    """The input as messages.

    Reasoning, text and calls that follow each other are one message of the assistant's, as they were when it
    answered, so that the prompt is rendered as it was.
    """
    if raw is None or raw == "":
        return ()
    if isinstance(raw, str):
        return (Message("user", (Text(raw),)),)
    if not isinstance(raw, list):
        raise InvalidArgument("input: expected a string or a list of items")
    messages: list[Message] = []
    for each in objects(raw, "input"):
        message = _item(each)
        if message.role == "assistant" and messages and messages[-1].role == "assistant":
            message = Message("assistant", messages.pop().parts + message.parts)
        messages.append(message)
    return tuple(messages)


def _item(raw: Fields) -> Message:
    kind = raw.text("type") or "message"
    raw.drop(("status", "phase"))
    match kind:
        case "message":
            message = _message(raw)
        case "function_call":
            call = ToolCall(
                raw.need_text("call_id"), raw.need_text("name"), raw.text("arguments") or ""
            )
            message = Message("assistant", (call,))
        case "function_call_output":
            result = ToolResult(raw.need_text("call_id"), _content(raw, "output"))
            message = Message("tool", (result,))
        case "reasoning":
            message = Message("assistant", _reasoning(raw))
        case _:
            raise InvalidArgument(
                f"{raw.path('type')}: {kind!r}; message, function_call, function_call_output and reasoning"
                " are carried"
            )
    raw.drop(("id",))
    raw.done()
    return message


def _message(raw: Fields) -> Message:
    spelled = raw.need_text("role")
    if spelled not in _ROLES:
        raise InvalidArgument(f"{raw.path('role')}: {spelled!r} is none of {', '.join(_ROLES)}")
    return Message(_ROLES[spelled], _content(raw, "content"))


def _content(raw: Fields, name: str) -> tuple[Text | Image, ...]:
    path, content = raw.path(name), raw.take(name)
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise InvalidArgument(f"{path}: expected a string or a list of parts")
    return tuple(_part(each) for each in objects(content, path))


def _part(raw: Fields) -> Text | Image:
    match raw.need_text("type"):
        case "input_text" | "output_text" | "text":
            return Text(raw.need_text("text"))
        case "refusal":
            return Text(raw.need_text("refusal"))
        case "input_image":
            return Image(raw.need_text("image_url"), raw.text("detail"))
        case other:
            raise InvalidArgument(f"{raw.path('type')}: {other!r}; text and images are carried")


def _reasoning(raw: Fields) -> tuple[Part, ...]:
    """What was thought; where only its provider can read it, nothing."""
    said = raw.items("content")
    told = raw.items("summary")
    signature = raw.text("encrypted_content")
    pieces = [each.need_text("text") for each in objects(said or told, raw.path("content"))]
    return (Reasoning("".join(pieces), signature),) if pieces else ()


def read_tools(raw: list[Any]) -> tuple[Tool, ...]:
    """The tools; InvalidArgument for one that its provider would run."""
    tools = []
    for each in objects(raw, "tools"):
        if (kind := each.need_text("type")) != "function":
            raise InvalidArgument(
                f"{each.path('type')}: {kind!r} runs at its provider; give a function of your own"
            )
        tools.append(
            Tool(
                each.need_text("name"),
                each.text("description"),
                each.mapping("parameters"),
                each.flag("strict"),
            )
        )
        each.done()
    return tuple(tools)
