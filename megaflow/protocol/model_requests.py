"""What a model is asked, on the wire: a `megaflow.generation.Request` to a `GenerateRequest` and back, without loss.

Writing refuses what is no request by the name of its field, so that a caller is told before anything is sent; reading
checks what the types of the wire leave open.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from google.protobuf.message import Message as Envelope

from megaflow.errors import InvalidArgument
from megaflow.generation import (
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
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["read_request", "write_request"]

E = TypeVar("E", bound=Envelope)
# Characters of a value that an error repeats.
_MOST = 100
_ROLES = get_args(Role)
_MODES = ("auto", "none", "required", "tool")


def write_request(request: Request, *, whole: bool) -> pb.GenerateRequest:
    """The envelope.

    Args:
        whole: whether the answer is to come in one piece.

    Raises:
        InvalidArgument: a field is not what it is to be.
    """
    sampling = {each.name: getattr(request.sampling, each.name) for each in _SAMPLING}
    if isinstance(request.sampling.stop, str):
        raise InvalidArgument(f"sampling.stop={request.sampling.stop!r}: give a tuple of texts")
    choice = request.tool_choice
    return _made(
        pb.GenerateRequest,
        "",
        model=request.model,
        messages=_each(request.messages, "messages", _message),
        tools=_each(request.tools, "tools", _tool),
        tool_choice=choice
        and _made(pb.ModelToolChoice, "tool_choice.", mode=choice.mode, name=choice.name),
        parallel_tool_calls=request.parallel_tool_calls,
        sampling=_made(pb.ModelSampling, "sampling.", **sampling),
        response_format=_json(request.response_format, "response_format"),
        reasoning_effort=request.reasoning_effort,
        stream=request.stream,
        include_usage=request.include_usage,
        return_token_ids=request.return_token_ids,
        extra=_json(request.extra, "extra") if request.extra else None,
        rollout=request.rollout,
        whole=whole,
        **_prompt(request),
    )


_SAMPLING = dataclasses.fields(Sampling)


def _prompt(request: Request) -> dict[str, Any]:
    prompt = request.prompt
    if prompt is None:
        return {}
    if request.messages:
        raise InvalidArgument("prompt: a request has messages or a prompt, and this has both")
    if isinstance(prompt, str):
        _made(pb.GenerateRequest, "prompt.", text=prompt)  # else an error would not name the prompt
        return {"text": prompt}
    return {"ids": _made(pb.TokenIds, "prompt.", ids=prompt)}


def _made(kind: type[E], path: str, **fields: Any) -> E:
    """The message; InvalidArgument names the field that it does not take."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                shown = repr(value)
                shown = shown if len(shown) <= _MOST else f"{shown[:_MOST]}…"
                raise InvalidArgument(f"{path}{name}={shown}: {error}") from None
        raise


def _each(items: Iterable[Any], name: str, written: Callable[[Any, str], E]) -> list[E]:
    return [written(item, f"{name}[{at}].") for at, item in enumerate(items)]


def _message(message: Message, path: str) -> pb.ModelMessage:
    if not isinstance(message, Message):
        raise InvalidArgument(
            f"{path[:-1]}: {type(message).__name__} is no megaflow.generation.Message"
        )
    parts = _each(message.parts, f"{path}parts", _part)
    return _made(pb.ModelMessage, path, role=message.role, parts=parts, name=message.name)


def _part(part: Part, path: str) -> pb.ModelPart:
    inside: dict[str, Any]
    match part:
        case Text(text):
            inside = {"text": text}
        case Image(url, detail):
            inside = {"image": _made(pb.ModelImage, path, url=url, detail=detail)}
        case Reasoning(text, signature):
            made = _made(pb.ModelReasoning, path, text=text, signature=signature)
            inside = {"reasoning": made}
        case ToolCall(id, name, arguments):
            call = _made(pb.ModelToolCall, path, id=id, name=name, arguments=arguments)
            inside = {"tool_call": call}
        case ToolResult(call_id, content, is_error):
            parts = _each(content, f"{path}content", _shown)
            result = _made(
                pb.ModelToolResult, path, call_id=call_id, content=parts, is_error=is_error
            )
            inside = {"tool_result": result}
        case _:
            raise InvalidArgument(f"{path[:-1]}: {type(part).__name__} is no part of a message")
    return _made(pb.ModelPart, path, **inside)


def _shown(part: Text | Image, path: str) -> pb.ModelShown:
    if isinstance(part, Text):
        return _made(pb.ModelShown, path, text=part.text)
    if isinstance(part, Image):
        image = _made(pb.ModelImage, path, url=part.url, detail=part.detail)
        return pb.ModelShown(image=image)
    raise InvalidArgument(f"{path[:-1]}: {type(part).__name__} is neither a Text nor an Image")


