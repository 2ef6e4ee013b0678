"""What a model answers, on the wire: events of `megaflow.generation` to `ModelEvent`s and back, without loss."""

from __future__ import annotations

from typing import Any, cast

from megaflow.generation import (
    CallDelta,
    CallStart,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Tokens,
    Usage,
    WeightVersion,
)
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["read_event", "read_version", "write_event", "write_version"]


def write_event(event: Event) -> pb.ModelEvent:
    """The envelope. Raises TypeError and ValueError for what is no event."""
    match event:
        case TextDelta(text):
            return pb.ModelEvent(text=text)
        case ReasoningDelta(text, signature):
            return pb.ModelEvent(reasoning=pb.ModelReasoning(text=text, signature=signature))
        case CallStart(index, id, name):
            return pb.ModelEvent(call_start=pb.ModelCallStart(index=index, id=id, name=name))
        case CallDelta(index, arguments):
            return pb.ModelEvent(call_delta=pb.ModelCallDelta(index=index, arguments=arguments))
        case Tokens():
            return pb.ModelEvent(tokens=_tokens(event))
        case Finish(reason, usage, stop):
            finish = pb.ModelFinish(reason=reason, usage=_usage(usage), stop_sequence=stop)
            return pb.ModelEvent(finish=finish)
    raise TypeError(f"{type(event).__name__} is no event")


def _tokens(event: Tokens) -> pb.ModelTokens:
    return pb.ModelTokens(
        ids=event.ids,
        logprobs=None if event.logprobs is None else pb.LogProbs(values=event.logprobs),
        version=write_version(event.version),
        texts=None if event.texts is None else pb.TokenTexts(values=event.texts),
        prompt_ids=None if event.prompt_ids is None else pb.TokenIds(ids=event.prompt_ids),
    )


def _usage(usage: Usage | None) -> pb.ModelUsage | None:
    if usage is None:
        return None
    return pb.ModelUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def write_version(version: WeightVersion | None) -> pb.WeightVersion | None:
    """The envelope; None for none."""
    if version is None:
        return None
    if isinstance(version, str):
        return pb.WeightVersion(name=version)
    return pb.WeightVersion(count=version)


def read_version(message: pb.WeightVersion) -> WeightVersion | None:
    """The version; None for none."""
    kind = message.WhichOneof("version")
    return None if kind is None else cast("WeightVersion", getattr(message, kind))


def read_event(message: pb.ModelEvent) -> Event | None:
    """The event; None for one of a kind that this version does not know."""
    match message.WhichOneof("event"):
        case "text":
            return TextDelta(message.text)
        case "reasoning":
            return ReasoningDelta(message.reasoning.text, _given(message.reasoning, "signature"))
        case "call_start":
            start = message.call_start
            return CallStart(start.index, start.id, start.name)
        case "call_delta":
            return CallDelta(message.call_delta.index, message.call_delta.arguments)
        case "tokens":
            return _read_tokens(message.tokens)
        case "finish":
            finish = message.finish
            usage = _read_usage(finish.usage) if finish.HasField("usage") else None
            reason = cast("FinishReason", finish.reason)
            return Finish(reason, usage, _given(finish, "stop_sequence"))
    return None


def _read_tokens(message: pb.ModelTokens) -> Tokens:
    return Tokens(
        tuple(message.ids),
        tuple(message.logprobs.values) if message.HasField("logprobs") else None,
        read_version(message.version),
        tuple(message.texts.values) if message.HasField("texts") else None,
        tuple(message.prompt_ids.ids) if message.HasField("prompt_ids") else None,
    )


def _read_usage(message: pb.ModelUsage) -> Usage:
    return Usage(
        message.prompt_tokens,
        message.completion_tokens,
        _given(message, "cached_tokens"),
        _given(message, "reasoning_tokens"),
    )


def _given(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None
