"""`megaflow export JOB`: the trajectories of its results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import megaflow
from commands import Command
from job_site import Site, rewarded
from megaflow.protocol import megaflow_pb2 as pb
from trajectory_samples import classic, write


@pytest.fixture
def written(site: Site, tmp_path: Path) -> Path:
    """Where the attempts of the site write their trajectories: that of task b is gone, that of c was none."""

    def executed(attempt: pb.Attempt) -> pb.Outcome:
        outcome = rewarded(1.0)
        if attempt.group == "c":
            return outcome
        path = tmp_path / "written" / f"{attempt.task_id}.mft"
        outcome.trajectory = str(path)
        if attempt.group != "b":
            write(path, classic())
        return outcome

    site.executed = executed
    return tmp_path / "written"


def test_a_job_is_exported_by_its_name(
    written: Path, tasks: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of that name, as the dataset's often is, has no trajectories.
    (tmp_path / "mon").mkdir()
    monkeypatch.chdir(tmp_path)
    command("run", "-d", str(tasks), "-a", "random", "-k", "2", "--name", "mon")
    out = tmp_path / "out.jsonl"
    done = command("export", "mon", "--format", "jsonl", "--out", str(out))
    names = {json.loads(line)["trajectory"] for line in out.read_text().splitlines()}
    assert len(names) == 2
    assert f"Exported 2 trajectories to {out}." in done.err
    assert done.err.count("cannot be seen from here") == 2
    assert done.err.count("was succeeded before anything was written") == 2
    assert "4 samples have no trajectory here." in done.err
    assert done.status == 1


def test_a_job_that_still_runs(written: Path, site: Site, command: Command, tmp_path: Path) -> None:
    huge = megaflow.Resources(requests=megaflow.Amount(cpu=1e6))
    task = megaflow.Task("CartPole-v1", "random", group="a")
    with megaflow.Client(site.address) as client:
        job = client.submit([task, replace(task, resources=huge)], name="mon")
        assert next(job.results(timeout=60)).valid
        out = tmp_path / "out.jsonl"
        done = command("export", "mon", "--format", "jsonl", "--out", str(out))
        job.cancel()
    assert done.status == 0
    assert "mon still runs: 1 samples have not ended, and are left out." in done.err
    assert f"Exported 1 trajectories to {out}." in done.err


def test_what_is_neither_a_job_nor_a_trajectory(
    written: Path, tasks: Path, command: Command
) -> None:
    refused = command("export", "mon", "--format", "jsonl")
    assert refused.status == 2
    assert "job='mon': there is no such job" in refused.err
    assert "nor is there a trajectory (*.mft) at mon" in refused.err
    with tasks.open() as file:
        only_c = file.read().splitlines()[2]
    tasks.write_text(only_c + "\n")
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    refused = command("export", "mon", "--format", "jsonl")
    assert refused.status == 2
    assert "job='mon' has no trajectory to export" in refused.err
