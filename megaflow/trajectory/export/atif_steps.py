"""The steps of an ATIF document, from records.

A call of the policy gives the messages that are new to its conversation, then the agent's step with what the model
answered; the results of its tools, which come with the next call, become that step's observation. So the agent's
last step is held back until its successor. Steps of an environment that no call led to are the agent's, too: a
call of a function `step`, without a model. Other roles' calls are not the agent's, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from megaflow.trajectory.blobs import reference
from megaflow.trajectory.export.conversations import (
    Conversations,
    arguments_of,
    text_of,
    tool_calls_of,
)
from megaflow.trajectory.export.plain import dumps, plain
from megaflow.trajectory.records import ModelCall, Record, Reset, Step

__all__ = ["Steps"]

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Steps:
    """Takes records, gives steps without their numbers. `folder` is where the blobs' folder is."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._conversations = Conversations()
        self._held: dict[str, Any] | None = None
        self._calls = 0

    def add(self, record: Record) -> Iterator[dict[str, Any]]:
        """The steps that are complete now."""
        match record:
            case ModelCall() if record.call.get("role", "policy") == "policy":
                yield from self._model_call(record)
            case Reset():
                yield from self._release(_reset(record))
            case Step() if self._held is not None and "llm_call_count" in self._held:
                # What it observed reaches the model as a message, which is there already.
                steps = self._held.setdefault("extra", {}).setdefault("env_steps", [])
                steps.append(_outcome(record))
            case Step():
                yield from self._release(self._env_step(record))

    def finish(self) -> Iterator[dict[str, Any]]:
        """The step that was held back."""
        if self._held is not None:
            yield self._held
            self._held = None

    def _release(self, step: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self.finish()
        yield step

    def _model_call(self, record: ModelCall) -> Iterator[dict[str, Any]]:
        call = record.call
        messages = call.get("messages") or ()
        if not messages and call.get("prompt") is not None:
            messages = [{"role": "user", "content": call["prompt"]}]
        place, known, new = self._conversations.place(messages)
        for message in messages[known:]:
            # Said before, and here in a conversation that begins otherwise: its context was rewritten.
            copied = self._conversations.seen(message) and new
            yield from self._message(message, record.time, copied)
        yield from self.finish()
        response = call.get("response")
        self._held = _answer(call, response or {}, record.time, self._folder)
        if response is not None:
            self._conversations.answer(place, response)

    def _message(
        self, message: Mapping[str, Any], time: float | None, copied: bool
    ) -> Iterator[dict[str, Any]]:
        role = message.get("role")
        content = _content(message.get("content"), self._folder)
        if role == "tool":
            yield from self._result(str(message.get("tool_call_id")), content, time)
            return
        yield from self.finish()
        if role == "assistant":
            step = {"source": "agent", "message": content, **_tool_calls(message)}
        else:
            step = {"source": "user" if role == "user" else "system", "message": content}
        step |= _timestamp(time)
        if copied:
            step["is_copied_context"] = True
        if role == "assistant":  # tool results may follow
            self._held = step
        else:
            yield step

    def _result(self, call_id: str, content: Any, time: float | None) -> Iterator[dict[str, Any]]:
        held = self._held
        asked = [] if held is None else [one["tool_call_id"] for one in held.get("tool_calls", ())]
        if held is not None and call_id in asked:
            results = held.setdefault("observation", {"results": []})["results"]
            results.append({"source_call_id": call_id, "content": content})
            return
        result = {"content": content, "extra": {"tool_call_id": call_id}}
        step = {"source": "system", "message": "", "observation": {"results": [result]}}
        yield from self._release(step | _timestamp(time))

    def _env_step(self, record: Step) -> dict[str, Any]:
        self._calls += 1
        name = f"step-{self._calls}"
        call = {"tool_call_id": name, "function_name": "step"}
        return {
            "source": "agent",
            "message": "",
            "llm_call_count": 0,
            "tool_calls": [{**call, "arguments": {"action": plain(record.action)}}],
            "observation": {
                "results": [{"source_call_id": name, "content": _seen(record.observation)}]
            },
            "extra": {**_outcome(record), "info": plain(record.info)},
            **_timestamp(record.time),
        }


def _answer(
    call: Mapping[str, Any], response: Mapping[str, Any], time: float | None, folder: str
) -> dict[str, Any]:
    step: dict[str, Any] = {
        "source": "agent",
        "message": _content(response.get("content"), folder),
        "llm_call_count": 1,
        **_tool_calls(response),
        **_timestamp(time),
    }
    if call.get("model"):
        step["model_name"] = call["model"]
    if response.get("reasoning_content"):
        step["reasoning_content"] = response["reasoning_content"]
    if metrics := _metrics(call):
        step["metrics"] = metrics
    extra = {
        name: call[name]
        for name in ("call_id", "parent", "branch", "finish_reason", "error")
        if call.get(name) is not None
    }
    return {**step, "extra": extra} if extra else step


def _metrics(call: Mapping[str, Any]) -> dict[str, Any]:
    usage = dict(call.get("usage") or {})
    metrics = {
        name: usage.pop(name)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
        if usage.get(name) is not None
    }
    for name in ("prompt_token_ids", "completion_token_ids", "logprobs"):
        if call.get(name) is not None:
            metrics[name] = call[name]
    if call.get("cost") is not None:
        metrics["cost_usd"] = call["cost"]
    extra = {name: value for name, value in usage.items() if value is not None}
    for name in ("loss_mask", "weight_versions", "latency", "first_token"):
        if call.get(name) is not None:
            extra[name] = call[name]
    return {**metrics, "extra": extra} if extra else metrics


def _tool_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {"tool_call_id": id, "function_name": name, "arguments": arguments_of(arguments)}
        for id, name, arguments in tool_calls_of(message)
    ]
    return {"tool_calls": calls} if calls else {}


def _content(content: Any, folder: str) -> Any:
    """Text, or the format's parts where there are images."""
    parts = content if isinstance(content, list | tuple) else ()
    if not any(isinstance(part, Mapping) and "image_url" in part for part in parts):
        return text_of(content)
    return [_part(part, folder) for part in parts]


def _part(part: Any, folder: str) -> dict[str, Any]:
    url = part.get("image_url") if isinstance(part, Mapping) else None
    if isinstance(url, Mapping):
        url = url.get("url")
    blob = reference(url)
    if blob is not None and blob.media_type in _IMAGES:
        path = f"{folder}/{blob.path}"
        return {"type": "image", "source": {"media_type": blob.media_type, "path": path}}
    if isinstance(url, str):
        media_type = url[5:].partition(";")[0] if url.startswith("data:") else "image/png"
        if media_type in _IMAGES:
            return {"type": "image", "source": {"media_type": media_type, "path": url}}
    return {"type": "text", "text": text_of([part])}


def _reset(record: Reset) -> dict[str, Any]:
    if isinstance(record.observation, str):
        step: dict[str, Any] = {"source": "user", "message": record.observation}
    else:
        result = {"content": _seen(record.observation)}
        step = {"source": "system", "message": "reset", "observation": {"results": [result]}}
    return {**step, "extra": {"info": plain(record.info)}, **_timestamp(record.time)}


def _seen(observation: Any) -> str:
    return observation if isinstance(observation, str) else dumps(observation)


def _outcome(record: Step) -> dict[str, Any]:
    return {name: plain(getattr(record, name)) for name in ("reward", "terminated", "truncated")}


def _timestamp(time: float | None) -> dict[str, str]:
    return {} if time is None else {"timestamp": datetime.fromtimestamp(time, UTC).isoformat()}
