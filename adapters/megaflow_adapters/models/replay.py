"""A model that gives the answers of a recorded trajectory again."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field

from megaflow.calls import CallRecord
from megaflow.dialects.chat_messages import messages_json, read_messages
from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.generation import (
    Completion,
    Event,
    FinishReason,
    Reasoning,
    Request,
    Text,
    ToolCall,
    Usage,
    events,
)
from megaflow.model import Model
from megaflow.trajectory import ModelCall, TrajectoryReader, find
from megaflow_adapters.models.settings import checked

__all__ = ["ReplayModel"]


class ReplayModel(Model):
    """Answers each request as the same request was answered when it was recorded.

    The same request several times gets the recorded answers in their order. A request that was not
    recorded, or more often than it was, is FailedPrecondition: nothing is made up.

    Args:
        records: of one role; calls that failed are left out.
    """

    # An answer is given as often as it was recorded.
    per_attempt: ClassVar[bool] = True
    paths: ClassVar[frozenset[str]] = frozenset({"trajectories"})

    def __init__(self, records: Iterable[CallRecord], *, name: str = "replay") -> None:
        self.name = name
        self._answers: defaultdict[str, deque[CallRecord]] = defaultdict(deque)
        self._count = 0
        for record in records:
            if record.response is not None and record.error is None:
                self._answers[_recorded(record)].append(record)
                self._count += 1

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> ReplayModel:
        """A table with `trajectories`, a file or a folder, and `role`, `policy` unless set."""
        table = checked(_Table, settings)
        try:
            records = list(_calls(table.trajectories))
        except (InvalidArgument, NotFound) as error:
            raise InvalidArgument(f"trajectories: {error.message}") from None
        chosen = [record for record in records if record.role == table.role]
        if not chosen:
            roles = ", ".join(sorted({record.role for record in records})) or "none"
            raise InvalidArgument(
                f"role: no call of {table.role!r} stands in {table.trajectories}; roles there: {roles}"
            )
        return cls(chosen)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The recorded answer's events."""
        prompt = request.prompt
        asked = prompt if prompt is None or isinstance(prompt, str) else json.dumps(prompt)
        left = self._answers.get(_key(messages_json(request.messages), asked))
        if not left:
            raise FailedPrecondition(
                f"model {self.name!r} has no recorded answer left for this request, of"
                f" {len(request.messages)} messages; {self._count} calls were recorded"
            )
        for event in events(_completion(left.popleft(), self.name)):
            yield event


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # A trajectory, or a folder or URL of them.
    trajectories: str = Field(min_length=1)
    # Whose calls are answered.
    role: str = "policy"


def _calls(place: str) -> Iterator[CallRecord]:
    for path in find(place):
        for _, record in TrajectoryReader(path).numbered(["model_call"]):
            if isinstance(record, ModelCall):
                yield CallRecord.from_dict(record.call)


def _recorded(record: CallRecord) -> str:
    if record.prompt is None and not record.messages:
        return _key([], json.dumps(record.prompt_token_ids))
    return _key(record.messages, record.prompt)


def _key(messages: list[Any], prompt: str | None) -> str:
    return json.dumps([messages, prompt], sort_keys=True)


def _completion(record: CallRecord, name: str) -> Completion:
    (message,) = read_messages([record.response])
    usage = record.usage
    return Completion(
        model=name,
        parts=cast("tuple[Text | Reasoning | ToolCall, ...]", message.parts),
        finish_reason=cast("FinishReason", record.finish_reason),
        usage=None if usage is None else Usage(**usage),
        prompt_token_ids=_tuple(record.prompt_token_ids),
        token_ids=_tuple(record.completion_token_ids),
        logprobs=_tuple(record.logprobs),
        weight_versions=_tuple(record.weight_versions),
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
