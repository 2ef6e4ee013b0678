"""`/v1/messages`, as Anthropic's clients speak it.

No upstream of ours knows this dialect's own fields, so one that is neither translated nor dropped by name is
refused. What is dropped changes how a provider caches, bills or trims, and not what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from megaflow.dialects.anthropic_errors import failure
from megaflow.dialects.base import Stamp
from megaflow.dialects.fields import Fields, objects
from megaflow.dialects.messages_stream import MessageWriter, stop_json, usage_json
from megaflow.dialects.sampling import read_stop
from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.generation import (
    Completion,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

__all__ = ["Messages"]

DROPPED = (
    "metadata",
    "service_tier",
    "thinking",
    "context_management",
    "cache_control",
    "betas",
    "inference_geo",
    "speed",
)
REFUSED: Mapping[str, str] = {
    "mcp_servers": "the gateway calls no tools itself; give the tools",
    "container": "the gateway runs no code",
}


_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


class Messages:
    """Anthropic's messages."""

    name = "messages"
    path = "/messages"

    def request(self, body: object) -> Request:
        """The request; InvalidArgument names the field that is wrong."""
        raw = Fields(body)
        raw.refuse(REFUSED)
        raw.drop(DROPPED)
        limit = raw.integer("max_tokens")
        if limit is None or limit < 1:
            raise InvalidArgument(f"max_tokens: {limit}; expected at least 1")
        effort, form = _output(Fields(raw.take("output_config") or {}, "output_config"))
        system = _texts(raw.take("system"), "system")
        messages = [Message("system", system)] if system else []
        for each in objects(raw.items("messages"), "messages"):
            messages += _messages(each)
        choice, parallel = _choice(raw)
        request = Request(
            model=raw.need_text("model"),
            messages=tuple(messages),
            tools=tuple(_tool(each) for each in objects(raw.items("tools"), "tools")),
            tool_choice=choice,
            parallel_tool_calls=parallel,
            sampling=Sampling(
                max_tokens=limit,
                temperature=raw.number("temperature"),
                top_p=raw.number("top_p"),
                top_k=raw.integer("top_k"),
                stop=read_stop(raw, "stop_sequences"),
            ),
            response_format=form,
            reasoning_effort=effort,
            stream=bool(raw.flag("stream")),
            include_usage=True,
        )
        raw.done()
        if not request.messages:
            raise InvalidArgument("messages: is empty; a call needs at least one")
        return request

    def reply(self, request: Request, completion: Completion, stamp: Stamp) -> dict[str, Any]:
        """The whole answer."""
        reason, sequence = stop_json(completion.finish_reason, completion.stop_sequence)
        return {
            "id": f"msg_{stamp.id}",
            "type": "message",
            "role": "assistant",
            "model": stamp.model,
            "content": [_block_json(part) for part in completion.parts],
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_json(completion.usage),
        }

    def writer(self, request: Request, stamp: Stamp) -> MessageWriter:
        """Writes the answer as events."""
        return MessageWriter(stamp)

    def failure(self, error: MegaflowError) -> dict[str, Any]:
        """An error's body."""
        return failure(error)


def _output(raw: Fields) -> tuple[str | None, Mapping[str, Any] | None]:
    """Effort and format; the format in the form of chat completions."""
    effort, form = raw.text("effort"), raw.mapping("format")
    raw.done()
    if form is None:
        return effort, None
    if form.get("type") != "json_schema":
        raise InvalidArgument(f"{raw.path('format')}.type: expected json_schema")
    schema = {"name": "output", "schema": form.get("schema")}
    return effort, {"type": "json_schema", "json_schema": schema}


def _texts(raw: object, path: str) -> tuple[Text, ...]:
    if raw is None or raw == "":
        return ()
    if isinstance(raw, str):
        return (Text(raw),)
    if not isinstance(raw, list):
        raise InvalidArgument(f"{path}: expected a string or a list of blocks")
    parts = [_part(each) for each in objects(raw, path)]
    if not all(isinstance(part, Text) for part in parts):
        raise InvalidArgument(f"{path}: only text stands here")
    return tuple(part for part in parts if isinstance(part, Text))


