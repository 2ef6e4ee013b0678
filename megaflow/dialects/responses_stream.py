"""Answers of OpenAI's responses: whole, and as a stream of items that open, grow and close."""

from __future__ import annotations

from typing import Any

from megaflow.dialects.base import Stamp
from megaflow.dialects.openai_errors import error_type
from megaflow.dialects.sse import encode
from megaflow.errors import MegaflowError
from megaflow.generation import (
    Assembler,
    CallDelta,
    CallStart,
    Completion,
    Event,
    Finish,
    Reasoning,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    Tokens,
    ToolCall,
    Usage,
)

__all__ = ["ResponseWriter", "response_json"]

_INCOMPLETE = {
    "length": "max_output_tokens",
    "aborted": "max_output_tokens",
    "content_filter": "content_filter",
}


def response_json(
    request: Request, stamp: Stamp, completion: Completion | None, error: Any = None
) -> dict[str, Any]:
    """A response: finished with `completion`, failed with `error`, in progress without either."""
    out: dict[str, Any] = {
        "id": f"resp_{stamp.id}",
        "object": "response",
        "created_at": stamp.created,
        "model": stamp.model,
        "status": "failed" if error else "in_progress",
        "error": error,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_output_tokens": request.sampling.max_tokens,
        "tool_choice": _choice_json(request),
        "tools": [_tool_json(tool) for tool in request.tools],
        "usage": None,
    }
    if completion is not None:
        why = _INCOMPLETE.get(completion.finish_reason)
        out["status"] = "incomplete" if why else "completed"
        out["incomplete_details"] = {"reason": why} if why else None
        out["output"] = [
            _item_json(part, f"{stamp.id}_{number}") for number, part in enumerate(completion.parts)
        ]
        out["usage"] = None if completion.usage is None else _usage_json(completion.usage)
    return out


def _choice_json(request: Request) -> Any:
    choice = request.tool_choice
    if choice is None:
        return "auto"
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _tool_json(tool: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item_json(
    part: Text | Reasoning | ToolCall, id: str, status: str = "completed"
) -> dict[str, Any]:
    match part:
        case Text(text):
            return {
                "type": "message",
                "id": f"msg_{id}",
                "role": "assistant",
                "status": status,
                "content": [_text_part(text)] if status == "completed" else [],
            }
        case Reasoning(text):
            content = [{"type": "reasoning_text", "text": text}] if text else []
            return {"type": "reasoning", "id": f"rs_{id}", "summary": [], "content": content}
        case ToolCall(call_id, name, arguments):
            return {
                "type": "function_call",
                "id": f"fc_{id}",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
                "status": status,
            }


class ResponseWriter:
    """Writes one answer's stream; events are numbered from 0."""

    def __init__(self, request: Request, stamp: Stamp) -> None:
        self._request = request
        self._stamp = stamp
        self._sequence = 0
        self._whole = Assembler(stamp.model)
        self._open: Text | Reasoning | ToolCall | None = None
        self._pieces: list[str] = []
        self._item = -1

    def begin(self) -> bytes:
        """What stands before the first event."""
        response = response_json(self._request, self._stamp, None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def event(self, event: Event) -> bytes:
        """What an event becomes."""
        if not isinstance(event, Tokens):
            self._whole.add(event)
        match event:
            case TextDelta(text):
                return self._opened(Text("")) + self._grow("response.output_text.delta", text)
            case ReasoningDelta(text):
                return self._opened(Reasoning("")) + self._grow(
                    "response.reasoning_text.delta", text
                )
            case CallStart(_, id, name):
                return self._close() + self._opened(ToolCall(id, name, ""))
            case CallDelta(_, arguments):
                return self._grow("response.function_call_arguments.delta", arguments)
            case Tokens():
                return b""
            case Finish():
                return self._close() + self._finish()

    def fail(self, error: MegaflowError) -> bytes:
        """How a stream ends that cannot go on."""
        what = {"code": error_type(error), "message": error.message}
        return self._event(
            "response.failed", response=response_json(self._request, self._stamp, None, what)
        )

    def _finish(self) -> bytes:
        response = response_json(self._request, self._stamp, self._whole.completion())
        return self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **what: Any) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        return encode({"type": kind, "sequence_number": number, **what}, kind)

    def _where(self, part: Text | Reasoning | ToolCall) -> dict[str, Any]:
        id = _item_json(part, f"{self._stamp.id}_{self._item}")["id"]
        place = {"item_id": id, "output_index": self._item}
        return place if isinstance(part, ToolCall) else {**place, "content_index": 0}

    def _opened(self, part: Text | Reasoning | ToolCall) -> bytes:
        if type(self._open) is type(part) and not isinstance(part, ToolCall):
            return b""
        out = self._close()
        self._open, self._pieces = part, []
        self._item += 1
        item = _item_json(part, f"{self._stamp.id}_{self._item}", "in_progress")
        out += self._event("response.output_item.added", output_index=self._item, item=item)
        if isinstance(part, Text):
            where = self._where(part)
            out += self._event("response.content_part.added", **where, part=_text_part(""))
        return out

    def _grow(self, kind: str, text: str) -> bytes:
        assert self._open is not None
        self._pieces.append(text)
        more: dict[str, Any] = {"logprobs": []} if isinstance(self._open, Text) else {}
        return self._event(kind, **self._where(self._open), delta=text, **more)

    def _close(self) -> bytes:
        part, text = self._open, "".join(self._pieces)
        if part is None:
            return b""
        self._open = None
        where = self._where(part)
        whole: Text | Reasoning | ToolCall
        match part:
            case Text():
                whole = Text(text)
                out = self._event("response.output_text.done", **where, text=text, logprobs=[])
                done = _text_part(text)
                out += self._event("response.content_part.done", **where, part=done)
            case Reasoning():
                whole = Reasoning(text)
                out = self._event("response.reasoning_text.done", **where, text=text)
            case ToolCall(id, name):
                whole = ToolCall(id, name, text)
                kind = "response.function_call_arguments.done"
                out = self._event(kind, **where, name=name, arguments=text)
        item = _item_json(whole, f"{self._stamp.id}_{self._item}")
        return out + self._event("response.output_item.done", output_index=self._item, item=item)
