"""The record of one model call, as it stands in a trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from megaflow.errors import InvalidArgument
from megaflow.generation import WeightVersion

__all__ = ["SCHEMA_VERSION", "CallRecord"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call of a model: what was asked, what came, and what training needs of it.

    Attributes:
        rollout_id, group_id, attempt: whose call it is.
        call_id: unique; `parent` is the call that this one's prompt continues, None at a branch's first.
        branch: counts the rollout's branches from 0; None where the engine gave no token ids.
        role: of the roles of a rollout's models, only `policy` is trained on.
        model: what answered; `dialect` is what was spoken.
        messages, tools, sampling: the request in chat form. `prompt` is the text of one that had no messages.
        response: the answer as a chat message.
        prompt_token_ids, completion_token_ids: the engine's own, or None.
        logprobs, loss_mask, weight_versions: of `completion_token_ids`, one each, or None. The mask is 1
            where the model generated the token.
        finish_reason: `aborted` for an answer that was given up; None where none came.
        usage: prompt_tokens, completion_tokens, and cached_tokens and reasoning_tokens where known.
        cost: USD, or None where the model has no price, or the engine did not say how many tokens there were.
        started: seconds since the epoch. `latency` and `first_token` are seconds from there.
        status: what the caller was told, as an HTTP status; `error` says what went wrong.
    """

    rollout_id: str
    call_id: str
    attempt: int = 0
    group_id: str | None = None
    parent: str | None = None
    branch: int | None = None
    role: str = "policy"
    model: str = ""
    dialect: str = ""
    messages: list[Any] = field(default_factory=list)
    prompt: str | None = None
    tools: list[Any] = field(default_factory=list)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] | None = None
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    loss_mask: list[int] | None = None
    weight_versions: list[WeightVersion] | None = None
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    cost: float | None = None
    started: float = 0.0
    latency: float = 0.0
    first_token: float | None = None
    status: int = 200
    error: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in ("logprobs", "loss_mask", "weight_versions"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.completion_token_ids or ()):
                raise InvalidArgument(
                    f"call {self.call_id}: {name} has {len(given)} entries for"
                    f" {len(self.completion_token_ids or ())} completion_token_ids"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for msgpack or JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CallRecord:
        """The record from `to_dict`; InvalidArgument for another schema or a field that it does not have."""
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InvalidArgument(
                f"a call record of schema_version {version!r}; this megaflow reads {SCHEMA_VERSION}"
            )
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise InvalidArgument(f"a call record has no field {unknown[0]!r}")
        if missing := sorted({"rollout_id", "call_id"} - set(raw)):
            raise InvalidArgument(f"a call record needs {missing[0]!r}")
        return cls(**raw)
