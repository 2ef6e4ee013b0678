"""The lives of runners: their lease, and what becomes of their attempts where it runs out."""

from __future__ import annotations

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.commands import (
    DrainRunner,
    ExpireRunner,
    RegisterRunner,
    Renew,
    Renewed,
)
from megaflow_server.orchestrator.handlers.ending import close, settle, spend
from megaflow_server.orchestrator.records import (
    ACTIVE,
    HELD,
    Attempt,
    AttemptState,
    Cost,
    Failure,
    FailureKind,
    Outcome,
    Runner,
    RunnerState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Transaction

__all__ = ["drain", "expire", "register", "renew"]

# More than a runner holds; what is left over is told at the next renewal.
_REVOKED_AT_ONCE = 10_000


def register(command: RegisterRunner, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    if command.capacity.slots < 1:
        raise InvalidArgument(f"capacity.slots={command.capacity.slots}: a runner has at least 1")
    known = tx.runner(command.id)
    if known is None:
        tx.put_runner(Runner(command.id, command.capacity))
    elif known.state not in HELD or known.capacity != command.capacity:
        raise FailedPrecondition(
            f"runner={command.id!r}: there was a runner of this id; register under a new one"
        )


def renew(command: Renew, tx: Transaction, now: float, _policy: RetryPolicy) -> Renewed:
    runner = tx.runner(command.runner)
    if runner is None or runner.state not in HELD:
        raise FailedPrecondition(
            f"runner={command.runner!r}: its lease has run out, and what it held is given to others: "
            "stop everything, and register anew"
        )
    tx.put_runner(changed(runner, renewals=runner.renewals + 1))
    revoked = tx.open_attempts(runner.id, AttemptState.REVOKED, _REVOKED_AT_ONCE)
    return Renewed(tuple((attempt.task, attempt.fence) for attempt in revoked))


def drain(command: DrainRunner, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    runner = tx.runner(command.runner)
    if runner is not None and runner.state is RunnerState.ACTIVE:
        tx.put_runner(changed(runner, state=RunnerState.DRAINING))


def expire(command: ExpireRunner, tx: Transaction, now: float, policy: RetryPolicy) -> bool:
    runner = tx.runner(command.runner)
    if runner is None or (runner.state in HELD and runner.renewals != command.renewals):
        return False
    held = tx.open_attempts(runner.id, None, command.most)
    for attempt in held:
        _lose(tx, attempt, now, policy)
    more = len(held) == command.most
    runner = tx.runner(command.runner)
    assert runner is not None
    tx.put_runner(changed(runner, state=RunnerState.LOST if more else RunnerState.GONE))
    return more


def _lose(tx: Transaction, attempt: Attempt, now: float, policy: RetryPolicy) -> None:
    task = tx.task(attempt.task)
    assert task is not None
    reason = f"runner {attempt.runner} did not renew its lease"
    outcome = Outcome(False, failure=Failure(FailureKind.RUNNER_LOST, task.state, reason))
    close(tx, attempt, outcome, False, now)
    task = spend(tx, task, Cost(unknown=1))
    if task.fence == attempt.fence and task.state in ACTIVE:
        settle(tx, task, outcome, now, policy)
