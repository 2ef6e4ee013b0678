from __future__ import annotations

import re
from pathlib import Path

import pytest

from megaflow_server.orchestrator.store import schema

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text()


@pytest.mark.parametrize("table", sorted(schema.metadata.tables))
def test_every_column_is_explained(table: str) -> None:
    begin = PAGE.index(f"**{table}**")
    end = PAGE.find("\n**", begin)
    explained = set(re.findall(r"`(\w+)`", PAGE[begin:end]))
    assert {column.name for column in schema.metadata.tables[table].c} <= explained
