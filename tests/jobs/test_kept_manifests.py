"""What a server keeps of a job's manifest, for whoever sees the job."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import megaflow
from commands import Command
from job_site import Site, rewarded
from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.io import run

TASK = megaflow.Task("CartPole-v1", "random")


def test_a_manifest_is_kept_whole_and_stays_as_it_is(site: Site) -> None:
    data = random.Random(0).randbytes(2**21 + 5)
    with megaflow.Client(site.address) as client:
        job = client.submit([TASK])
        assert job.manifest() is None
        job.put_manifest(data)
        job.put_manifest(data)  # as after an answer that was lost
        assert client.job(job.id).manifest() == data
        for other in (b"x" + data[1:], b"x", data + b"x" * 2**20):
            with pytest.raises(FailedPrecondition, match=r"stays as it is|in order"):
                job.put_manifest(other)
        assert job.manifest() == data
        empty = client.submit([TASK])
        empty.put_manifest(b"")
        assert empty.manifest() == b""


def test_parts_that_are_none(site: Site) -> None:
    def put(job: str, part: int, parts: int, size: int = 1) -> None:
        content = pb.ManifestPart(data=b"x" * size, parts=parts)
        request = pb.PutManifestRequest(job=job, part=part, content=content)
        run(client._open.ask("PutManifest", request))

    with megaflow.Client(site.address) as client:
        job = client.submit([TASK])
        with pytest.raises(NotFound, match="there is no such job"):
            put("none", 0, 1)
        for part, parts in ((0, 0), (1, 1), (0, 65), (2**32 - 1, 1)):
            with pytest.raises(InvalidArgument, match="1 to 64 parts"):
                put(job.id, part, parts)
        with pytest.raises(InvalidArgument, match="over 1048576 in one part"):
            put(job.id, 0, 1, 2**20 + 1)
        with pytest.raises(FailedPrecondition, match="put them in order"):
            put(job.id, 1, 2)
        put(job.id, 0, 2)
        assert job.manifest() is None  # whoever wrote it was cut off
        with pytest.raises(FailedPrecondition, match="put them in order"):
            put(job.id, 1, 3)
        put(job.id, 1, 2)
        assert job.manifest() == b"xx"


def test_whoever_sees_a_job_knows_what_it_was_made_of(
    site: Site, tasks: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.executed = lambda _: rewarded(1.0)
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    monkeypatch.setenv("MEGAFLOW_STATE", str(tmp_path / "another"))
    facts = json.loads(command("results", "mon", "--json").out)
    assert [one["task"] for one in facts["results"]] == ["a", "b", "c"]
    assert "Nothing is missing of mon" in command("run", "--resume", "mon").out
    assert not (tmp_path / "state" / "jobs").exists()
