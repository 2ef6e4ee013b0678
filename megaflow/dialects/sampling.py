"""Sampling, usage and token fields that chat completions and completions share, from and to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaflow.dialects.fields import Fields
from megaflow.errors import InvalidArgument
from megaflow.generation import Sampling, Usage

__all__ = [
    "DROPPED",
    "REFUSED",
    "read_sampling",
    "read_stop",
    "read_usage",
    "refuse_alternatives",
    "sampling_json",
    "usage_json",
]

# Hints to a provider that change no token, and notes to oneself.
DROPPED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
)

REFUSED: Mapping[str, str] = {
    "best_of": "one answer to a call; ask again for another",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "audio is not carried",
    "modalities": "only text is generated",
    "prediction": "predicted outputs are not carried",
    "web_search_options": "the gateway searches nothing",
    "prompt_logprobs": "log-probs of prompts are not carried",
}

_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_INTEGERS = ("top_k", "seed")


def read_stop(raw: Fields, name: str) -> tuple[str, ...]:
    """A stop string, or several."""
    path = raw.path(name)
    value = raw.take(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidArgument(f"{path}: expected a string or a list of strings")
    return tuple(value)


def refuse_alternatives(raw: Fields, name: str, most: int = 0) -> int | None:
    """The count of alternatives to each token; InvalidArgument for more than are carried, which is none."""
    count = raw.integer(name)
    if count is not None and count > most:
        raise InvalidArgument(
            f"{raw.path(name)}: {count}; log-probs are of the tokens themselves, not of alternatives:"
            f" at most {most}"
        )
    return count


def read_sampling(raw: Fields) -> Sampling:
    """All but log-probs, which the two APIs spell differently."""
    if raw.integer("n") not in (None, 1):
        raise InvalidArgument("n: one answer to a call; ask again for another")
    # Both are read, whichever counts: what stays unread would be passed on.
    newer, older = raw.integer("max_completion_tokens"), raw.integer("max_tokens")
    limit = newer if newer is not None else older
    if limit is not None and limit < 1:
        raise InvalidArgument(f"max_tokens: {limit}; expected at least 1")
    numbers: dict[str, Any] = {name: raw.number(name) for name in _NUMBERS}
    numbers |= {name: raw.integer(name) for name in _INTEGERS}
    return Sampling(max_tokens=limit, stop=read_stop(raw, "stop"), **numbers)


def sampling_json(sampling: Sampling) -> dict[str, Any]:
    """What is set, under the names of chat completions; log-probs aside."""
    out = {
        name: value
        for name in ("max_tokens", *_NUMBERS, *_INTEGERS)
        if (value := getattr(sampling, name)) is not None
    }
    if sampling.stop:
        out["stop"] = list(sampling.stop)
    return out


def read_usage(raw: object) -> Usage | None:
    """Usage as an upstream gives it; None where it is absent or is not what it should be."""
    match raw:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return Usage(
                prompt,
                completion,
                _detail(raw, "prompt_tokens_details", "cached_tokens"),
                _detail(raw, "completion_tokens_details", "reasoning_tokens"),
            )
    return None


def _detail(raw: object, group: str, name: str) -> int | None:
    details = raw.get(group) if isinstance(raw, Mapping) else None
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, int) else None


def usage_json(usage: Usage) -> dict[str, Any]:
    """Usage as chat completions spells it."""
    out: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens is not None:
        out["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return out
