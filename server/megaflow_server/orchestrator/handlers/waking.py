"""What happens to tasks by itself: a retry's time has come, or a limit is reached."""

from __future__ import annotations

from megaflow_server.orchestrator.commands import Wake
from megaflow_server.orchestrator.handlers.ending import cost_cut_off, end, move, revoke
from megaflow_server.orchestrator.records import (
    ACTIVE,
    Failure,
    FailureKind,
    Outcome,
    Task,
    TaskState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Transaction

__all__ = ["wake"]


def wake(command: Wake, tx: Transaction, now: float, _policy: RetryPolicy) -> bool:
    due = tx.due(now, command.most)
    for task in due:
        reason = _limit(task, now)
        if reason is not None:
            _time_out(tx, task, reason, now)
        else:
            move(tx, task, TaskState.QUEUED, "its retry's time has come", now)
    return len(due) == command.most


def _limit(task: Task, now: float) -> str | None:
    """Which limit a task has reached, the widest first."""
    limits = task.timeouts
    if task.deadline <= now:
        return "deadline: the moment given for it, its group or its job has passed"
    if limits.schedule_to_close is not None and task.submitted + limits.schedule_to_close <= now:
        return f"schedule_to_close: {limits.schedule_to_close:g} s since it was submitted"
    if task.state in ACTIVE:
        return f"start_to_close: {limits.start_to_close:g} s in one attempt"
    if task.state is TaskState.QUEUED:
        return f"schedule_to_start: {limits.schedule_to_start:g} s in the queue"
    return None


def _time_out(tx: Transaction, task: Task, reason: str, now: float) -> None:
    revoke(tx, task)
    failure = Failure(FailureKind.TIMEOUT, task.state, reason)
    outcome = Outcome(False, failure=failure)
    end(tx, task, TaskState.FAILED, outcome, now, cost=cost_cut_off(task))
