"""A job's manifest in every store: its parts, in order, each for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megaflow.errors import MegaflowError
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import CreateJob, PutManifest
from megaflow_server.orchestrator.records import ManifestPart
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import open_store

POSTGRES = pytest.param("postgres", marks=pytest.mark.requires("postgres"))


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    if request.param == "postgres":
        opened = open_store(request.getfixturevalue("postgres").url)
    else:
        opened = open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    yield opened
    opened.close()


def test_parts_are_kept_in_order_and_for_ever(store: Store) -> None:
    def put(tenant: str, part: int, parts: int, data: bytes) -> str:
        content = ManifestPart("manifest-j", part, parts, data)
        (answer,) = answers(PutManifest(tenant, content))
        return answer.message if isinstance(answer, MegaflowError) else "kept"

    def answers(*commands: Any) -> list[Any]:
        return carry_out(store, commands, lambda: 0.0, RetryPolicy())

    assert "no such job" in put("ann", 0, 2, b"")
    answers(CreateJob("manifest-j", "ann", 1))
    assert "no such job" in put("eve", 0, 2, b"")
    assert "in order" in put("ann", 1, 2, b"")
    assert store.find_manifest("manifest-j", 0) is None
    large = bytes(range(256)) * 4096
    assert [put("ann", 0, 2, large), put("ann", 0, 2, large)] == ["kept", "kept"]
    assert "stays as it is" in put("ann", 0, 2, b"other")
    assert "in order" in put("ann", 1, 3, b"x")
    assert put("ann", 1, 2, b"\0") == "kept"
    found = [store.find_manifest("manifest-j", part) for part in range(3)]
    assert found == [
        ManifestPart("manifest-j", 0, 2, large),
        ManifestPart("manifest-j", 1, 2, b"\0"),
        None,
    ]
