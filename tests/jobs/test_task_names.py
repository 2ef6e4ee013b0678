"""Tasks as people name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Command
from job_site import Site, rewarded
from megaflow.protocol import megaflow_pb2 as pb


def id_of(command: Command, task: str) -> str:
    found = command("why", task, "--json")
    assert found.status == 0, found
    return str(json.loads(found.out)["id"])


def test_a_task_by_its_jobs_name_and_its_own(site: Site, tasks: Path, command: Command) -> None:
    command("run", "-d", str(tasks), "-a", "random", "-k", "2", "--name", "mon")
    job = json.loads(command("results", "mon", "--json").out)["job"]
    for said, place in (
        ("1", "1"), ("1.0", "1"), ("1.1", "1.1"), ("b", "1"), ("b.0", "1"), ("b.1", "1.1"),
    ):  # fmt: skip
        for name in ("mon", job):
            assert id_of(command, f"{name}/{said}") == f"{job}/{place}"
    assert f"{job}/1.1 is succeeded" in command("logs", "mon/b.1").out
    assert f"{job}/2 is succeeded" in command("cancel", "mon/c").out


@pytest.mark.long
def test_what_an_earlier_job_had(site: Site, tasks: Path, command: Command) -> None:
    def executed(attempt: pb.Attempt) -> pb.Outcome:
        failure = pb.TaskFailure(kind="infrastructure", phase="running", reason="it broke")
        spoilt = pb.Outcome(valid=False, failure=failure)
        return spoilt if attempt.group == "b" else rewarded(1.0)

    site.executed = executed
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    first = json.loads(command("results", "mon", "--json").out)["job"]
    site.executed = lambda _: rewarded(1.0)
    command("run", "--resume", "mon")
    assert id_of(command, "mon/a") == f"{first}/0"
    assert id_of(command, "mon/1") == id_of(command, "mon/b") != f"{first}/1"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("mon/alpah", "has no such task; did you mean 'alpha'?"),
        ("mon/zzz", "has no such task; see `megaflow results"),
        ("mon/7", "there is no such task"),
        ("sun/1", "job='sun': there is no such job"),
        ("mon", "there is no such task"),
    ],
)
def test_no_such_task(site: Site, tasks: Path, command: Command, task: str, said: str) -> None:
    tasks.write_text('{"env": "CartPole-v1", "name": "alpha"}\n')
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    refused = command("why", task)
    assert refused.status == 2
    assert said in refused.err
