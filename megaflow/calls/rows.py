"""Training rows from call records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from megaflow.calls.record import CallRecord
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.generation import WeightVersion

__all__ = ["Row", "rows"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to train on: a branch of a rollout.

    Attributes:
        token_ids: prompt, answers, and what came between, as the engine saw them.
        loss_mask: of `token_ids`, one each: 1 for a token that this row's calls generated. A token that
            another row's call generated and this one only quotes is 0 here and 1 there.
        logprobs: of `token_ids`, 0.0 where the mask is 0; None where a call came without.
        weight_versions: of `token_ids`, None where the mask is 0; None where a call came without.
        prompt_length: tokens before the first generated one.
        reward: None is unscored, and is not 0.0. Rows of a rollout share it.
        calls: the ids of the calls, in order.
        finish_reason: of the last call.
    """

    rollout_id: str
    group_id: str | None
    branch: int
    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float] | None
    weight_versions: list[WeightVersion | None] | None
    prompt_length: int
    reward: float | None
    calls: tuple[str, ...]
    finish_reason: str | None


class _Growing:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] | None = []
        self.versions: list[WeightVersion | None] | None = []
        self.calls: list[CallRecord] = []

    def extend(self, record: CallRecord) -> None:
        prompt, answer = record.prompt_token_ids or [], record.completion_token_ids or []
        if prompt[: len(self.tokens)] != self.tokens:
            raise InvalidArgument(
                f"call {record.call_id}: its prompt does not continue branch {record.branch} of"
                f" rollout {record.rollout_id}; records must come in the order they were written"
            )
        between = len(prompt) - len(self.tokens)
        self.tokens += prompt[len(self.tokens) :] + answer
        self.mask += [0] * between + (record.loss_mask or [1] * len(answer))
        self.logprobs = _more(self.logprobs, between, 0.0, record.logprobs)
        self.versions = _more(self.versions, between, None, record.weight_versions)
        self.calls.append(record)


def _more(have: list[T] | None, gap: int, filler: T, new: Sequence[T] | None) -> list[T] | None:
    if have is None or new is None:
        return None
    have += [filler] * gap
    have += new
    return have


def rows(records: Iterable[CallRecord], *, reward: float | None = None) -> list[Row]:
    """The rows of a rollout's calls, one for each branch; of the roles, `policy` alone.

    A call that failed before its first token has nothing to train on and is left out.

    Args:
        records: in the order they were written. Several rollouts may stand among each other.
        reward: what each row is given.

    Raises:
        FailedPrecondition: a call has no token ids: its engine gives none, and text is never tokenised again.
    """
    growing: dict[tuple[str, int, int], _Growing] = {}
    for record in records:
        if record.role != "policy" or (record.response is None and not record.completion_token_ids):
            continue
        if (
            record.prompt_token_ids is None
            or record.completion_token_ids is None
            or record.branch is None
        ):
            raise FailedPrecondition(
                f"call {record.call_id} of model {record.model!r} has no token ids, and text is never"
                " tokenised again: serve the policy by an engine that gives them (kind vllm or sglang)"
            )
        key = (record.rollout_id, record.attempt, record.branch)
        growing.setdefault(key, _Growing()).extend(record)
    return [_row(branch, each, reward) for (_, _, branch), each in growing.items()]


def _row(branch: int, growing: _Growing, reward: float | None) -> Row:
    first, last = growing.calls[0], growing.calls[-1]
    return Row(
        rollout_id=first.rollout_id,
        group_id=first.group_id,
        branch=branch,
        token_ids=growing.tokens,
        loss_mask=growing.mask,
        logprobs=growing.logprobs,
        weight_versions=growing.versions,
        prompt_length=len(first.prompt_token_ids or ()),
        reward=reward,
        calls=tuple(each.call_id for each in growing.calls),
        finish_reason=last.finish_reason,
    )
