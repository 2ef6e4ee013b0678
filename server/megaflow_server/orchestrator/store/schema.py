"""The tables, the same for SQLite and PostgreSQL. docs/store.md explains each column.

A moment is seconds since the epoch, NULL where there is none. A state is its own name, so that whoever looks at
the database with its own tools can read it.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

__all__ = [
    "ATTEMPT_CHANGES",
    "JOB_CHANGES",
    "PEAK_CHANGES",
    "RUNNER_CHANGES",
    "TASK_CHANGES",
    "TENANT_CHANGES",
    "attempts",
    "events",
    "jobs",
    "manifests",
    "metadata",
    "peaks",
    "runners",
    "specs",
    "submissions",
    "tasks",
    "tenants",
]

metadata: Final = sa.MetaData()

# The columns of a record that ever change.
TENANT_CHANGES: Final = ("weight", "most", "running", "served")
JOB_CHANGES: Final = (
    "total",
    "done",
    "sealed",
    "cancelled",
    "retry_tokens",
    "retry_at",
    "known_cost",
    "unknown_costs",
)
TASK_CHANGES: Final = (
    "state",
    "reason",
    "fence",
    "retries",
    "worker_deaths",
    "due",
    "not_before",
    "queued",
    "started",
    "done",
    "outcome",
    "known_cost",
    "unknown_costs",
)
ATTEMPT_CHANGES: Final = ("state", "worker", "closed", "accepted", "outcome")
PEAK_CHANGES: Final = ("count", "cpu", "memory")
RUNNER_CHANGES: Final = ("used_slots", "used_cpu", "used_memory", "renewals", "claims", "state")

_Moment = sa.Double
_Name = sa.Text
_Bytes = sa.BigInteger


def _requests() -> list[sa.Column[object]]:
    return [
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("cpu", sa.Double, nullable=False),
        sa.Column("memory", _Bytes, nullable=False),
    ]


tenants: Final = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", _Name, primary_key=True),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("most", sa.Integer),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("served", sa.BigInteger, nullable=False),
)

jobs: Final = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", _Name, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("submitted", _Moment, nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("deadline", _Moment),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("retry_tokens", sa.Double, nullable=False),
    sa.Column("retry_at", _Moment, nullable=False),
    sa.Column("max_cost", sa.Double),
    sa.Column("unpriced", sa.Boolean, nullable=False, server_default="0"),
    sa.Column("known_cost", sa.Double, nullable=False, server_default="0"),
    sa.Column("unknown_costs", sa.BigInteger, nullable=False, server_default="0"),
)

manifests: Final = sa.Table(
    "manifests",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

specs: Final = sa.Table(
    "specs",
    metadata,
    sa.Column("key", _Name, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)

tasks: Final = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", _Name, primary_key=True),
    sa.Column("job", _Name, nullable=False),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("spec", _Name, nullable=False),
    sa.Column("order", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("submitted", _Moment, nullable=False),
    sa.Column("group", _Name, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    *_requests(),
    sa.Column("schedule_to_start", sa.Double),
    sa.Column("start_to_close", sa.Double),
    sa.Column("schedule_to_close", sa.Double),
    sa.Column("deadline", _Moment),
    sa.Column("environment", _Name, nullable=False),
    sa.Column("state", _Name, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("worker_deaths", sa.Integer, nullable=False),
    sa.Column("due", _Moment),
    sa.Column("not_before", _Moment, nullable=False),
    sa.Column("queued", _Moment, nullable=False),
    sa.Column("started", _Moment, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("known_cost", sa.Double),
    sa.Column("unknown_costs", sa.BigInteger),
)
_queued: Final = tasks.c.state == sa.literal_column("'queued'")
sa.Index(
    "tasks_queued",
    tasks.c.tenant,
    tasks.c.priority.desc(),
    tasks.c.submitted,
    tasks.c.job,
    tasks.c.order,
    sqlite_where=_queued,
    postgresql_where=_queued,
)
_has_due: Final = tasks.c.due.is_not(None)
sa.Index("tasks_due", tasks.c.due, sqlite_where=_has_due, postgresql_where=_has_due)
sa.Index("tasks_of_job", tasks.c.job, tasks.c.done, tasks.c.order)

attempts: Final = sa.Table(
    "attempts",
    metadata,
    sa.Column("task", _Name, primary_key=True),
    sa.Column("fence", sa.Integer, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("runner", _Name, nullable=False),
    *_requests(),
    sa.Column("opened", _Moment, nullable=False),
    sa.Column("claim", sa.Integer, nullable=False),
    sa.Column("state", _Name, nullable=False),
    sa.Column("worker", _Name, nullable=False),
    sa.Column("closed", _Moment, nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("alone", sa.Boolean, nullable=False, server_default="0"),
)
_open: Final = attempts.c.state != sa.literal_column("'closed'")
sa.Index("attempts_open", attempts.c.runner, sqlite_where=_open, postgresql_where=_open)
_revoked: Final = attempts.c.state == sa.literal_column("'revoked'")
sa.Index("attempts_revoked", attempts.c.runner, sqlite_where=_revoked, postgresql_where=_revoked)

runners: Final = sa.Table(
    "runners",
    metadata,
    sa.Column("id", _Name, primary_key=True),
    *_requests(),
    sa.Column("used_slots", sa.Integer, nullable=False),
    sa.Column("used_cpu", sa.Double, nullable=False),
    sa.Column("used_memory", _Bytes, nullable=False),
    sa.Column("renewals", sa.BigInteger, nullable=False),
    sa.Column("claims", sa.Integer, nullable=False),
    sa.Column("state", _Name, nullable=False),
)

submissions: Final = sa.Table(
    "submissions",
    metadata,
    sa.Column("tenant", _Name, primary_key=True),
    sa.Column("key", _Name, primary_key=True),
    sa.Column("task", _Name, nullable=False),
    sa.Column("digest", _Name, nullable=False),
)

peaks: Final = sa.Table(
    "peaks",
    metadata,
    sa.Column("tenant", _Name, primary_key=True),
    sa.Column("environment", _Name, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("cpu", sa.Double, nullable=False),
    sa.Column("memory", _Bytes, nullable=False),
)

events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("task", _Name, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("at", _Moment, nullable=False),
    sa.Column("before", _Name),
    sa.Column("after", _Name, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
sa.Index("events_of_task", events.c.task, events.c.number)
