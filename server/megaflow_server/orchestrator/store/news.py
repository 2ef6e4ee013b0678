"""What a store tells whoever waits: that tasks were queued or have ended, or that there is room for others.

Within one process listeners are called once a transaction is committed. Over PostgreSQL a transaction carries its news
(NOTIFY) and each orchestrator listens on a connection of its own (LISTEN): it hears its own and everybody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final

import sqlalchemy as sa

from megaflow_server.orchestrator.records import (
    TERMINAL,
    Attempt,
    AttemptState,
    Task,
    TaskState,
)
from megaflow_server.orchestrator.store.base import ENDED, FREED, MISSED, QUEUED, Heard

__all__ = ["Listeners", "PostgresNews", "news_of", "notify"]

_CHANNEL: Final = "megaflow"
# Seconds: how soon the end of listening is noticed, and the pause before a lost connection is made again.
_ATTENTION: Final = 0.5
_AGAIN: Final = 1.0


def news_of(record: Task | Attempt) -> Collection[str]:
    """What a record that was written is news of."""
    if isinstance(record, Attempt):
        # Whatever becomes of its task: one that is to be retried leaves room, too.
        return (FREED,) if record.state is AttemptState.CLOSED else ()
    if record.state is TaskState.QUEUED:
        return (QUEUED,)
    return (ENDED + record.job,) if record.state in TERMINAL else ()


def notify(connection: sa.Connection, news: Collection[str]) -> None:
    """Have listeners hear it once this transaction is committed."""
    if news:
        asked = sa.select(sa.func.pg_notify(_CHANNEL, sa.column("column1"))).select_from(
            sa.values(sa.column("column1", sa.Text), name="news").data(
                [(one,) for one in sorted(news)]
            )
        )
        connection.execute(asked)


class Listeners:
    """Who is to hear."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._every: tuple[Heard, ...] = ()

    def add(self, heard: Heard) -> Callable[[], None]:
        """Add one; the result takes it away again."""
        with self._lock:
            self._every = (*self._every, heard)
        return lambda: self._remove(heard)

    def _remove(self, heard: Heard) -> None:
        with self._lock:
            self._every = tuple(one for one in self._every if one is not heard)

    def tell(self, news: Collection[str]) -> None:
        for heard in self._every:
            for one in news:
                heard(one)


class PostgresNews:
    """A thread that listens to PostgreSQL. A connection that is lost is made again, and MISSED said."""

    def __init__(self, engine: sa.Engine, listeners: Listeners) -> None:
        self._engine = engine
        self._listeners = listeners
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-news", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        from psycopg import Error

        while not self._ended.is_set():
            try:
                self._listen()
            except (Error, sa.exc.DBAPIError):  # who writes says that the database is away, and why
                self._ended.wait(_AGAIN)

    def _listen(self) -> None:
        with self._engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                self._hear(connection)
            finally:
                connection.invalidate()  # one that listens never goes back to the pool

    def _hear(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
        self._listeners.tell([MISSED])
        driver = connection.connection.driver_connection
        assert driver is not None
        while not self._ended.is_set():
            for one in driver.notifies(timeout=_ATTENTION):
                self._listeners.tell([one.payload])
