"""A store that fails when it is told to, and shows what each transaction wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from megaflow.errors import Unavailable
from megaflow_server.orchestrator.records import Attempt, Event, Job, Runner, Task, Tenant
from megaflow_server.orchestrator.store.base import Store, Transaction

__all__ = ["Failing", "ObservedStore", "Written"]


class Failing(Enum):
    """How a transaction fails."""

    AT_ONCE = "at once"
    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit"  # it has happened, and nobody is told


@dataclass(slots=True)
class Written:
    """What a transaction wrote; of one record, the last."""

    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class ObservedStore:
    """Another store, watched.

    Args:
        seen: is called with what was written, once it is committed.
        fails: is asked before each transaction.
    """

    def __init__(
        self,
        store: Store,
        seen: Callable[[Written], None],
        fails: Callable[[], Failing | None] = lambda: None,
    ) -> None:
        self._store = store
        self._seen = seen
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        failing = self._fails()
        if failing is Failing.AT_ONCE:
            raise Unavailable("the store failed, as planned; nothing was changed")
        written = Written()
        with self._store.transaction() as tx:
            observed: Any = _Observed(tx, written)
            yield observed
            if failing is Failing.BEFORE_COMMIT:
                raise Unavailable("the store failed, as planned; nothing was changed")
        self._seen(written)
        if failing is Failing.AFTER_COMMIT:
            raise Unavailable("the store failed, as planned; whether it happened is unknown")


class _Observed:
    """A transaction that also notes what is written."""

    def __init__(self, tx: Transaction, written: Written) -> None:
        self._tx = tx
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def put_task(self, task: Task) -> None:
        self._written.tasks[task.id] = task
        self._tx.put_task(task)

    def add_tasks(self, tasks: list[Task]) -> None:
        self._written.tasks.update((task.id, task) for task in tasks)
        self._tx.add_tasks(tasks)

    def put_attempt(self, attempt: Attempt) -> None:
        self._written.attempts[attempt.task, attempt.fence] = attempt
        self._tx.put_attempt(attempt)

    def put_runner(self, runner: Runner) -> None:
        self._written.runners[runner.id] = runner
        self._tx.put_runner(runner)

    def put_tenant(self, tenant: Tenant) -> None:
        self._written.tenants[tenant.name] = tenant
        self._tx.put_tenant(tenant)

    def put_job(self, job: Job) -> None:
        self._written.jobs[job.id] = job
        self._tx.put_job(job)

    def add_event(self, event: Event) -> None:
        self._written.events.append(event)
        self._tx.add_event(event)
