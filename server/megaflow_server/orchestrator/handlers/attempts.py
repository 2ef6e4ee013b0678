"""What a runner asks for: claims, and how far an attempt has come."""

from __future__ import annotations

import functools
from collections.abc import Callable

from megaflow.errors import FailedPrecondition, NotFound
from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.commands import Advance, Claim, Claimed, Finish, Finished
from megaflow_server.orchestrator.handlers.ending import close, move, settle, spend
from megaflow_server.orchestrator.handlers.jobs import cancel
from megaflow_server.orchestrator.packing import measured, takes
from megaflow_server.orchestrator.records import (
    ACTIVE,
    HELD,
    Attempt,
    AttemptState,
    Job,
    Peak,
    Resources,
    RunnerState,
    Task,
    TaskState,
    Tenant,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.scheduler import choose
from megaflow_server.orchestrator.store.base import Keys, Transaction

__all__ = ["advance", "claim", "finish"]

# More than a runner can hold.
_HELD_AT_MOST = 100_000
# Attempts of suspects that a runner executes at once: each has a worker of its own, with all that it imports.
_SUSPECTS_AT_MOST = 16


def claim(command: Claim, tx: Transaction, now: float, _policy: RetryPolicy) -> list[Claimed]:
    if command.grant is not None:
        command.grant.begin()
    runner = tx.runner(command.runner)
    if runner is None or runner.state not in HELD:
        raise FailedPrecondition(
            f"runner={command.runner!r} is not registered, or its lease has run out: register anew, "
            "under another id"
        )
    if command.request <= runner.claims:
        return _given(tx, command) if command.request == runner.claims else []
    # Written down also where it is given nothing: were it to arrive once more, late, nobody would wait for its answer.
    runner = changed(runner, claims=command.request)
    claimed = []
    served: dict[str, Tenant] = {}
    if runner.state is RunnerState.ACTIVE:
        room = runner.capacity - runner.used
        needs = functools.partial(_takes, tx, runner.capacity)
        chosen = []
        may = _may(tx, command)
        for one in choose(tx.waiting_tenants(), tx.heads, needs, room, command.most, may):
            if command.grant is not None:
                command.grant.take(one.task)
            chosen.append(one)
        tx.fetch(
            Keys(specs={one.task.spec for one in chosen}, jobs={one.task.job for one in chosen})
        )
        for one in chosen:
            job = tx.job(one.task.job)
            assert job is not None
            if (why := job.spent) is not None:
                cancel(tx, one.task, why, now)
                continue
            served[one.tenant.name] = one.tenant
            runner = changed(runner, used=runner.used + one.takes)
            claimed.append(_start(tx, one.task, job, one.takes, command, now))
    for tenant in served.values():
        tx.put_tenant(tenant)
    tx.put_runner(runner)
    return claimed


def _may(tx: Transaction, command: Claim) -> Callable[[Task], bool]:
    left: int | None = None

    def may(task: Task) -> bool:
        nonlocal left
        if command.grant is not None and not command.grant.allows(task):
            return False
        if not task.suspect:
            return True
        if left is None:
            left = _SUSPECTS_AT_MOST - _suspects(tx, command.runner)
        left -= 1
        return left >= 0

    return may


def _suspects(tx: Transaction, runner: str) -> int:
    """How many a runner has."""
    return sum(one.alone for one in tx.open_attempts(runner, None, _HELD_AT_MOST))


def _given(tx: Transaction, command: Claim) -> list[Claimed]:
    """What the same request was given before, as far as it is still wanted."""
    held = tx.open_attempts(command.runner, AttemptState.OPEN, _HELD_AT_MOST)
    given = [one.task for one in held if one.claim == command.request]
    tasks = [task for name in given if (task := tx.task(name)) is not None]
    return [_claimed(tx, task, job) for task in tasks if (job := tx.job(task.job)) is not None]


def _takes(tx: Transaction, capacity: Resources, task: Task) -> Resources:
    """What is set aside for a task on a runner of this capacity."""
    if not task.environment:
        return task.requests
    return takes(task, tx.peak(task.tenant, task.environment), capacity)


def _start(
    tx: Transaction, task: Task, job: Job, held: Resources, command: Claim, now: float
) -> Claimed:
    fence, runner = task.fence + 1, command.runner
    task = move(tx, task, TaskState.STARTING, f"claimed by runner {runner}", now, fence=fence)
    opened = Attempt(
        task.id,
        fence,
        task.tenant,
        runner,
        held,
        now,
        claim=command.request,
        alone=task.suspect,
    )
    tx.put_attempt(opened)
    return _claimed(tx, task, job)


def _claimed(tx: Transaction, task: Task, job: Job) -> Claimed:
    document = tx.spec(task.spec)
    assert document is not None
    return Claimed(task, job, document)


def advance(command: Advance, tx: Transaction, now: float, _policy: RetryPolicy) -> bool:
    attempt, task = _found(tx, command.task, command.fence)
    if attempt.state is not AttemptState.OPEN or task.fence != command.fence:
        return False
    after = TaskState.EVALUATING if command.evaluating else TaskState.RUNNING
    if command.worker and command.worker != attempt.worker:
        tx.put_attempt(changed(attempt, worker=command.worker))
    if task.state is TaskState.STARTING or (
        task.state is TaskState.RUNNING and after is TaskState.EVALUATING
    ):
        move(
            tx, task, after, "evaluating" if command.evaluating else "its environment is there", now
        )
    return True


def finish(command: Finish, tx: Transaction, now: float, policy: RetryPolicy) -> Finished:
    attempt, task = _found(tx, command.task, command.fence)
    if attempt.state is AttemptState.CLOSED:
        if attempt.outcome == command.outcome:
            return Finished(attempt.accepted, "it was finished with this before")
        # A runner that was given up for lost, and was not: what it found out is kept all the same.
        if not attempt.accepted:
            tx.put_attempt(changed(attempt, outcome=command.outcome))
        return Finished(False, f"the attempt has ended: {_standing(task)}")
    if command.peak is not None and task.environment:
        known = tx.peak(task.tenant, task.environment) or Peak(task.tenant, task.environment)
        tx.put_peak(measured(known, command.peak))
    wanted = task.fence == command.fence and task.state in ACTIVE
    close(tx, attempt, command.outcome, wanted, now)
    task = spend(tx, task, command.outcome.cost)
    reason = f"superseded: {_standing(task)}"
    if wanted:
        reason = settle(tx, task, command.outcome, now, policy).reason
    job = tx.job(task.job)
    assert job is not None
    return Finished(wanted, reason, None if job.spent is None else job.id)


def _standing(task: Task) -> str:
    return f"task {task.id} is {task.state} under fence {task.fence} ({task.reason})"


def _found(tx: Transaction, name: str, fence: int) -> tuple[Attempt, Task]:
    attempt, task = tx.attempt(name, fence), tx.task(name)
    if attempt is None or task is None:
        raise NotFound(f"task={name!r}, fence={fence}: there is no such attempt")
    return attempt, task
