"""`/v1/completions`: a prompt, as text or as token ids, and what comes after it.

Fields that are neither translated, dropped nor refused by name go to the upstream as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from megaflow.dialects.base import Stamp
from megaflow.dialects.chat import finish_json
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
from megaflow.generation import Completion, Event, Finish, Request, TextDelta, Tokens

__all__ = ["Completions"]

_REFUSED = {
    **REFUSED,
    "echo": "the prompt is not repeated",
    "suffix": "there is no filling in the middle",
}


class Completions:
    """OpenAI's completions."""

    name = "completions"
    path = "/completions"

    def request(self, body: object) -> Request:
        """The request; InvalidArgument names the field that is wrong."""
        raw = Fields(body)
        if isinstance(body, dict) and body.get("echo") is False:
            raw.drop(("echo",))
        if isinstance(body, dict) and body.get("best_of") == 1:
            raw.drop(("best_of",))
        raw.refuse(_REFUSED)
        raw.drop(DROPPED)
        stream = bool(raw.flag("stream"))
        options = raw.mapping("stream_options") or {}
        # As OpenAI counts here, 1 is the token itself where it is the likeliest.
        count = refuse_alternatives(raw, "logprobs", most=1)
        sampling = dataclasses.replace(read_sampling(raw), logprobs=count is not None)
        return Request(
            model=raw.need_text("model"),
            prompt=_prompt(raw.take("prompt")),
            sampling=sampling,
            response_format=raw.mapping("response_format"),
            stream=stream,
            include_usage=bool(options.get("include_usage")),
            return_token_ids=bool(raw.flag("return_token_ids")),
            extra=raw.rest(),
        )

    def reply(self, request: Request, completion: Completion, stamp: Stamp) -> dict[str, Any]:
        """The whole answer."""
        choice: dict[str, Any] = {
            "index": 0,
            "text": completion.text,
            "logprobs": _logprobs(completion.token_texts, completion.logprobs)
            if request.sampling.logprobs
            else None,
            "finish_reason": finish_json(completion.finish_reason),
        }
        if request.return_token_ids:
            choice["prompt_token_ids"] = completion.prompt_token_ids
            choice["token_ids"] = completion.token_ids
        out: dict[str, Any] = {**_head(stamp), "choices": [choice]}
        if completion.usage is not None:
            out["usage"] = usage_json(completion.usage)
        return out

    def writer(self, request: Request, stamp: Stamp) -> _Chunks:
        """Writes the answer as chunks."""
        return _Chunks(request, stamp)

    def failure(self, error: MegaflowError) -> dict[str, Any]:
        """An error's body."""
        return failure(error)


def _prompt(raw: object) -> str | tuple[int, ...]:
    if isinstance(raw, str):
        return raw
    if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], str | list):
        return _prompt(raw[0])
    if isinstance(raw, list) and raw and all(type(each) is int for each in raw):
        return tuple(raw)
    raise InvalidArgument("prompt: expected one string, or one list of token ids")


def _head(stamp: Stamp) -> dict[str, Any]:
    return {
        "id": f"cmpl-{stamp.id}",
        "object": "text_completion",
        "created": stamp.created,
        "model": stamp.model,
    }


class _Chunks:
    def __init__(self, request: Request, stamp: Stamp) -> None:
        self._request = request
        self._head = _head(stamp)

    def begin(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text):
                return self._chunk(text)
            case Tokens():
                return self._tokens(event)
            case Finish(reason, usage):
                out = self._chunk("", finish_json(reason))
                if self._request.include_usage and usage is not None:
                    out += encode({**self._head, "choices": [], "usage": usage_json(usage)})
                return out + DONE
            case _:  # a prompt has no tools, and its answer no parts but text
                return b""

    def fail(self, error: MegaflowError) -> bytes:
        return encode(failure(error))

    def _chunk(self, text: str, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **more}
        return encode({**self._head, "choices": [choice]})

    def _tokens(self, event: Tokens) -> bytes:
        more: dict[str, Any] = {}
        if self._request.sampling.logprobs:
            more["logprobs"] = _logprobs(event.texts, event.logprobs)
        if self._request.return_token_ids:
            more["token_ids"] = event.ids
            if event.prompt_ids is not None:
                more["prompt_token_ids"] = event.prompt_ids
        return self._chunk("", **more) if more else b""


def _logprobs(texts: Any, logprobs: Any) -> dict[str, Any] | None:
    if texts is None or logprobs is None:
        return None
    offsets, at = [], 0
    for text in texts:
        offsets.append(at)
        at += len(text)
    return {
        "tokens": list(texts),
        "token_logprobs": list(logprobs),
        "top_logprobs": None,
        "text_offset": offsets,
    }
