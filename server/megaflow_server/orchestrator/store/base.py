"""The contract of a store: transactions over records.

A store knows no rules: `orchestrator.handlers` does. It keeps records, finds them by what the scheduler asks
for, and makes a transaction happen whole or not at all, apart from every other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from megaflow.errors import Unavailable
from megaflow_server.orchestrator.records import (
    Attempt,
    AttemptState,
    Event,
    Job,
    ManifestPart,
    Peak,
    Runner,
    Task,
    TaskState,
    Tenant,
)

__all__ = [
    "ENDED",
    "FREED",
    "MISSED",
    "QUEUED",
    "Conflict",
    "Heard",
    "Keys",
    "Store",
    "Transaction",
]

# What `Store.listen` hears: that tasks were queued; that attempts ended, so that there is room; that tasks of a job
# ended, with the job's id behind it; that something may have been missed, so that whoever waits should look.
QUEUED: Final = "queued"
FREED: Final = "freed"
ENDED: Final = "ended "
MISSED: Final = "missed"

Heard = Callable[[str], None]


class Conflict(Unavailable):
    """Another transaction was in this one's way. Nothing of this one happened: carry it out again."""


@dataclass(slots=True)
class Keys:
    """Records that a transaction will read: of attempts and tasks also their job, runner and tenant.

    Attributes:
        attempts: by task and fence.
        submissions: by tenant and idempotency key.
        every_tenant: all tenants that there are.
    """

    tasks: set[str] = field(default_factory=set)
    attempts: set[tuple[str, int]] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    runners: set[str] = field(default_factory=set)
    tenants: set[str] = field(default_factory=set)
    specs: set[str] = field(default_factory=set)
    submissions: set[tuple[str, str]] = field(default_factory=set)
    every_tenant: bool = False


class Transaction(Protocol):
    """Reads see what this transaction has written, and nothing of others that have not ended.

    A record that was read by its key stays as it is until the transaction ends: nobody else changes it.
    """

    def fetch(self, keys: Keys) -> None:
        """Read these now, many at once, and in an order in which transactions do not wait for each other in circles.

        What is read afterwards needs no question of its own; so this comes before anything else.
        """

    def task(self, task: str) -> Task | None: ...
    def put_task(self, task: Task) -> None: ...
    def add_tasks(self, tasks: Sequence[Task]) -> None: ...

    def attempt(self, task: str, fence: int) -> Attempt | None: ...
    def put_attempt(self, attempt: Attempt) -> None: ...

    def job(self, job: str) -> Job | None: ...
    def put_job(self, job: Job) -> None: ...

    def runner(self, runner: str) -> Runner | None: ...
    def put_runner(self, runner: Runner) -> None: ...

    def tenant(self, tenant: str) -> Tenant | None: ...
    def put_tenant(self, tenant: Tenant) -> None: ...

    def spec(self, key: str) -> str | None: ...
    def put_spec(self, key: str, document: str) -> None: ...

    def manifest(self, job: str, part: int) -> ManifestPart | None: ...
    def put_manifest(self, part: ManifestPart) -> None: ...

    def submission(self, tenant: str, key: str) -> tuple[str, str] | None:
        """Of an idempotency key: the task that was made for it, and the digest of what was asked."""

    def peak(self, tenant: str, environment: str) -> Peak | None:
        """It alone may be changed by others meanwhile: one measurement less is no harm."""

    def put_peak(self, peak: Peak) -> None: ...

    def put_submission(self, tenant: str, key: str, task: str, digest: str) -> None: ...

    def add_event(self, event: Event) -> None: ...

    def waiting_tenants(self) -> Sequence[Tenant]:
        """Those with queued tasks, by name."""

    def heads(self, tenants: Sequence[str], after: Task | None, most: int) -> Sequence[Task]:
        """Queued tasks, up to `most` of each tenant, in the order in which they are to start: by priority, then age.

        Those that another transaction is about to start are left out.

        Args:
            after: only those behind this one; of one tenant.
        """

    def due(self, now: float, most: int) -> Sequence[Task]:
        """Tasks whose `due` has come, the longest overdue first."""

    def open_attempts(
        self, runner: str, state: AttemptState | None, most: int
    ) -> Sequence[Attempt]:
        """A runner's attempts that are not closed, or of one such state, by task."""

    def unfinished(self, job: str, most: int) -> Sequence[Task]:
        """A job's tasks that have not ended, by order of submission."""


class Store(Protocol):
    """Keeps records. A store is used by one thread at a time."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A transaction that ends with the block: committed, or rolled back where it raises.

        Raises:
            Conflict: another transaction was in the way; nothing of this one happened.
            Unavailable: the database cannot be reached, or is full; nothing of it happened, unless the message
                says that this is unknown.
        """

    def listen(self, heard: Heard) -> Callable[[], None]:
        """Have `heard` called soon after a transaction is committed, whoever's it was; the result ends that.

        It is called in any thread, with QUEUED, FREED, ENDED and a job's id, or MISSED; and returns at once.
        """

    def close(self) -> None: ...

    # What is read outside a transaction: as of some moment, not necessarily the same for two calls.

    def results(self, job: str, after: int, most: int) -> Sequence[Task]:
        """A job's tasks that have ended, in the order in which they did, from `done` = after + 1 on."""

    def counts(self) -> Sequence[tuple[str, TaskState, int]]:
        """How many tasks each tenant has in each state; those of which it has none are left out."""

    def history(self, task: str) -> Sequence[Event]:
        """A task's transitions, oldest first."""

    def runners(self) -> Sequence[Runner]:
        """Those that are not gone, by id."""

    def job_attempts(self, job: str) -> Iterator[Attempt]:
        """Every attempt at a job's tasks, by task and fence."""

    def find_task(self, task: str) -> Task | None: ...

    def find_job(self, tenant: str, job: str) -> Job | None:
        """A tenant's job by its id, or the newest of this name."""

    def find_manifest(self, job: str, part: int) -> ManifestPart | None: ...

    def jobs(self, tenant: str, most: int) -> Sequence[Job]:
        """A tenant's jobs, the newest first."""

    def states(self, job: str) -> Sequence[tuple[TaskState, int]]:
        """How many of a job's tasks are in each state; those in which none is are left out."""

    def active(self, job: str, most: int) -> Sequence[Task]:
        """Those of a job's tasks that runners have, the longest first."""

    def tenants(self) -> Sequence[Tenant]:
        """All that there are, by name."""

    def find_peak(self, tenant: str, environment: str) -> Peak | None: ...

    def waiting(self) -> Sequence[Tenant]:
        """Those with queued tasks, by name."""

    def ahead(self, task: Task) -> int:
        """How many of its tenant's queued tasks are to start before this one."""
