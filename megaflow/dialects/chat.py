"""`/v1/chat/completions`, as OpenAI's clients speak it to us.

Fields that are neither translated, dropped nor refused by name go to the upstream as they are
(`chat_template_kwargs`, `guided_json` and the like are vLLM's).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from megaflow.dialects import chat_messages as spelled
from megaflow.dialects.base import Stamp
from megaflow.dialects.fields import Fields
from megaflow.dialects.openai_errors import failure
from megaflow.dialects.sampling import (
    DROPPED,
    REFUSED,
    read_sampling,
    refuse_alternatives,
    usage_json,
)
from megaflow.dialects.sse import DONE, encode
from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.generation import (
    CallDelta,
    CallStart,
    Completion,
    Event,
    Finish,
    ReasoningDelta,
    Request,
    TextDelta,
    Tokens,
)

__all__ = ["Chat"]


class Chat:
    """OpenAI's chat completions."""

    name = "chat"
    path = "/chat/completions"

    def request(self, body: object) -> Request:
        """The request; InvalidArgument names the field that is wrong."""
        raw = Fields(body)
        raw.refuse(REFUSED)
        raw.drop(DROPPED)
        stream = bool(raw.flag("stream"))
        options = raw.mapping("stream_options") or {}
        refuse_alternatives(raw, "top_logprobs")
        sampling = dataclasses.replace(read_sampling(raw), logprobs=bool(raw.flag("logprobs")))
        request = Request(
            model=raw.need_text("model"),
            messages=spelled.read_messages(raw.items("messages")),
            tools=spelled.read_tools(raw.items("tools")),
            tool_choice=spelled.read_choice(raw.take("tool_choice")),
            parallel_tool_calls=raw.flag("parallel_tool_calls"),
            sampling=sampling,
            response_format=raw.mapping("response_format"),
            reasoning_effort=raw.text("reasoning_effort"),
            stream=stream,
            include_usage=bool(options.get("include_usage")),
            return_token_ids=bool(raw.flag("return_token_ids")),
            extra=raw.rest(),
        )
        if not request.messages:
            raise InvalidArgument("messages: is empty; a call needs at least one")
        return request

    def reply(self, request: Request, completion: Completion, stamp: Stamp) -> dict[str, Any]:
        """The whole answer."""
        choice: dict[str, Any] = {
            "index": 0,
            "message": spelled.answer_json(completion),
            "logprobs": _logprobs(completion.token_texts, completion.logprobs)
            if request.sampling.logprobs
            else None,
            "finish_reason": finish_json(completion.finish_reason),
        }
        out: dict[str, Any] = {
            "id": f"chatcmpl-{stamp.id}",
            "object": "chat.completion",
            "created": stamp.created,
            "model": stamp.model,
            "choices": [choice],
        }
        if completion.usage is not None:
            out["usage"] = usage_json(completion.usage)
        if request.return_token_ids:
            out["prompt_token_ids"] = completion.prompt_token_ids
            choice["token_ids"] = completion.token_ids
        return out

    def writer(self, request: Request, stamp: Stamp) -> _Chunks:
        """Writes the answer as chunks."""
        return _Chunks(request, stamp)

    def failure(self, error: MegaflowError) -> dict[str, Any]:
        """An error's body."""
        return failure(error)


class _Chunks:
    def __init__(self, request: Request, stamp: Stamp) -> None:
        self._request = request
        self._head = {
            "id": f"chatcmpl-{stamp.id}",
            "object": "chat.completion.chunk",
            "created": stamp.created,
            "model": stamp.model,
        }

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text):
                return self._chunk({"content": text})
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text})
            case CallStart(index, id, name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": id, "type": "function", "function": function}
                return self._chunk({"tool_calls": [call]})
            case CallDelta(index, arguments):
                call = {"index": index, "function": {"arguments": arguments}}
                return self._chunk({"tool_calls": [call]})
            case Tokens():
                return b"".join(self._tokens(event))
            case Finish():
                return b"".join(self._finish(event))

    def fail(self, error: MegaflowError) -> bytes:
        return encode(failure(error))

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
        return encode({**self._head, "choices": [choice]})

    def _tokens(self, event: Tokens) -> Iterator[bytes]:
        more: dict[str, Any] = {}
        if self._request.sampling.logprobs:
            more["logprobs"] = _logprobs(event.texts, event.logprobs)
        if self._request.return_token_ids:
            more["token_ids"] = event.ids
            if event.prompt_ids is not None:
                yield encode({**self._head, "prompt_token_ids": event.prompt_ids, "choices": []})
        if event.ids and more:
            yield self._chunk({}, **more)

    def _finish(self, event: Finish) -> Iterator[bytes]:
        yield self._chunk({}, finish_json(event.reason))
        if self._request.include_usage and event.usage is not None:
            yield encode({**self._head, "choices": [], "usage": usage_json(event.usage)})
        yield DONE


def finish_json(reason: str) -> str:
    """A finish reason as OpenAI spells it, which has none for an answer that was given up."""
    return "length" if reason == "aborted" else reason


def _logprobs(texts: Any, logprobs: Any) -> dict[str, Any] | None:
    if texts is None or logprobs is None:
        return None
    content = [
        {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
        for text, value in zip(texts, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}
