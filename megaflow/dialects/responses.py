"""`/v1/responses`, as OpenAI's clients and Codex speak it.

Nothing is kept between calls: whoever asks sends the whole conversation, and `previous_response_id` is refused.
No upstream of ours knows this dialect's own fields, so one that is neither translated nor dropped by name is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaflow.dialects.base import Stamp
from megaflow.dialects.fields import Fields
from megaflow.dialects.openai_errors import failure
from megaflow.dialects.responses_items import read_items, read_tools
from megaflow.dialects.responses_stream import ResponseWriter, response_json
from megaflow.dialects.sampling import refuse_alternatives
from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.generation import Completion, Message, Request, Sampling, Text, ToolChoice

__all__ = ["Responses"]

DROPPED = (
    "metadata",
    "store",
    "user",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
    "include",
    "stream_options",
    "client_metadata",
)
_STATELESS = "the gateway keeps nothing between calls; send the whole conversation as input"
REFUSED: Mapping[str, str] = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "there are no stored prompts here; send instructions and input",
    "max_tool_calls": "the gateway calls no tools itself",
    "context_management": "the gateway shortens nothing",
}


class Responses:
    """OpenAI's responses."""

    name = "responses"
    path = "/responses"

    def request(self, body: object) -> Request:
        """The request; InvalidArgument names the field that is wrong."""
        raw = Fields(body)
        raw.refuse(REFUSED)
        raw.drop(DROPPED)
        if raw.flag("background"):
            raise InvalidArgument("background: answers come to the call that asks for them")
        if (cut := raw.text("truncation") or "disabled") != "disabled":
            raise InvalidArgument(f"truncation: {cut!r}; the gateway shortens nothing")
        refuse_alternatives(raw, "top_logprobs")
        instructions = raw.text("instructions")
        first = (Message("system", (Text(instructions),)),) if instructions else ()
        messages = first + read_items(raw.take("input"))
        if not messages:
            raise InvalidArgument("input: is empty; a call needs at least one item")
        limit = raw.integer("max_output_tokens")
        if limit is not None and limit < 1:
            raise InvalidArgument(f"max_output_tokens: {limit}; expected at least 1")
        reasoning = Fields(raw.take("reasoning") or {}, "reasoning")
        request = Request(
            model=raw.need_text("model"),
            messages=messages,
            tools=read_tools(raw.items("tools")),
            tool_choice=_choice(raw.take("tool_choice")),
            parallel_tool_calls=raw.flag("parallel_tool_calls"),
            sampling=Sampling(
                max_tokens=limit,
                temperature=raw.number("temperature"),
                top_p=raw.number("top_p"),
            ),
            response_format=_format(raw.mapping("text") or {}),
            reasoning_effort=reasoning.text("effort"),
            stream=bool(raw.flag("stream")),
            include_usage=True,
        )
        raw.done()
        return request

    def reply(self, request: Request, completion: Completion, stamp: Stamp) -> dict[str, Any]:
        """The whole answer."""
        return response_json(request, stamp, completion)

    def writer(self, request: Request, stamp: Stamp) -> ResponseWriter:
        """Writes the answer as events."""
        return ResponseWriter(request, stamp)

    def failure(self, error: MegaflowError) -> dict[str, Any]:
        """An error's body."""
        return failure(error)


def _choice(raw: object) -> ToolChoice | None:
    match raw:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(raw)
        case {"type": "function", "name": str(name)}:
            return ToolChoice("tool", name)
    raise InvalidArgument(f"tool_choice: expected auto, none, required or a function, got {raw!r}")


def _format(text: dict[str, Any]) -> Mapping[str, Any] | None:
    """`text.format`, in the form of chat completions; `verbosity` is a hint, and dropped."""
    given = text.get("format")
    if given is None:
        return None
    raw = Fields(given, "text.format")
    match raw.need_text("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            return {"type": "json_schema", "json_schema": raw.rest()}
        case other:
            raise InvalidArgument(
                f"text.format.type: {other!r}; expected text, json_object or json_schema"
            )
