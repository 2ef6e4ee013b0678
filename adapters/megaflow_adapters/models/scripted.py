"""A model that says what it was told to say, with delays and failures."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError
from megaflow.generation import (
    Completion,
    Event,
    Request,
    Text,
    ToolCall,
    Usage,
    WeightVersion,
    events,
)
from megaflow.model import Model
from megaflow_adapters.models.bytes_tokens import answer_ids, prompt_ids
from megaflow_adapters.models.settings import checked

__all__ = ["Answer", "ScriptedModel"]

Answer: TypeAlias = str | ToolCall | Completion | MegaflowError
"""Text, a call, a whole completion, or an error to raise."""


class ScriptedModel(Model):
    """Gives its answers in turn, or what a function makes of each request.

    Answers that are no `Completion` get token ids (bytes), log-probs and usage, so that whatever reads
    records has some.

    Args:
        answers: in turn; after the last comes FailedPrecondition, unless `repeat`. Or a function.
        delay: seconds before an answer.
        weight_version: of its tokens.
    """

    # Its answers come in turn.
    per_attempt: ClassVar[bool] = True

    def __init__(
        self,
        answers: Iterable[Answer] | Callable[[Request], Answer],
        *,
        name: str = "scripted",
        delay: float = 0.0,
        repeat: bool = False,
        weight_version: WeightVersion | None = 0,
    ) -> None:
        self.name = name
        self.delay = delay
        self.weight_version = weight_version
        self._function = answers if callable(answers) else None
        self._answers: Iterator[Answer] = iter(())
        if not callable(answers):
            given = tuple(answers)
            if not given and repeat:
                raise InvalidArgument("answers: is empty, and there is nothing to repeat")
            self._answers = chain.from_iterable(_forever(given)) if repeat else iter(given)

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> ScriptedModel:
        """A table with `answers`, a list of texts, and `repeat`, `delay` and `weight_version` where they are wanted."""
        table = checked(_Table, settings)
        return cls(
            table.answers,
            repeat=table.repeat,
            delay=table.delay,
            weight_version=table.weight_version,
        )

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The next answer's events."""
        answer = self._next(request)
        if self.delay:
            await asyncio.sleep(self.delay)
        if isinstance(answer, MegaflowError):
            raise answer
        for event in events(self._completion(request, answer)):
            yield event

    def _next(self, request: Request) -> Answer:
        if self._function is not None:
            return self._function(request)
        try:
            return next(self._answers)
        except StopIteration:
            raise FailedPrecondition(f"model {self.name!r} has given all its answers") from None

    def _completion(self, request: Request, answer: str | ToolCall | Completion) -> Completion:
        if isinstance(answer, Completion):
            return answer
        call = isinstance(answer, ToolCall)
        part = answer if isinstance(answer, ToolCall) else Text(answer)
        whole = Completion(self.name, (part,), "tool_calls" if call else "stop")
        asked, ids = prompt_ids(request), answer_ids(whole)
        version = self.weight_version
        return dataclasses.replace(
            whole,
            usage=Usage(len(asked), len(ids)),
            prompt_token_ids=asked,
            token_ids=ids,
            logprobs=(-0.5,) * len(ids),
            weight_versions=None if version is None else (version,) * len(ids),
            token_texts=tuple(chr(id) if id < 128 else "" for id in ids),
        )


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # In turn.
    answers: tuple[str, ...] = Field(min_length=1)
    # Whether the first comes again after the last. Default: no, so that a script that is too short is noticed.
    repeat: bool = False
    # Seconds before an answer.
    delay: float = Field(default=0.0, ge=0)
    # Of its tokens.
    weight_version: int | str = 0


def _forever(answers: tuple[Answer, ...]) -> Iterator[tuple[Answer, ...]]:
    while True:
        yield answers
