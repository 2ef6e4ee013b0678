"""Connections to databases: by URL, with what each needs to lose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

from megaflow.errors import InvalidArgument, Unavailable
from megaflow_server.orchestrator.store.base import Conflict

__all__ = ["READS", "connect", "refusals"]

# An execution option: what follows only reads, and waits for nobody who writes.
READS = "megaflow_reads"

# PostgreSQL's codes for a transaction that was in another's way: a deadlock, what cannot be serialised, and a row
# that two wanted to be the first to write.
_CONFLICTS: Final = frozenset({"40P01", "40001", "23505"})


def connect(url: str) -> sa.Engine:
    """An engine for `sqlite:///path` (or `sqlite://`, in memory) or `postgresql://…`.

    Raises:
        InvalidArgument: it is neither, or its driver is not installed.
    """
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise InvalidArgument(f"store={url!r}: give sqlite:///PATH or postgresql://…") from error
    if made.get_backend_name() == "sqlite":
        return _sqlite(made)
    if made.get_backend_name() == "postgresql":
        return _postgresql(made)
    raise InvalidArgument(
        f"store={made.render_as_string()!r}: give sqlite:///PATH or postgresql://…"
    )


def _postgresql(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ImportError as error:
        raise InvalidArgument(
            f"store={url.render_as_string()!r} needs psycopg: pip install 'megaflow[postgres]'"
        ) from error


@contextmanager
def refusals(known: str) -> Iterator[None]:
    """Says a database's own errors in ours.

    Args:
        known: what is known of what was asked, for the message.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _CONFLICTS:
            raise Conflict(f"another transaction was in the way: {error.orig}") from error
        raise Unavailable(f"the store failed; {known}: {error.orig}") from error


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # `begin` below says when
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads and then writes would otherwise fail where another has written meanwhile.
        reads = connection.get_execution_options().get(READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