def _tool(tool: Tool, path: str) -> pb.ModelTool:
    return _made(
        pb.ModelTool,
        path,
        name=tool.name,
        description=tool.description,
        parameters=_json(tool.parameters, f"{path}parameters"),
        strict=tool.strict,
    )


def _json(value: Mapping[str, Any] | None, path: str) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{path}: is no JSON: {error}") from None


def read_request(message: pb.GenerateRequest) -> Request:
    """The request. InvalidArgument names the field that is wrong."""
    kind = message.WhichOneof("prompt")
    if kind is not None and message.messages:
        raise InvalidArgument("prompt: a request has messages or a prompt, and this has both")
    if kind is None and not message.messages:
        raise InvalidArgument("messages: is empty, and there is no prompt; give one of them")
    return Request(
        model=message.model,
        messages=_read_each(message.messages, "messages", _read_message),
        prompt={None: None, "text": message.text, "ids": tuple(message.ids.ids)}[kind],
        tools=_read_each(message.tools, "tools", _read_tool),
        tool_choice=_read_choice(message),
        parallel_tool_calls=_given(message, "parallel_tool_calls"),
        sampling=_read_sampling(message.sampling),
        response_format=_read_json(_given(message, "response_format"), "response_format"),
        reasoning_effort=_given(message, "reasoning_effort"),
        stream=message.stream,
        include_usage=message.include_usage,
        return_token_ids=message.return_token_ids,
        extra=_read_json(message.extra or "{}", "extra") or {},
        rollout=_given(message, "rollout"),
    )


def _given(message: Envelope, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _read_each(items: Iterable[Any], name: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    return tuple(read(item, f"{name}[{at}]") for at, item in enumerate(items))


def _one_of(value: str, known: Sequence[str], path: str) -> Any:
    if value not in known:
        raise InvalidArgument(f"{path}={value[:_MOST]!r}: give one of {', '.join(known)}")
    return value


def _read_message(message: pb.ModelMessage, path: str) -> Message:
    role = _one_of(message.role, _ROLES, f"{path}.role")
    parts = _read_each(message.parts, f"{path}.parts", _read_part)
    if (role == "tool") != any(isinstance(part, ToolResult) for part in parts):
        raise InvalidArgument(
            f"{path}.parts: a message of role tool holds a result, and no other does"
        )
    if role == "tool" and len(parts) != 1:
        raise InvalidArgument(f"{path}.parts: a message of role tool holds one result alone")
    return Message(role, parts, _given(message, "name"))


def _read_part(part: pb.ModelPart, path: str) -> Part:
    match part.WhichOneof("part"):
        case "tool_call":
            return ToolCall(part.tool_call.id, part.tool_call.name, part.tool_call.arguments)
        case "reasoning":
            return Reasoning(part.reasoning.text, _given(part.reasoning, "signature"))
        case "tool_result":
            result = part.tool_result
            content = _read_each(result.content, f"{path}.content", _read_shown)
            return ToolResult(result.call_id, content, result.is_error)
        case kind:
            return _text_or_image(part, kind, path)


def _read_shown(part: pb.ModelShown, path: str) -> Text | Image:
    return _text_or_image(part, part.WhichOneof("shown"), path)


def _text_or_image(part: pb.ModelPart | pb.ModelShown, kind: str | None, path: str) -> Text | Image:
    match kind:
        case "text":
            return Text(part.text)
        case "image":
            return Image(part.image.url, _given(part.image, "detail"))
    raise InvalidArgument(f"{path}: is empty; give a part")


def _read_tool(tool: pb.ModelTool, path: str) -> Tool:
    parameters = _read_json(_given(tool, "parameters"), f"{path}.parameters")
    return Tool(tool.name, _given(tool, "description"), parameters, _given(tool, "strict"))


def _read_choice(message: pb.GenerateRequest) -> ToolChoice | None:
    choice: pb.ModelToolChoice | None = _given(message, "tool_choice")
    if choice is None:
        return None
    mode = _one_of(choice.mode, _MODES, "tool_choice.mode")
    if (mode == "tool") != choice.HasField("name"):
        raise InvalidArgument("tool_choice.name: of the mode tool, and of no other")
    return ToolChoice(mode, _given(choice, "name"))


def _read_sampling(message: pb.ModelSampling) -> Sampling:
    fields = {
        each.name: _given(message, each.name)
        for each in _SAMPLING
        if each.name not in ("stop", "logprobs")
    }
    return Sampling(**fields, stop=tuple(message.stop), logprobs=message.logprobs)


def _read_json(text: str | None, path: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path}: is no JSON object")
    return value
