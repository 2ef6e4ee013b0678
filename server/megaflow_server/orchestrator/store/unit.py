"""One transaction of the store over a database: a unit of work.

What it reads it keeps, what it writes goes out together, many rows in one statement, before a question that could
see it and at its end. So a batch of commands in one transaction costs a few statements and one commit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from megaflow_server.orchestrator.records import (
    Attempt,
    AttemptState,
    Event,
    Job,
    ManifestPart,
    Peak,
    Runner,
    Task,
    Tenant,
)
from megaflow_server.orchestrator.store import rows, schema
from megaflow_server.orchestrator.store.base import Keys
from megaflow_server.orchestrator.store.news import news_of
from megaflow_server.orchestrator.store.work import Rows

__all__ = ["SqlTransaction", "waiting_tenants"]

_tasks, _attempts = schema.tasks.c, schema.attempts.c
# Tenants in one question; SQLite takes at most 500.
_TENANTS_AT_ONCE = 128
_ORDER = (_tasks.priority.desc(), _tasks.submitted, _tasks.job, _tasks.order)


def _queued() -> sa.Select[Any]:
    """Queued tasks in the order in which they are to start."""
    asked = sa.select(schema.tasks).where(_tasks.state == sa.literal_column("'queued'"))
    return asked.order_by(*_ORDER)


@functools.cache
def _heads(tenants: int) -> sa.CompoundSelect[Any]:
    """The first queued tasks of each of so many tenants, in one question; each part locks what it finds."""
    parts = [
        _queued()
        .where(_tasks.tenant == sa.bindparam(f"tenant_{number}", type_=sa.Text))
        .limit(sa.bindparam("most", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        for number in range(tenants)
    ]
    return sa.union_all(*(sa.select(part.subquery()) for part in parts))


def waiting_tenants() -> sa.Select[Any]:
    """Tenants with queued tasks, by name."""
    name = schema.tenants.c.name
    queued = (
        sa.select(sa.literal(1))
        .where(_tasks.tenant == name, _tasks.state == sa.literal_column("'queued'"))
        .correlate(schema.tenants)
    )
    return sa.select(schema.tenants).where(queued.exists()).order_by(name)


class SqlTransaction:
    """One unit of work."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._tasks = Rows(
            connection, schema.tasks, rows.task_from, rows.task_row, schema.TASK_CHANGES
        )
        self._attempts = Rows(
            connection, schema.attempts, rows.attempt_from, rows.attempt_row, schema.ATTEMPT_CHANGES
        )
        self._jobs = Rows(connection, schema.jobs, rows.job_from, rows.job_row, schema.JOB_CHANGES)
        self._runners = Rows(
            connection, schema.runners, rows.runner_from, rows.runner_row, schema.RUNNER_CHANGES
        )
        self._tenants = Rows(
            connection, schema.tenants, rows.tenant_from, rows.tenant_row, schema.TENANT_CHANGES
        )
        # Never changed once written, so reading them holds nobody up.
        self._specs = Rows(connection, schema.specs, dict, dict, lock=False)
        self._manifests = Rows(
            connection, schema.manifests, rows.manifest_from, rows.flat, lock=False
        )
        self._submissions = Rows(connection, schema.submissions, dict, dict)
        # Every claim of an environment's tasks reads its peak, and none is to wait for another.
        self._peaks = Rows(
            connection, schema.peaks, rows.peak_from, rows.flat, schema.PEAK_CHANGES, lock=False
        )
        self._events: list[dict[str, Any]] = []
        self.news: set[str] = set()  # what `Store.listen` is to hear of it

    def fetch(self, keys: Keys) -> None:
        # Attempts before tasks, tasks before jobs, and so on, and tenants last: everybody waits in this order.
        self._submissions.load(keys.submissions)
        attempts = self._attempts.load(keys.attempts)
        named = keys.tasks | {task for task, _ in keys.attempts}
        tasks = self._tasks.load([(task,) for task in named])
        jobs = self._jobs.load([(job,) for job in keys.jobs | {task.job for task in tasks}])
        of_attempts = {one.runner for one in attempts}
        self._runners.load([(name,) for name in keys.runners | of_attempts])
        if keys.every_tenant:
            self._tenants.find(sa.select(schema.tenants).order_by(schema.tenants.c.name))
        theirs = {one.tenant for every in (attempts, tasks, jobs) for one in every}
        self._tenants.load([(name,) for name in keys.tenants | theirs])
        self._specs.load([(spec,) for spec in keys.specs])

    def task(self, task: str) -> Task | None:
        return self._tasks.get((task,))

    def put_task(self, task: Task) -> None:
        self._tasks.put((task.id,), task)
        self.news.update(news_of(task))

    def add_tasks(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.put_task(task)

    def attempt(self, task: str, fence: int) -> Attempt | None:
        return self._attempts.get((task, fence))

    def put_attempt(self, attempt: Attempt) -> None:
        self._attempts.put((attempt.task, attempt.fence), attempt)
        self.news.update(news_of(attempt))

    def job(self, job: str) -> Job | None:
        return self._jobs.get((job,))

    def put_job(self, job: Job) -> None:
        self._jobs.put((job.id,), job)

    def runner(self, runner: str) -> Runner | None:
        return self._runners.get((runner,))

    def put_runner(self, runner: Runner) -> None:
        self._runners.put((runner.id,), runner)

    def tenant(self, tenant: str) -> Tenant | None:
        return self._tenants.get((tenant,))

    def put_tenant(self, tenant: Tenant) -> None:
        self._tenants.put((tenant.name,), tenant)

    def spec(self, key: str) -> str | None:
        found = self._specs.get((key,))
        return None if found is None else found["document"]

    def put_spec(self, key: str, document: str) -> None:
        if self._specs.get((key,)) is None:
            self._specs.put((key,), {"key": key, "document": document})

    def manifest(self, job: str, part: int) -> ManifestPart | None:
        return self._manifests.get((job, part))

    def put_manifest(self, part: ManifestPart) -> None:
        self._manifests.put((part.job, part.part), part)

    def submission(self, tenant: str, key: str) -> tuple[str, str] | None:
        found = self._submissions.get((tenant, key))
        return None if found is None else (found["task"], found["digest"])

    def put_submission(self, tenant: str, key: str, task: str, digest: str) -> None:
        row = {"tenant": tenant, "key": key, "task": task, "digest": digest}
        self._submissions.put((tenant, key), row)

    def peak(self, tenant: str, environment: str) -> Peak | None:
        return self._peaks.get((tenant, environment))

    def put_peak(self, peak: Peak) -> None:
        self._peaks.put((peak.tenant, peak.environment), peak)

    def add_event(self, event: Event) -> None:
        self._events.append(rows.event_row(event))

    def waiting_tenants(self) -> Sequence[Tenant]:
        self.flush()
        return self._tenants.find(waiting_tenants())

    def heads(self, tenants: Sequence[str], after: Task | None, most: int) -> Sequence[Task]:
        self.flush()
        if after is not None:
            place = (-after.priority, after.submitted, after.job, after.order)
            columns = (-_tasks.priority, _tasks.submitted, _tasks.job, _tasks.order)
            asked = _queued().where(
                _tasks.tenant == after.tenant,
                sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, place)),
            )
            return self._tasks.find(asked.limit(most), skip_locked=True)
        found: list[Task] = []
        for begin in range(0, len(tenants), _TENANTS_AT_ONCE):
            some = tenants[begin : begin + _TENANTS_AT_ONCE]
            # Statements of few sizes, so that they are compiled once; nobody is called NULL.
            size = 1 << (len(some) - 1).bit_length()
            names = {f"tenant_{number}": name for number, name in enumerate(some)}
            absent = {f"tenant_{number}": None for number in range(len(some), size)}
            values = {"most": most, **names, **absent}
            found += self._tasks.find(_heads(size), values, lock=False)
        # What is put together from several need not be in their order.
        return sorted(found, key=lambda one: (-one.priority, one.submitted, one.job, one.order))

    def due(self, now: float, most: int) -> Sequence[Task]:
        asked = sa.select(schema.tasks).where(_tasks.due <= now)
        self.flush()
        ordered = asked.order_by(_tasks.due, _tasks.id).limit(most)
        return self._tasks.find(ordered, skip_locked=True)

    def open_attempts(
        self, runner: str, state: AttemptState | None, most: int
    ) -> Sequence[Attempt]:
        wanted = (
            _attempts.state != sa.literal_column("'closed'")
            if state is None
            else _attempts.state == sa.literal_column(f"'{state.value}'")
        )
        asked = sa.select(schema.attempts).where(_attempts.runner == runner, wanted)
        self.flush()
        return self._attempts.find(asked.order_by(_attempts.task, _attempts.fence).limit(most))

    def unfinished(self, job: str, most: int) -> Sequence[Task]:
        asked = sa.select(schema.tasks).where(_tasks.job == job, _tasks.done == 0)
        self.flush()
        return self._tasks.find(asked.order_by(_tasks.order).limit(most))

    def flush(self) -> None:
        """Write what has changed."""
        for table in (
            self._tenants,
            self._jobs,
            self._specs,
            self._manifests,
            self._runners,
            self._tasks,
            self._attempts,
            self._submissions,
            self._peaks,
        ):
            table.flush()
        if self._events:
            self._connection.execute(sa.insert(schema.events), self._events)
            self._events = []
