"""The store over SQLite or PostgreSQL: its transactions are those of `unit`, everything else only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from megaflow_server.orchestrator.records import (
    ACTIVE,
    Attempt,
    Event,
    Job,
    ManifestPart,
    Peak,
    Runner,
    RunnerState,
    Task,
    TaskState,
    Tenant,
)
from megaflow_server.orchestrator.store import rows, schema
from megaflow_server.orchestrator.store.base import Heard
from megaflow_server.orchestrator.store.engines import READS, refusals
from megaflow_server.orchestrator.store.news import Listeners, PostgresNews, notify
from megaflow_server.orchestrator.store.unit import SqlTransaction, waiting_tenants

__all__ = ["SqlStore"]

_tasks, _attempts, _jobs = schema.tasks.c, schema.attempts.c, schema.jobs.c
_NEWEST = (_jobs.submitted.desc(), _jobs.id)


class SqlStore:
    """Records in a database.

    Args:
        engine: made by `store.engines.connect`, its tables there already: see `store.opening`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._shared = engine.dialect.name == "postgresql"
        self._listeners = Listeners()
        self._news: PostgresNews | None = None

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with (
            refusals("whether the transaction happened may be unknown"),
            self._engine.begin() as connection,
        ):
            work = SqlTransaction(connection)
            yield work
            work.flush()
            if self._shared:
                notify(connection, work.news)
        if not self._shared:
            self._listeners.tell(work.news)

    def listen(self, heard: Heard) -> Callable[[], None]:
        # Before the connection is there: whoever listens first hears MISSED once nothing is missed.
        leave = self._listeners.add(heard)
        if self._shared and self._news is None:
            self._news = PostgresNews(self._engine, self._listeners)
        return leave

    def close(self) -> None:
        if self._news is not None:
            self._news.close()
        self._engine.dispose()

    def results(self, job: str, after: int, most: int) -> Sequence[Task]:
        asked = (
            sa.select(schema.tasks)
            .where(_tasks.job == job, _tasks.done > after)
            .order_by(_tasks.done)
            .limit(most)
        )
        return [rows.task_from(row) for row in self._read(asked)]

    def counts(self) -> Sequence[tuple[str, TaskState, int]]:
        columns = (_tasks.tenant, _tasks.state)
        asked = sa.select(*columns, sa.func.count().label("count")).group_by(*columns)
        found = self._read(asked)
        return sorted((row["tenant"], TaskState(row["state"]), row["count"]) for row in found)

    def history(self, task: str) -> Sequence[Event]:
        asked = sa.select(schema.events).where(schema.events.c.task == task)
        return [rows.event_from(row) for row in self._read(asked.order_by(schema.events.c.number))]

    def runners(self) -> Sequence[Runner]:
        table = schema.runners
        asked = sa.select(table).where(table.c.state != RunnerState.GONE.value)
        return [rows.runner_from(row) for row in self._read(asked.order_by(table.c.id))]

    def job_attempts(self, job: str) -> Iterator[Attempt]:
        asked = (
            sa.select(schema.attempts)
            .join(schema.tasks, _tasks.id == _attempts.task)
            .where(_tasks.job == job)
            .order_by(_attempts.task, _attempts.fence)
        )
        yield from (rows.attempt_from(row) for row in self._read(asked))

    def find_task(self, task: str) -> Task | None:
        found = self._read(sa.select(schema.tasks).where(_tasks.id == task))
        return rows.task_from(found[0]) if found else None

    def find_job(self, tenant: str, job: str) -> Job | None:
        mine = sa.select(schema.jobs).where(_jobs.tenant == tenant)
        found = self._read(mine.where(_jobs.id == job))
        if not found and job:
            found = self._read(mine.where(_jobs.name == job).order_by(*_NEWEST).limit(1))
        return rows.job_from(found[0]) if found else None

    def find_manifest(self, job: str, part: int) -> ManifestPart | None:
        table = schema.manifests
        found = self._read(sa.select(table).where(table.c.job == job, table.c.part == part))
        return rows.manifest_from(found[0]) if found else None

    def jobs(self, tenant: str, most: int) -> Sequence[Job]:
        asked = sa.select(schema.jobs).where(_jobs.tenant == tenant)
        return [rows.job_from(row) for row in self._read(asked.order_by(*_NEWEST).limit(most))]

    def states(self, job: str) -> Sequence[tuple[TaskState, int]]:
        asked = sa.select(_tasks.state, sa.func.count().label("count"))
        found = self._read(asked.where(_tasks.job == job).group_by(_tasks.state))
        return sorted((TaskState(row["state"]), row["count"]) for row in found)

    def active(self, job: str, most: int) -> Sequence[Task]:
        asked = sa.select(schema.tasks).where(_tasks.job == job, _tasks.state.in_(ACTIVE))
        found = self._read(asked.order_by(_tasks.started, _tasks.id).limit(most))
        return [rows.task_from(row) for row in found]

    def tenants(self) -> Sequence[Tenant]:
        asked = sa.select(schema.tenants).order_by(schema.tenants.c.name)
        return [rows.tenant_from(row) for row in self._read(asked)]

    def find_peak(self, tenant: str, environment: str) -> Peak | None:
        table = schema.peaks
        asked = sa.select(table).where(table.c.tenant == tenant, table.c.environment == environment)
        found = self._read(asked)
        return rows.peak_from(found[0]) if found else None

    def waiting(self) -> Sequence[Tenant]:
        return [rows.tenant_from(row) for row in self._read(waiting_tenants())]

    def ahead(self, task: Task) -> int:
        before = sa.or_(
            _tasks.priority > task.priority,
            sa.and_(
                _tasks.priority == task.priority,
                sa.tuple_(_tasks.submitted, _tasks.job, _tasks.order)
                < sa.tuple_(
                    sa.literal(task.submitted), sa.literal(task.job), sa.literal(task.order)
                ),
            ),
        )
        asked = sa.select(sa.func.count().label("count")).where(
            _tasks.tenant == task.tenant, _tasks.state == TaskState.QUEUED.value, before
        )
        count: int = self._read(asked)[0]["count"]
        return count

    def _read(self, asked: sa.Select[Any]) -> list[dict[str, Any]]:
        with refusals("nothing was changed"), self._engine.connect() as connection:
            connection = connection.execution_options(**{READS: True})
            return [dict(row) for row in connection.execute(asked).mappings()]
