"""A store by its URL: connected, and with its tables as this megaflow has them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from megaflow.errors import FailedPrecondition
from megaflow_server.orchestrator.store.engines import connect, refusals
from megaflow_server.orchestrator.store.sql import SqlStore

__all__ = ["open_store", "upgrade"]

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
# PostgreSQL's lock that orchestrators take when they start together: one of them upgrades, the others find it done.
_SHARED: Final = 0x6D65_6761_666C_6F77
# Alembic keeps what it is at in its modules.
_LOCK: Final = threading.Lock()


def open_store(url: str) -> SqlStore:
    """A store of `sqlite:///path` or `postgresql://…`, its tables made or upgraded where they were not yet.

    Raises:
        InvalidArgument: the URL names no such database, or its driver is not installed.
        FailedPrecondition: a newer megaflow has written it.
        Unavailable: the database cannot be reached.
    """
    engine = connect(url)
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine)


def upgrade(engine: sa.Engine) -> None:
    """Bring a database's tables to the newest form, whole or not at all."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    environment = EnvironmentContext(
        config, script, fn=lambda revision, _context: script._upgrade_revs("head", revision)
    )
    with _LOCK, refusals("its tables are as they were"), engine.begin() as connection, environment:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SHARED)))
        environment.configure(connection=connection, version_table="megaflow_schema")
        try:
            environment.run_migrations()
        except CommandError as error:
            raise FailedPrecondition(
                f"store={engine.url.render_as_string()!r} was written by a newer megaflow ({error}): "
                "upgrade this one, or give another store"
            ) from error
