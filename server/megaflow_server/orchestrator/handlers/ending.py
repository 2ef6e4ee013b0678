"""How attempts and tasks end: what is given back, and what is counted."""

from __future__ import annotations

from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.records import (
    ACTIVE,
    TERMINAL,
    Attempt,
    AttemptState,
    Cost,
    Failure,
    FailureKind,
    Outcome,
    Task,
    TaskState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Transaction
from megaflow_server.orchestrator.transitions import moved

__all__ = ["close", "cost_cut_off", "end", "move", "revoke", "settle", "spend"]

_SPOILT = {FailureKind.INFRASTRUCTURE, FailureKind.WORKER_DIED}


def move(
    tx: Transaction, task: Task, after: TaskState, reason: str, now: float, **changes: object
) -> Task:
    """Move a task to its next state, with its event."""
    task, event = moved(task, after, reason, now, **changes)
    tx.put_task(task)
    tx.add_event(event)
    return task


def end(
    tx: Transaction, task: Task, after: TaskState, outcome: Outcome, now: float, **changes: object
) -> Task:
    """Move a task to a state that is its last, next in its job's order of completion."""
    job = tx.job(task.job)
    assert job is not None
    job = changed(job, done=job.done + 1)
    tx.put_job(job)
    reason = outcome.failure.reason if outcome.failure else "done"
    return move(tx, task, after, reason, now, done=job.done, outcome=outcome, **changes)


def close(tx: Transaction, attempt: Attempt, outcome: Outcome, accepted: bool, now: float) -> None:
    """End an attempt: its runner's room and its tenant's quota are free from here on, and only from here on."""
    tx.put_attempt(
        changed(attempt, state=AttemptState.CLOSED, closed=now, outcome=outcome, accepted=accepted)
    )
    runner, tenant = tx.runner(attempt.runner), tx.tenant(attempt.tenant)
    assert runner is not None
    assert tenant is not None
    tx.put_runner(changed(runner, used=runner.used - attempt.requests))
    tx.put_tenant(changed(tenant, running=tenant.running - 1))


def spend(tx: Transaction, task: Task, cost: Cost | None) -> Task:
    """Count what an attempt's calls cost for its job, whatever became of it; None: it named no models.

    And for its task, unless that has ended before: a result stays as it is.
    """
    if cost is None:
        return task
    job = tx.job(task.job)
    assert job is not None
    tx.put_job(
        changed(
            job,
            known_cost=job.known_cost + cost.known,
            unknown_costs=job.unknown_costs + cost.unknown,
        )
    )
    if task.state not in TERMINAL:
        task = changed(task, cost=(task.cost or Cost()) + cost)
        tx.put_task(task)
    return task


def cost_cut_off(task: Task) -> Cost | None:
    """What a task has cost that ends now, whatever its attempt is at: nobody can tell where it has one."""
    return (task.cost or Cost()) + Cost(unknown=1) if task.state in ACTIVE else task.cost


def revoke(tx: Transaction, task: Task) -> None:
    """Have a task's open attempt stopped; it holds what it holds until its runner says that it is."""
    attempt = tx.attempt(task.id, task.fence)
    if attempt is not None and attempt.state is AttemptState.OPEN:
        tx.put_attempt(changed(attempt, state=AttemptState.REVOKED))


def settle(tx: Transaction, task: Task, outcome: Outcome, now: float, policy: RetryPolicy) -> Task:
    """Move a task on from the outcome of its newest attempt: to its end, or to another try."""
    failure = outcome.failure
    if outcome.valid:
        return end(tx, task, TaskState.SUCCEEDED, outcome, now)
    assert failure is not None
    if failure.kind is FailureKind.RUNNER_LOST:
        return move(tx, task, TaskState.QUEUED, failure.reason, now)
    if failure.kind is FailureKind.CANCELLED:
        return end(tx, task, TaskState.CANCELLED, outcome, now)
    if failure.kind not in _SPOILT:
        return end(tx, task, TaskState.FAILED, outcome, now)
    deaths = task.worker_deaths + (failure.kind is FailureKind.WORKER_DIED)
    if deaths >= policy.deaths:
        return end(
            tx,
            task,
            TaskState.QUARANTINED,
            _quarantined(failure, deaths),
            now,
            worker_deaths=deaths,
        )
    if task.retries >= policy.most:
        return end(tx, task, TaskState.FAILED, outcome, now, worker_deaths=deaths)
    return _retry(tx, task, failure, deaths, now, policy)


def _retry(
    tx: Transaction, task: Task, failure: Failure, deaths: int, now: float, policy: RetryPolicy
) -> Task:
    job = tx.job(task.job)
    assert job is not None
    job, wait = policy.spend(job, now)
    tx.put_job(job)
    retry = task.retries + 1
    delay = wait + policy.delay(task.id, retry)
    reason = f"retry {retry} of {policy.most} in {delay:.1f} s: {failure.reason}"
    return move(
        tx,
        task,
        TaskState.RETRYING,
        reason,
        now,
        retries=retry,
        worker_deaths=deaths,
        not_before=now + delay,
    )


def _quarantined(failure: Failure, deaths: int) -> Outcome:
    reason = f"{deaths} workers died while they ran it, the last so: {failure.reason}"
    return Outcome(valid=False, failure=changed(failure, reason=reason))
