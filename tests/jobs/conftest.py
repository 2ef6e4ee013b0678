"""A server with a runner that only says how attempts ended, and the command beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Command, run_command
from job_site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("MEGAFLOW_STATE", str(tmp_path / "state"))
    with Site(tmp_path) as site:
        monkeypatch.setenv("MEGAFLOW_SERVER", site.address)
        yield site


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return lambda *arguments: run_command(capsys, *arguments)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.jsonl"
    rows = [{"env": "CartPole-v1", "name": name} for name in ("a", "b", "c")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