def _messages(raw: Fields) -> list[Message]:
    """One message of theirs: its tool results are messages of their own here, and come first."""
    role = _ROLES.get(spelled := raw.need_text("role"))
    if role is None:
        raise InvalidArgument(f"{raw.path('role')}: {spelled!r}; expected user or assistant")
    path, content = raw.path("content"), raw.take("content")
    raw.drop(("cache_control",))
    raw.done()
    if isinstance(content, str):
        return [Message(role, (Text(content),) if content else ())]
    if not isinstance(content, list):
        raise InvalidArgument(f"{path}: expected a string or a list of blocks")
    parts = [_part(each) for each in objects(content, path)]
    results = [Message("tool", (part,)) for part in parts if isinstance(part, ToolResult)]
    others = tuple(part for part in parts if part is not None and not isinstance(part, ToolResult))
    return results + ([Message(role, others)] if others or not results else [])


def _part(raw: Fields) -> Part | None:
    kind = raw.need_text("type")
    raw.drop(("cache_control", "citations"))
    part: Part | None
    match kind:
        case "text":
            part = Text(raw.need_text("text"))
        case "image":
            part = _image(Fields(raw.take("source"), raw.path("source")))
        case "thinking":
            part = Reasoning(raw.need_text("thinking"), raw.text("signature"))
        case "redacted_thinking":  # only its provider could read it
            raw.take("data")
            part = None
        case "tool_use":
            arguments = raw.mapping("input") or {}
            raw.drop(("caller",))
            part = ToolCall(raw.need_text("id"), raw.need_text("name"), _json(arguments))
        case "tool_result":
            part = _result(raw)
        case _:
            raise InvalidArgument(
                f"{raw.path('type')}: {kind!r}; text, image, thinking, tool_use and tool_result are carried"
            )
    raw.done()
    return part


def _result(raw: Fields) -> ToolResult:
    call = raw.need_text("tool_use_id")
    path, content = raw.path("content"), raw.take("content")
    error = bool(raw.flag("is_error"))
    if content is None or isinstance(content, str):
        return ToolResult(call, (Text(content),) if content else (), error)
    if not isinstance(content, list):
        raise InvalidArgument(f"{path}: expected a string or a list of blocks")
    parts = [_part(each) for each in objects(content, path)]
    shown = tuple(part for part in parts if isinstance(part, Text | Image))
    if len(shown) != len(parts):
        raise InvalidArgument(f"{path}: only text and images stand in a result")
    return ToolResult(call, shown, error)


def _image(source: Fields) -> Image:
    match source.need_text("type"):
        case "url":
            return Image(source.need_text("url"))
        case "base64":
            return Image(f"data:{source.need_text('media_type')};base64,{source.need_text('data')}")
        case other:
            raise InvalidArgument(f"{source.path('type')}: {other!r}; expected url or base64")


def _tool(raw: Fields) -> Tool:
    if (kind := raw.text("type") or "custom") != "custom":
        raise InvalidArgument(
            f"{raw.path('type')}: {kind!r} runs at its provider; give a tool of your own"
        )
    raw.drop(("cache_control", "eager_input_streaming", "defer_loading", "allowed_callers"))
    raw.drop(("input_examples",))
    tool = Tool(
        raw.need_text("name"),
        raw.text("description"),
        raw.mapping("input_schema"),
        raw.flag("strict"),
    )
    raw.done()
    return tool


def _choice(raw: Fields) -> tuple[ToolChoice | None, bool | None]:
    given = raw.take("tool_choice")
    if given is None:
        return None, None
    choice = Fields(given, "tool_choice")
    kind, single = choice.need_text("type"), choice.flag("disable_parallel_tool_use")
    parallel = None if single is None else not single
    name = choice.text("name")
    choice.done()
    match kind:
        case "auto" | "none":
            return ToolChoice(kind), parallel
        case "any":
            return ToolChoice("required"), parallel
        case "tool" if name:
            return ToolChoice("tool", name), parallel
    raise InvalidArgument(
        f"tool_choice.type: {kind!r}; expected auto, any, none, or tool and a name"
    )


def _block_json(part: Text | Reasoning | ToolCall) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Reasoning(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature or ""}
        case ToolCall(id, name, arguments):
            return {"type": "tool_use", "id": id, "name": name, "input": _input(arguments)}


def _input(arguments: str) -> Any:
    """The arguments as an object: this dialect has no room for a call whose arguments are none."""
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"_unparsed": arguments}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
