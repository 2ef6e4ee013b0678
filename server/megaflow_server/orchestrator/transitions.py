"""From one state of a task to the next: which may follow which, and what else changes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.records import (
    ACTIVE,
    FOREVER,
    TERMINAL,
    Event,
    Task,
    TaskState,
)

__all__ = ["EDGES", "due", "moved"]

_ENDS: Final = frozenset(TERMINAL)
_BACK: Final = frozenset({TaskState.QUEUED, TaskState.RETRYING})

EDGES: Final[Mapping[TaskState, frozenset[TaskState]]] = {
    TaskState.QUEUED: frozenset({TaskState.STARTING, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.STARTING: frozenset({TaskState.RUNNING, TaskState.EVALUATING}) | _BACK | _ENDS,
    TaskState.RUNNING: frozenset({TaskState.EVALUATING}) | _BACK | _ENDS,
    TaskState.EVALUATING: _BACK | _ENDS,
    TaskState.RETRYING: frozenset({TaskState.QUEUED, TaskState.FAILED, TaskState.CANCELLED}),
    **{state: frozenset[TaskState]() for state in TERMINAL},
}


def moved(
    task: Task, after: TaskState, reason: str, now: float, **changes: Any
) -> tuple[Task, Event]:
    """The task in its next state, and the event that says so."""
    if after not in EDGES[task.state]:
        raise AssertionError(
            f"task {task.id}: {task.state} is never followed by {after} ({reason})"
        )
    if after is TaskState.QUEUED:
        changes["queued"] = now
    if after is TaskState.STARTING:
        changes["started"] = now
    changes["due"] = _due(
        task,
        after,
        changes.get("queued", task.queued),
        changes.get("started", task.started),
        changes.get("not_before", task.not_before),
    )
    moving = changed(task, state=after, reason=reason, **changes)
    return moving, Event(task.id, moving.fence, now, task.state, after, reason)


def due(task: Task) -> float:
    """When something happens to a task by itself."""
    return _due(task, task.state, task.queued, task.started, task.not_before)


def _due(task: Task, state: TaskState, queued: float, started: float, not_before: float) -> float:
    if state in TERMINAL:
        return FOREVER
    moments = [task.deadline]
    limits = task.timeouts
    if limits.schedule_to_close is not None:
        moments.append(task.submitted + limits.schedule_to_close)
    if state is TaskState.QUEUED and limits.schedule_to_start is not None:
        moments.append(queued + limits.schedule_to_start)
    if state in ACTIVE and limits.start_to_close is not None:
        moments.append(started + limits.start_to_close)
    if state is TaskState.RETRYING:
        moments.append(not_before)
    return min(moments)
