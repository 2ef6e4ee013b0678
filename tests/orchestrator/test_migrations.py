from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.orchestrator.store import schema
from megaflow_server.orchestrator.store.engines import connect
from megaflow_server.orchestrator.store.opening import open_store, upgrade
from postgres_server import PostgresServer

VERSIONS = "megaflow_schema"


def sqlite_tables(url: str, *, migrated: bool) -> set[tuple[str, str]]:
    """What SQLite says of every table and index."""
    engine = connect(url)
    upgrade(engine) if migrated else schema.metadata.create_all(engine)
    with engine.connect() as connection:
        asked = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        found = {(name, " ".join(text.split())) for name, text in connection.exec_driver_sql(asked)}
    engine.dispose()
    return {one for one in found if one[0] != VERSIONS}


def test_upgrading_an_empty_sqlite_gives_the_tables_of_the_schema(tmp_path: Path) -> None:
    made = sqlite_tables(f"sqlite:///{tmp_path}/made.db", migrated=False)
    assert sqlite_tables(f"sqlite:///{tmp_path}/migrated.db", migrated=True) == made
    assert {name for name, _ in made} >= set(schema.metadata.tables)


def new_schema(postgres: PostgresServer, name: str) -> str:
    """The URL of a part of the database without a table."""
    engine = connect(postgres.url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    engine.dispose()
    return f"{postgres.url}&options=-csearch_path%3D{name}"


def postgres_tables(
    postgres: PostgresServer, space: str, *, migrated: bool
) -> set[tuple[str, ...]]:
    """What PostgreSQL says of every column and index."""
    engine = connect(new_schema(postgres, space))
    upgrade(engine) if migrated else schema.metadata.create_all(engine)
    asked = (
        "SELECT table_name, column_name, data_type, is_nullable, ordinal_position::text, column_default"
        f" FROM information_schema.columns WHERE table_schema = '{space}'",
        f"SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = '{space}'",
    )
    with engine.connect() as connection:
        every = [tuple(map(str, row)) for one in asked for row in connection.exec_driver_sql(one)]
    engine.dispose()
    cells = {tuple(cell.replace(f"{space}.", "") for cell in row) for row in every}
    return {row for row in cells if row[0] != VERSIONS}


@pytest.mark.requires("postgres")
def test_upgrading_an_empty_postgresql_gives_the_tables_of_the_schema(
    postgres: PostgresServer,
) -> None:
    made = postgres_tables(postgres, "made", migrated=False)
    assert postgres_tables(postgres, "migrated", migrated=True) == made
    assert {row[0] for row in made} == set(schema.metadata.tables)


@pytest.mark.requires("postgres")
def test_orchestrators_that_start_together_upgrade_once(postgres: PostgresServer) -> None:
    url = new_schema(postgres, "together")
    program = f"from {open_store.__module__} import open_store; open_store({url!r}).close()"
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    open_store(url).close()
    store = open_store(url)
    assert store.counts() == []
    store.close()


def test_a_store_of_a_newer_megaflow_is_refused_and_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    open_store(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSIONS} SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(FailedPrecondition, match=r"newer megaflow.*9999"):
        open_store(url)


@pytest.mark.parametrize("url", ["mysql://host/db", "store.db", ""])
def test_what_is_no_store_is_refused_by_its_url(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"store=.*give sqlite:///PATH or postgresql://"):
        open_store(url)
