"""`megaflow run` and what is around it, against a server whose runner only says how attempts ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import megaflow
from commands import Command
from job_site import Site, rewarded
from megaflow.job_calls import open_job
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.jobs.plan import Options, plan_of


def failed(kind: str, reason: str = "it broke", log: str = "") -> pb.Outcome:
    failure = pb.TaskFailure(kind=kind, phase="running", reason=reason, log=log)
    return pb.Outcome(
        valid=kind == "agent", reward=0.0 if kind == "agent" else None, failure=failure
    )


def name_of(attempt: pb.Attempt) -> str:
    return f"{attempt.group}{attempt.sample}"


def test_a_run_to_its_end(site: Site, tasks: Path, command: Command, tmp_path: Path) -> None:
    site.executed = lambda attempt: rewarded(float(attempt.group != "b"))
    xml = tmp_path / "j.xml"
    outcome = command(
        "run", "-d", str(tasks), "-a", "random", "-k", "2", "--name", "mon", "--junit", str(xml)
    )
    assert outcome.status == 0, outcome
    assert "mon: 6 of 6 samples have a reward, mean reward 0.6667." in outcome.out
    assert "mon: 6/6, 6 succeeded, mean reward 0.667" in outcome.out
    (suite,) = ElementTree.fromstring(xml.read_bytes())
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")
    facts = json.loads(command("results", "mon", "--json").out)
    assert facts["whole"]
    assert [(one["task"], one["sample"], one["reward"]) for one in facts["results"]] == [
        ("a", 0, 1.0), ("a", 1, 1.0), ("b", 0, 0.0), ("b", 1, 0.0), ("c", 0, 1.0), ("c", 1, 1.0),
    ]  # fmt: skip
    said = command("results", "mon")
    assert said.status == 0
    assert "6 of 6 samples have a reward, mean reward 0.6667" in said.out


def test_broken_tasks_are_told_and_the_rest_runs(site: Site, tasks: Path, command: Command) -> None:
    with tasks.open("a") as file:
        file.write('{\n{"env": "CartPole-v9"}\n{"env": "CartPole-v1", "nmae": "d"}\n')
        file.write('{"env": "CartPole-v1", "name": "e", "env_kwargs": {"x": NaN}}\n')
        file.write('{"env": "CartPole-v1", "name": "f", "priority": 99999999999}\n')
    outcome = command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    assert outcome.status == 1
    assert f"Broken task line 4: {tasks}:4: no JSON" in outcome.out
    assert "env='CartPole-v9': the server does not have it" in outcome.out
    assert "unknown key nmae; did you mean 'name'?" in outcome.out
    assert "Broken task e: tasks[0].env_kwargs: Out of range float values" in outcome.out
    assert "Broken task f: tasks[0]: Value out of range" in outcome.out
    assert "3 of 3 samples have a reward, mean reward 1" in outcome.out
    facts = json.loads(command("results", "mon", "--json").out)
    assert [one["name"] for one in facts["broken"]] == [
        "line 4", "line 6", "e", "f", "CartPole-v9 (line 5)",
    ]  # fmt: skip


@pytest.mark.long
def test_resume_does_only_what_is_missing_or_spoilt_by_infrastructure(
    site: Site, tasks: Path, command: Command
) -> None:
    outcomes = {"a1": failed("infrastructure"), "b0": failed("verifier"), "c0": failed("agent")}
    seeds: dict[str, set[int]] = {}

    def executed(attempt: pb.Attempt) -> pb.Outcome:
        seeds.setdefault(name_of(attempt), set()).add(attempt.seed)
        return outcomes.get(name_of(attempt), rewarded(1.0))

    site.executed = executed
    arguments = ("run", "-d", str(tasks), "-a", "random", "-k", "2", "--name", "mon")
    first = command(*arguments)
    assert first.status == 1
    assert "a [2]: no result: infrastructure while running: it broke" in first.out
    assert "c: reward 0: agent while running: it broke" in first.out
    assert "2 have no valid result" in first.out
    before = {name: set(found) for name, found in seeds.items()}
    outcomes.clear()
    seeds.clear()
    again = command("run", "--resume", "mon")
    assert "1 of 6 samples of mon are missing" in again.out
    assert seeds == {"a1": before["a1"]}
    assert again.status == 1  # the verifier's failure is no infrastructure's
    facts = json.loads(command("results", "mon", "--json").out)
    found = {f"{one['task']}{one['sample']}": one["reward"] for one in facts["results"]}
    assert found == {"a0": 1.0, "a1": 1.0, "b0": None, "b1": 1.0, "c0": 0.0, "c1": 1.0}
    assert "Nothing is missing of mon" in command("run", "--resume", "mon").out


def test_what_never_began_is_resumed(site: Site, tasks: Path, command: Command) -> None:
    absent = failed("environment")
    absent.failure.phase, absent.failure.reason = "starting", "its image is not there"
    began = failed("environment")
    site.executed = lambda one: {"a0": absent, "b0": began}.get(name_of(one), rewarded(1.0))
    first = command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    assert (first.status, "2 have no valid result" in first.out) == (1, True)
    site.executed = lambda _: rewarded(1.0)
    again = command("run", "--resume", "mon")
    assert "1 of 3 samples of mon are missing" in again.out
    facts = json.loads(command("results", "mon", "--json").out)
    assert {one["task"]: one["reward"] for one in facts["results"]} == {
        "a": 1.0,
        "b": None,
        "c": 1.0,
    }


@pytest.mark.long
def test_tasks_that_have_changed_are_not_resumed(site: Site, tasks: Path, command: Command) -> None:
    outcomes = {"a0": failed("infrastructure")}
    site.executed = lambda attempt: outcomes.get(name_of(attempt), rewarded(1.0))
    first = command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    assert (
        "1 of them were spoilt by infrastructure, or never began, and are run again by" in first.out
    )
    outcomes.clear()
    before = tasks.read_text()
    tasks.write_text(before.replace('"name": "b"', '"name": "b", "env_kwargs": {"x": 1}'))
    refused = command("run", "--resume", "mon")
    assert (refused.status, "1 tasks of mon have changed since" in refused.err) == (2, True)
    tasks.write_text(before)
    assert command("run", "--resume", "mon").status == 0


def test_what_was_cut_off_while_it_was_submitted_is_resumed(
    site: Site, tasks: Path, command: Command
) -> None:
    plan = plan_of(Options((str(tasks),), agent="random", name="mon"))

    async def cut_off() -> None:
        async with megaflow.AsyncClient(site.address) as client:
            job = await open_job(client._open, name="mon", seed=0)
            await job.put_manifest(plan.manifest(job.id).content())
            await job.add([plan.tasks[0][2].message(0, 0, 1)])

    asyncio.run(cut_off())
    resumed = command("run", "--resume", "mon")
    assert resumed.status == 0, resumed
    assert "mon was cut off while it was submitted, at 1 samples." in resumed.out
    assert "2 of 3 samples of mon are missing." in resumed.out


def test_logs_of_a_task(site: Site, tasks: Path, command: Command) -> None:
    site.executed = lambda _: failed("verifier", "no report", "line 49\nline 50\n")
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    facts = json.loads(command("results", "mon", "--json").out)
    outcome = command("logs", facts["results"][0]["id"])
    assert outcome.status == 0
    assert "verifier failure while running: no report\n\nline 49\nline 50\n" in outcome.out


def test_comparisons(site: Site, tasks: Path, command: Command, tmp_path: Path) -> None:
    for name, rewards in (("sun", "abc"), ("mon", "ab"), ("tue", "")):
        site.executed = lambda attempt, rewards=rewards: rewarded(float(attempt.group in rewards))
        command("run", "-d", str(tasks), "-a", "random", "-k", "2", "--name", name)
    outcome = command("compare", "sun", "mon")
    assert outcome.status == 0
    assert "no difference that is sure" in outcome.out
    assert "worse  -1  c" in outcome.out
    xml = tmp_path / "c.xml"
    assert command("compare", "sun", "tue", "--junit", str(xml)).status == 1
    (suite,) = ElementTree.fromstring(xml.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert command("compare", "tue", "sun").status == 0
    command("run", "-d", str(tasks), "-a", "random", "--name", "wed", "--seed", "5")
    refused = command("compare", "sun", "wed")
    assert refused.status == 2
    assert "did not measure the same thing:\n  seed: 0 and 5" in refused.err
    forced = command("compare", "tue", "wed", "--force", "--json")
    assert forced.status == 0
    assert json.loads(forced.out)["manifests_differ"] == ["seed: 0 and 5"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "say what to run: -d DATASET"),
        (("run", "--resume", "mon", "-k", "2"), "leave -k out"),
        (("run", "-d", "TASKS", "-a", "random", "-n", "4"), "is decided there, by its runners"),
        (("run", "-d", "TASKS"), "a names no agent: say -a AGENT"),
        (("run", "-d", "TASKSS", "-a", "random"), "no such file or folder"),
        (("run", "-d", "TASKS", "-a", "random", "--junit", "/nowhere/j.xml"), "--junit /nowhere"),
        (("attach", "mon"), "job='mon': there is no such job"),
        (("run", "--resume", "mon"), "job='mon': there is no such job"),
    ],
)
def test_bad_input_is_refused_with_2(
    site: Site, tasks: Path, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    outcome = command(*(one.replace("TASKS", str(tasks)) for one in arguments))
    assert outcome.status == 2
    assert said in outcome.err


@pytest.fixture
def submitted(site: Site, tasks: Path) -> Iterator[subprocess.Popen[str]]:
    """`megaflow run` as a process, once its job is there; nothing of it runs."""
    site.executed = None
    arguments = ("run", "-d", str(tasks), "-a", "random", "--name", "mon", "--plain")
    command = [sys.executable, "-P", "-m", "megaflow_server", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("mon: 0/3, 3 ")
        yield process
        process.kill()


@pytest.mark.long
def test_ctrl_c_once_leaves_the_job_running_and_says_how_to_come_back(
    site: Site, submitted: subprocess.Popen[str], command: Command
) -> None:
    submitted.send_signal(signal.SIGINT)
    said, _ = submitted.communicate(timeout=60)
    assert submitted.returncode == 130, said
    assert f"Come back with: megaflow attach mon --server {site.address}" in said
    with megaflow.Client(site.address) as client:
        assert not client.job("mon").status().cancelled
    site.executed = lambda _: rewarded(1.0)
    outcome = command("attach", "mon")
    assert outcome.status == 0
    assert "3 of 3 samples have a reward, mean reward 1." in outcome.out


def test_ctrl_c_twice_cancels_the_job(site: Site, submitted: subprocess.Popen[str]) -> None:
    assert submitted.stdout is not None
    submitted.send_signal(signal.SIGINT)
    while "Detached" not in submitted.stdout.readline():
        pass
    submitted.send_signal(signal.SIGINT)
    said, _ = submitted.communicate(timeout=60)
    assert submitted.returncode == 1, said
    with megaflow.Client(site.address) as client:
        assert client.job("mon").status().states == {"cancelled": 3}
