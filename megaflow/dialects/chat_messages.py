"""Messages and tools of chat completions, from and to JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from megaflow.dialects.fields import Fields, objects
from megaflow.errors import InvalidArgument
from megaflow.generation import (
    Completion,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

__all__ = [
    "answer_json",
    "choice_json",
    "messages_json",
    "read_choice",
    "read_messages",
    "read_tools",
    "tools_json",
]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def read_messages(raw: list[Any], path: str = "messages") -> tuple[Message, ...]:
    """The messages; InvalidArgument names the one that is wrong."""
    return tuple(_message(each) for each in objects(raw, path))


def _message(raw: Fields) -> Message:
    spelled = raw.need_text("role")
    role = _ROLES.get(spelled)
    if role is None:
        known = ", ".join(_ROLES)
        raise InvalidArgument(f"{raw.path('role')}: {spelled!r} is none of {known}")
    name = raw.text("name")
    raw.refuse({"function_call": "use tool_calls", "audio": "audio is not carried"})
    reasoning = raw.text("reasoning_content") or raw.text("reasoning")
    content = _content(raw)
    if role == "tool":
        call = raw.need_text("tool_call_id")
        raw.drop(("reasoning", "tool_calls"))
        raw.done()
        return Message(role, (ToolResult(call, content),), name)
    calls = tuple(_call(each) for each in objects(raw.items("tool_calls"), raw.path("tool_calls")))
    refusal = raw.text("refusal")
    # What clients and their libraries add to an answer that they send back, and no prompt contains.
    raw.drop(("reasoning", "annotations", "tool_call_id", "provider_specific_fields"))
    raw.drop(("thinking_blocks", "reasoning_details", "images"))
    raw.done()
    parts: tuple[Part, ...] = (
        *((Reasoning(reasoning),) if reasoning else ()),
        *content,
        *((Text(refusal),) if refusal else ()),
        *calls,
    )
    return Message(role, parts, name)


def _content(raw: Fields) -> tuple[Text | Image, ...]:
    path = raw.path("content")
    content = raw.take("content")
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise InvalidArgument(f"{path}: expected a string or a list of parts")
    return tuple(_part(each) for each in objects(content, path))


def _part(raw: Fields) -> Text | Image:
    kind = raw.need_text("type")
    raw.drop(("cache_control",))
    if kind in ("text", "refusal"):
        part: Text | Image = Text(raw.need_text(kind))
    elif kind == "image_url":
        image = Fields(raw.take("image_url"), raw.path("image_url"))
        part = Image(image.need_text("url"), image.text("detail"))
    else:
        raise InvalidArgument(f"{raw.path('type')}: {kind!r}; text and image_url are carried")
    raw.done()
    return part


def _call(raw: Fields) -> ToolCall:
    if (kind := raw.text("type") or "function") != "function":
        raise InvalidArgument(f"{raw.path('type')}: {kind!r}; only function calls are carried")
    function = Fields(raw.take("function"), raw.path("function"))
    return ToolCall(
        raw.need_text("id"), function.need_text("name"), function.text("arguments") or ""
    )


def read_tools(raw: list[Any], path: str = "tools") -> tuple[Tool, ...]:
    """The tools; InvalidArgument for one that is no function."""
    tools = []
    for each in objects(raw, path):
        if (kind := each.need_text("type")) != "function":
            raise InvalidArgument(f"{each.path('type')}: {kind!r}; only functions are carried")
        function = Fields(each.take("function"), each.path("function"))
        tools.append(
            Tool(
                function.need_text("name"),
                function.text("description"),
                function.mapping("parameters"),
                function.flag("strict"),
            )
        )
        function.done()
    return tuple(tools)


def read_choice(raw: object, path: str = "tool_choice") -> ToolChoice | None:
    """The tool choice."""
    match raw:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(raw)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice("tool", name)
    raise InvalidArgument(f"{path}: expected auto, none, required or a function, got {raw!r}")


def messages_json(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as chat completions spells them."""
    return [_message_json(each) for each in messages]


def _message_json(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role}
    if message.name is not None:
        out["name"] = message.name
    plain: list[Text | Image] = []
    for part in message.parts:
        match part:
            case Text() | Image():
                plain.append(part)
            case Reasoning(text):
                out["reasoning_content"] = out.get("reasoning_content", "") + text
            case ToolCall():
                out.setdefault("tool_calls", []).append(_call_json(part))
            case ToolResult(call_id, content):
                out["tool_call_id"] = call_id
                plain += content
    out["content"] = _content_json(plain)
    if out["content"] == "" and "tool_calls" in out:
        out["content"] = None
    return out


def _content_json(parts: list[Text | Image]) -> Any:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_part_json(part) for part in parts]


def _part_json(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.url, **detail}}


def _call_json(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def tools_json(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Tools as chat completions spells them."""
    out = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.name}
        for name in ("description", "parameters", "strict"):
            if (value := getattr(tool, name)) is not None:
                function[name] = value
        out.append({"type": "function", "function": function})
    return out


def choice_json(choice: ToolChoice) -> Any:
    """A tool choice as chat completions spells it."""
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def answer_json(completion: Completion) -> dict[str, Any]:
    """An answer as an assistant's message."""
    out: dict[str, Any] = {"role": "assistant", "content": completion.text or None}
    thought = "".join(part.text for part in completion.parts if isinstance(part, Reasoning))
    if thought:
        out["reasoning_content"] = thought
    if completion.tool_calls:
        out["tool_calls"] = [_call_json(call) for call in completion.tool_calls]
    elif out["content"] is None:
        out["content"] = ""
    return out
