"""One call of a model, to see whether it answers and what it tells of its tokens."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass

from megaflow.errors import MegaflowError
from megaflow.generation import Assembler, Message, Request, Sampling, Text
from megaflow_server.models.catalogue import ServedModel

__all__ = ["Trial", "tried"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came.

    Attributes:
        seconds, first_token: until the end, and until something came.
        token_ids, logprobs: whether training has what it needs of each token.
        weight_version: of the last token.
        cost: USD.
        error: why there is no answer, with the error's class.
    """

    name: str
    kind: str
    model: str
    answer: str | None = None
    finish_reason: str | None = None
    seconds: float | None = None
    first_token: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    token_ids: bool | None = None
    logprobs: bool | None = None
    weight_version: int | str | None = None
    cost: float | None = None
    error: str | None = None


async def tried(served: ServedModel, prompt: str, max_tokens: int) -> Trial:
    """Ask once, as a stream; whatever goes wrong stands in the result."""
    sampling = Sampling(max_tokens=max_tokens, logprobs=True)
    messages = (Message("user", (Text(prompt),)),)
    request = Request(
        served.name,
        messages,
        sampling=sampling,
        stream=True,
        include_usage=True,
        return_token_ids=True,
    )
    whole, began, first = Assembler(served.model.name), time.monotonic(), None
    try:
        async with aclosing(served.model.stream(request)) as stream:
            async for event in stream:
                first = time.monotonic() - began if first is None else first
                whole.add(event)
    except MegaflowError as error:
        said = f"{type(error).__name__}: {error.message}"
        return Trial(served.name, served.kind, served.model.name, error=said)
    seconds, answer = time.monotonic() - began, whole.completion()
    usage, versions = answer.usage, answer.weight_versions
    cost = None if served.price is None else served.price.cost(usage)
    return Trial(
        served.name,
        served.kind,
        served.model.name,
        answer=answer.text,
        finish_reason=answer.finish_reason,
        seconds=seconds,
        first_token=first,
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
        token_ids=answer.prompt_token_ids is not None and answer.token_ids is not None,
        logprobs=answer.logprobs is not None,
        weight_version=versions[-1] if versions else None,
        cost=None if cost is None else float(cost),
    )
