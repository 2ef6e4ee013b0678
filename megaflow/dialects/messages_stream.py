"""Streams of Anthropic's messages: blocks that open, grow and close."""

from __future__ import annotations

from typing import Any

from megaflow.dialects.anthropic_errors import failure
from megaflow.dialects.base import Stamp
from megaflow.dialects.sse import encode
from megaflow.errors import MegaflowError
from megaflow.generation import (
    CallDelta,
    CallStart,
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    Tokens,
    Usage,
)

__all__ = ["MessageWriter", "stop_json", "usage_json"]

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "aborted": "max_tokens",
}


def stop_json(reason: str, sequence: str | None) -> tuple[str, str | None]:
    """Stop reason and stop sequence."""
    if reason == "stop" and sequence is not None:
        return "stop_sequence", sequence
    return _STOPS[reason], None


def usage_json(usage: Usage | None) -> dict[str, int]:
    """Usage; this dialect cannot leave it out, so zeros stand for what is not known."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    cached = usage.cached_tokens or 0
    out = {
        "input_tokens": usage.prompt_tokens - cached,
        "output_tokens": usage.completion_tokens,
    }
    if usage.cached_tokens is not None:
        out["cache_read_input_tokens"] = cached
    return out


class MessageWriter:
    """Writes one answer's stream."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._block = -1
        self._open: str | None = None

    def begin(self) -> bytes:
        """What stands before the first event."""
        message: dict[str, Any] = {
            "id": f"msg_{self._stamp.id}",
            "type": "message",
            "role": "assistant",
            "model": self._stamp.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_json(None),
        }
        return _event("message_start", message=message)

    def event(self, event: Event) -> bytes:
        """What an event becomes."""
        match event:
            case TextDelta(text):
                return self._opened("text", {"text": ""}) + self._delta("text_delta", text=text)
            case ReasoningDelta(text, signature):
                out = self._opened("thinking", {"thinking": "", "signature": ""})
                if text:
                    out += self._delta("thinking_delta", thinking=text)
                if signature:
                    out += self._delta("signature_delta", signature=signature)
                return out
            case CallStart(_, id, name):
                out = self._close()
                return out + self._opened("tool_use", {"id": id, "name": name, "input": {}})
            case CallDelta(_, arguments):
                return self._delta("input_json_delta", partial_json=arguments)
            case Tokens():
                return b""
            case Finish(reason, usage, sequence):
                stop, which = stop_json(reason, sequence)
                delta = {"stop_reason": stop, "stop_sequence": which}
                return (
                    self._close()
                    + _event("message_delta", delta=delta, usage=usage_json(usage))
                    + _event("message_stop")
                )

    def fail(self, error: MegaflowError) -> bytes:
        """How a stream ends that cannot go on."""
        return encode(failure(error), "error")

    def _opened(self, kind: str, start: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        out = self._close()
        self._open = kind
        self._block += 1
        block = {"type": kind, **start}
        return out + _event("content_block_start", index=self._block, content_block=block)

    def _delta(self, kind: str, **what: str) -> bytes:
        return _event("content_block_delta", index=self._block, delta={"type": kind, **what})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._block)


def _event(kind: str, **what: Any) -> bytes:
    return encode({"type": kind, **what}, kind)
