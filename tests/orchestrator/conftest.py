from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server; only for tests that carry `requires("postgres")`."""
    with PostgresServer() as server:
        yield server
