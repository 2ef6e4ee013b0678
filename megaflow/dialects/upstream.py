"""The other direction: what an OpenAI-compatible upstream is sent, and what it answers.

Token ids are read where vLLM puts them (`prompt_token_ids` of the answer or the choice, `token_ids` of the
choice) and where SGLang does (`meta_info.output_token_logprobs`). What an upstream sends is checked as far as
it is used: whatever is not what it should be is `Unavailable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from megaflow.dialects import chat_messages as spelled
from megaflow.dialects.sampling import read_usage, sampling_json
from megaflow.errors import Unavailable
from megaflow.generation import (
    CallDelta,
    CallStart,
    Completion,
    Event,
    Finish,
    FinishReason,
    Reasoning,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    Tokens,
    ToolCall,
    Usage,
    WeightVersion,
)

__all__ = ["Chunks", "body", "completion", "path", "version_of"]

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "abort": "aborted",
    "aborted": "aborted",
}


def path(request: Request) -> str:
    """Below `/v1`: where the request goes."""
    return "/completions" if request.prompt is not None else "/chat/completions"


def body(request: Request, model: str, *, stream: bool) -> dict[str, Any]:
    """What the upstream is sent; `model` is its own name for it."""
    out: dict[str, Any] = {**request.extra, "model": model, **sampling_json(request.sampling)}
    if request.prompt is not None:
        prompt = request.prompt
        out["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        if request.sampling.logprobs:
            out["logprobs"] = 0
    else:
        out["messages"] = spelled.messages_json(request.messages)
        if request.sampling.logprobs:
            out["logprobs"] = True
    if request.tools:
        out["tools"] = spelled.tools_json(request.tools)
    if request.tool_choice is not None:
        out["tool_choice"] = spelled.choice_json(request.tool_choice)
    for name in ("parallel_tool_calls", "response_format", "reasoning_effort"):
        if (value := getattr(request, name)) is not None:
            out[name] = value
    if stream:
        out["stream"] = True
        out["stream_options"] = {"include_usage": True}
    return out


def version_of(raw: object) -> WeightVersion | None:
    """A weight version: what looks like a count becomes one."""
    if isinstance(raw, str):
        return int(raw) if raw.isdecimal() else raw
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _bad(what: str) -> Unavailable:
    return Unavailable(f"the upstream's answer is not what it should be: {what}")


def completion(raw: object, model: str) -> Completion:
    """A whole answer; Unavailable for what is none."""
    choice = _choice(raw)
    raw = cast("dict[str, Any]", raw)
    message = choice.get("message")
    if "text" in choice:
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        raise _bad("choices[0] has neither a message nor a text")
    ids, logprobs, texts = _tokens(choice)
    prompt = _ids(choice.get("prompt_token_ids", raw.get("prompt_token_ids")), "prompt_token_ids")
    meta = choice.get("meta_info")
    version = version_of(meta.get("weight_version")) if isinstance(meta, dict) else None
    return Completion(
        model=model,
        parts=tuple(_parts(message)),
        finish_reason=_finish(choice.get("finish_reason")),
        usage=read_usage(raw.get("usage")),
        prompt_token_ids=prompt,
        token_ids=ids,
        logprobs=logprobs,
        weight_versions=None if version is None or ids is None else (version,) * len(ids),
        token_texts=texts,
        stop_sequence=_stop(choice),
    )


def _choice(raw: object) -> dict[str, Any]:
    match raw:
        case {"choices": [dict() as choice, *_]}:
            return cast("dict[str, Any]", choice)
        case {"error": error}:
            raise _bad(f"an error under a status of success: {str(error)[:200]}")
    raise _bad("it has no choices")


def _stop(choice: Mapping[str, Any]) -> str | None:
    """vLLM and SGLang say which stop string ended it."""
    reason = choice.get("stop_reason", choice.get("matched_stop"))
    return reason if isinstance(reason, str) else None


def _finish(raw: object) -> FinishReason:
    if isinstance(raw, str) and raw in _FINISH:
        return _FINISH[raw]
    raise _bad(f"finish_reason {raw!r}")


def _text(raw: object, what: str) -> str:
    if raw is None:
        return ""
    if not isinstance(raw, str):
        raise _bad(f"{what} is no string")
    return raw


def _parts(message: Mapping[str, Any]) -> Iterator[Text | Reasoning | ToolCall]:
    thought = message.get("reasoning_content") or message.get("reasoning")
    if text := _text(thought, "reasoning_content"):
        yield Reasoning(text)
    if text := _text(message.get("content"), "content") + _text(message.get("refusal"), "refusal"):
        yield Text(text)
    for call in message.get("tool_calls") or []:
        match call:
            case {"id": str(id), "function": {"name": str(name), "arguments": str(arguments)}}:
                yield ToolCall(id, name, arguments)
            case _:
                raise _bad("a tool call without id, name or arguments")


def _ids(raw: object, what: str) -> tuple[int, ...] | None:
    if raw is None:
        return None
    if not isinstance(raw, list) or not all(type(each) is int for each in raw):
        raise _bad(f"{what} is no list of integers")
    return tuple(raw)


_Read = tuple[tuple[int, ...] | None, tuple[float, ...] | None, tuple[str, ...] | None]


def _tokens(choice: Mapping[str, Any]) -> _Read:
    """Ids, log-probs and texts; log-probs must be as many as the ids."""
    meta = choice.get("meta_info")
    if isinstance(meta, dict) and isinstance(meta.get("output_token_logprobs"), list):
        return _sglang(meta["output_token_logprobs"])
    ids = _ids(choice.get("token_ids"), "token_ids")
    logprobs, texts = _logprobs(choice.get("logprobs"))
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise _bad(f"{len(logprobs)} log-probs for {len(ids)} token ids")
    return ids, logprobs, texts


def _sglang(raw: list[Any]) -> _Read:
    ids, logprobs, texts = [], [], []
    for each in raw:
        match each:
            case [float() | int() as logprob, int(id), *rest]:
                ids.append(id)
                logprobs.append(float(logprob))
                texts.append(rest[0] if rest and isinstance(rest[0], str) else None)
            case _:
                raise _bad("an entry of output_token_logprobs is not [log-prob, id, text]")
    known = tuple(text for text in texts if text is not None)
    return tuple(ids), tuple(logprobs), known if len(known) == len(ids) else None


def _logprobs(raw: object) -> tuple[tuple[float, ...] | None, tuple[str, ...] | None]:
    match raw:
        case {"content": list(content)}:  # chat completions
            values = [each.get("logprob") if isinstance(each, dict) else None for each in content]
            texts = [each.get("token") if isinstance(each, dict) else None for each in content]
        case {"token_logprobs": list(values), "tokens": list(texts)}:  # completions
            pass
        case _:
            return None, None
    if not all(isinstance(value, float | int) for value in values):
        raise _bad("a log-prob is no number")
    if not all(isinstance(text, str) for text in texts):
        raise _bad("a token's text is no string")
    return tuple(float(cast("float", value)) for value in values), tuple(cast("list[str]", texts))


class Chunks:
    """Makes events from a stream's data, one `feed` for each `data:`."""

    def __init__(self) -> None:
        self._calls = -1
        self._reason: FinishReason | None = None
        self._stop: str | None = None
        self._usage: Usage | None = None
        self._prompt: tuple[int, ...] | None = None

    def feed(self, data: str) -> Iterator[Event]:
        """The events in it; Unavailable for what is no chunk."""
        if data == "[DONE]":
            yield self.end()
            return
        try:
            raw = json.loads(data)
        except ValueError as error:
            raise _bad("a chunk is not JSON") from error
        if not isinstance(raw, dict) or not isinstance(raw.get("choices"), list):
            raise _bad(f"a chunk without choices: {str(raw)[:200]}")
        self._usage = read_usage(raw.get("usage")) or self._usage
        choice = raw["choices"][0] if raw["choices"] else {}
        if not isinstance(choice, dict):
            raise _bad("choices[0] of a chunk is no object")
        yield from self._token_events(raw, choice)
        delta = choice.get("delta") or {}
        if "text" in choice:
            delta = {"content": choice["text"]}
        if not isinstance(delta, dict):
            raise _bad("the delta of a chunk is no object")
        yield from self._delta(delta)
        if choice.get("finish_reason") is not None:
            self._reason = _finish(choice["finish_reason"])
            self._stop = _stop(choice)

    def end(self) -> Finish:
        """The end of the stream; Unavailable where it came before the answer's."""
        if self._reason is None:
            raise Unavailable("the upstream's stream ended before its answer did")
        return Finish(self._reason, self._usage, self._stop)

    def _token_events(self, raw: Mapping[str, Any], choice: Mapping[str, Any]) -> Iterator[Tokens]:
        prompt = _ids(
            choice.get("prompt_token_ids", raw.get("prompt_token_ids")), "prompt_token_ids"
        )
        if prompt is not None and self._prompt is not None:
            prompt = None  # vLLM's comes once; one that repeats it means nothing new
        self._prompt = prompt or self._prompt
        ids, logprobs, texts = _tokens(choice)
        if ids or prompt is not None:
            yield Tokens(ids or (), logprobs, None, texts, prompt)
        elif logprobs:
            yield Tokens((), logprobs, None, texts)

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if text := _text(thought, "reasoning_content"):
            yield ReasoningDelta(text)
        if text := _text(delta.get("content"), "content") + _text(delta.get("refusal"), "refusal"):
            yield TextDelta(text)
        for call in delta.get("tool_calls") or []:
            yield from self._call(call)

    def _call(self, raw: object) -> Iterator[Event]:
        match raw:
            case {"index": int(index), "function": dict(function)}:
                pass
            case _:
                raise _bad("a tool call's delta without index or function")
        if index == self._calls + 1:
            id, name = cast("dict[str, Any]", raw).get("id"), function.get("name")
            if not isinstance(id, str) or not isinstance(name, str):
                raise _bad("a tool call begins without id or name")
            self._calls = index
            yield CallStart(index, id, name)
        elif index != self._calls:
            raise _bad(f"tool call {index} goes on after {self._calls}")
        if arguments := _text(function.get("arguments"), "arguments"):
            yield CallDelta(index, arguments)
