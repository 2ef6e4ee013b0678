"""SIGKILL between any two steps, of the process or of PostgreSQL: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from megaflow.errors import Unavailable
from megaflow_server.orchestrator.store import schema
from megaflow_server.orchestrator.store.engines import connect
from megaflow_server.orchestrator.store.opening import upgrade
from megaflow_server.orchestrator.store.sql import SqlStore
from postgres_server import PostgresServer
from store_life import Ask, asker, audit, live

# Not a fork of this process: gRPC, which other tests have used in it, may end one.
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["megaflow_server.orchestrator.store.opening", "cloudpickle"])


class Failpoints:
    """Before and after every statement and every commit; dies at one of them."""

    def __init__(self, engine: sa.Engine, die_at: int = 0) -> None:
        self.passed = 0
        self._die_at = die_at
        sa.event.listen(engine, "before_cursor_execute", self._pass)
        sa.event.listen(engine, "after_cursor_execute", self._pass)
        commit = engine.dialect.do_commit

        def struck(connection: Any) -> None:
            self._pass()
            commit(connection)
            self._pass()

        engine.dialect.do_commit = struck  # type: ignore[method-assign, assignment]

    def _pass(self, *_: object) -> None:
        self.passed += 1
        if self.passed == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work: Callable[[], object]) -> int:
    """How a process of its own ended: its exit status, or minus the signal."""
    child = APART.Process(target=_do, args=(cloudpickle.dumps(work),))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _do(pickled: bytes) -> None:
    cloudpickle.loads(pickled)()


def strike_everywhere(url: str, fresh: Callable[[], None], place: Path, step: int) -> int:
    """A life that ends at a failpoint, and another one after it, for each; how many there are."""

    def life(die_at: int, journal: Path) -> int:
        engine = connect(url)
        upgrade(engine)
        points = Failpoints(engine, die_at)
        store = SqlStore(engine)
        live(store, journal, asker(store))
        store.close()
        return points.passed

    fresh()
    every = life(0, place / "whole")
    for point in range(1, every + 1, step):
        fresh()
        journal = place / f"journal-{point}"
        assert in_a_child(partial(life, point, journal)) == -signal.SIGKILL, point
        life(0, journal)
        store = SqlStore(connect(url))
        audit(store, journal)
        store.close()
    return every


MANY = 60
# All of them where this is set, one in so many otherwise.
STEP = 1 if "MEGAFLOW_TEST_FAULT_POINTS" in os.environ else 5


@pytest.mark.long
def test_sigkill_at_every_failpoint_over_sqlite(tmp_path: Path) -> None:
    def fresh() -> None:
        for old in tmp_path.glob("store.db*"):
            old.unlink()

    assert strike_everywhere(f"sqlite:///{tmp_path}/store.db", fresh, tmp_path, STEP) > 50


@pytest.mark.long
@pytest.mark.requires("postgres")
def test_sigkill_at_every_failpoint_over_postgresql(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = connect(postgres.url)
    upgrade(engine)

    def fresh() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {', '.join(schema.metadata.tables)}")

    try:
        assert strike_everywhere(postgres.url, fresh, tmp_path, STEP) > 50
    finally:
        engine.dispose()


@pytest.mark.long
@pytest.mark.requires("postgres")
def test_postgresql_may_be_killed_at_any_time(tmp_path: Path) -> None:
    journal, ended, kills = tmp_path / "journal", threading.Event(), 0
    with PostgresServer() as server:
        engine = connect(server.url)
        upgrade(engine)
        store = SqlStore(engine)
        patient = patiently(asker(store))

        def strike() -> None:
            nonlocal kills
            # Not for ever: where this machine is busy, nothing would come to an end in between.
            while kills < 5 and not ended.wait(0.3):
                server.kill()
                server.start()
                kills += 1

        striking = threading.Thread(target=strike)
        striking.start()
        try:
            live_on(store, journal, patient)
        finally:
            ended.set()
            striking.join()
        audit(store, journal, MANY)
        store.close()
    assert kills > 0


def patiently(ask: Ask) -> Ask:
    """Asks again until the store is there."""

    def again(*commands: Any) -> list[Any]:
        end = time.monotonic() + 60
        while True:
            try:
                return ask(*commands)
            except Unavailable:
                assert time.monotonic() < end
                time.sleep(0.05)

    return again


def live_on(store: SqlStore, journal: Path, ask: Ask) -> None:
    """Until it comes to an end: what only reads is not asked again by itself."""
    while True:
        try:
            live(store, journal, ask, MANY)
        except Unavailable:
            time.sleep(0.05)
        else:
            return
