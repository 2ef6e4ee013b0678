"""The orchestrator's records as messages, and what runners report as records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.orchestrator.commands import Claimed
from megaflow_server.orchestrator.records import (
    Cost,
    Event,
    Failure,
    FailureKind,
    Job,
    Outcome,
    Task,
    TaskState,
    Timeouts,
)

# Characters of what a runner says of a failure, and how many named rewards there may be.
_LONGEST_REASON: Final = 4_000
_LONGEST_LOG: Final = 64_000
_LONGEST_PATH: Final = 4_000
_MOST_REWARDS: Final = 1_000


def job_status(
    job: Job, states: Sequence[tuple[TaskState, int]], active: Sequence[Task] = (), now: float = 0.0
) -> pb.JobStatus:
    return pb.JobStatus(
        job_id=job.id,
        name=job.name,
        submitted=job.submitted,
        total=job.total,
        done=job.done,
        sealed=job.sealed,
        cancelled=job.cancelled,
        seed=job.seed,
        cost=pb.Cost(known=job.known_cost, unknown=job.unknown_costs),
        max_cost=job.max_cost,
        states={state.value: count for state, count in states},
        active=[
            pb.ActiveTask(
                task_id=task.id,
                index=task.index,
                sample=task.sample,
                state=task.state.value,
                seconds=max(0.0, now - task.started),
            )
            for task in active
        ],
    )


def task_result(task: Task) -> pb.TaskResult:
    return pb.TaskResult(
        task_id=task.id,
        index=task.index,
        sample=task.sample,
        group=task.group,
        state=task.state.value,
        done=task.done,
        seed=task.seed,
        fence=task.fence,
        retries=task.retries,
        outcome=outcome_message(task.outcome),
        # What never began has cost nothing.
        cost=_cost(task.cost) if task.fence else pb.Cost(),
    )


def task_status(task: Task, waits_for: Sequence[str], events: Sequence[Event]) -> pb.TaskStatus:
    return pb.TaskStatus(
        task_id=task.id,
        job_id=task.job,
        state=task.state.value,
        reason=task.reason,
        waits_for=waits_for,
        events=[
            pb.TaskEvent(
                at=event.at,
                fence=event.fence,
                before=event.before.value if event.before else "",
                after=event.after.value,
                reason=event.reason,
            )
            for event in events
        ],
        outcome=outcome_message(task.outcome),
    )


def _cost(cost: Cost | None) -> pb.Cost | None:
    return None if cost is None else pb.Cost(known=cost.known, unknown=cost.unknown)


def attempt(claimed: Claimed) -> pb.Attempt:
    task, job = claimed.task, claimed.job
    budget = None
    if job.max_cost is not None:
        budget = pb.JobBudget(max_cost=job.max_cost, unpriced=job.unpriced, spent=job.known_cost)
    return pb.Attempt(
        task_id=task.id,
        fence=task.fence,
        tenant=task.tenant,
        seed=task.seed,
        document=claimed.document,
        limits=_limits(task.timeouts),
        sample=task.sample,
        group=task.group,
        budget=budget,
        alone=task.suspect,
    )


def _limits(timeouts: Timeouts) -> pb.TaskLimits:
    return pb.TaskLimits(
        schedule_to_start=timeouts.schedule_to_start,
        start_to_close=timeouts.start_to_close,
        schedule_to_close=timeouts.schedule_to_close,
    )


def outcome_message(outcome: Outcome | None) -> pb.Outcome | None:
    if outcome is None:
        return None
    failure = outcome.failure
    return pb.Outcome(
        valid=outcome.valid,
        reward=outcome.reward,
        rewards=dict(outcome.rewards),
        failure=None
        if failure is None
        else pb.TaskFailure(
            kind=failure.kind.value, phase=failure.phase, reason=failure.reason, log=failure.log
        ),
        trajectory=outcome.trajectory,
        cost=_cost(outcome.cost),
    )


def outcome_of(message: pb.Outcome) -> Outcome:
    """Raises InvalidArgument for what contradicts itself."""
    reward = message.reward if message.HasField("reward") else None
    failure = _failure(message.failure) if message.HasField("failure") else None
    if len(message.rewards) > _MOST_REWARDS:
        raise InvalidArgument(f"outcome.rewards: {len(message.rewards)}, over {_MOST_REWARDS}")
    for name, value in {"reward": reward, **message.rewards}.items():
        if value is not None and not math.isfinite(value):
            raise InvalidArgument(f"outcome.{name}={value!r}: a reward is a finite number, or None")
    if not message.valid and (reward is not None or message.rewards):
        raise InvalidArgument("outcome.reward: one that is not valid has none; leave it out")
    if not message.valid and (failure is None or failure.kind is FailureKind.AGENT):
        raise InvalidArgument(
            "outcome.failure: one that is not valid says why, and what an agent does wrong is valid"
        )
    if len(message.trajectory) > _LONGEST_PATH:
        raise InvalidArgument(f"outcome.trajectory: {len(message.trajectory)} characters")
    return Outcome(
        valid=message.valid,
        reward=reward,
        rewards=MappingProxyType(dict(message.rewards)),
        failure=failure,
        trajectory=message.trajectory,
        cost=_spent(message.cost) if message.HasField("cost") else None,
    )


def _spent(message: pb.Cost) -> Cost:
    if not (math.isfinite(message.known) and message.known >= 0):
        raise InvalidArgument(f"outcome.cost.known={message.known!r}: give USD, 0 or more")
    return Cost(message.known, message.unknown)


def _failure(message: pb.TaskFailure) -> Failure:
    try:
        kind = FailureKind(message.kind)
    except ValueError:
        known = ", ".join(kind.value for kind in FailureKind)
        raise InvalidArgument(
            f"outcome.failure.kind={message.kind!r}: choose among {known}"
        ) from None
    return Failure(
        kind,
        message.phase[:_LONGEST_REASON],
        message.reason[:_LONGEST_REASON],
        message.log[-_LONGEST_LOG:],
    )
