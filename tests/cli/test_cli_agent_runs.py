"""The agent `cli` at a shipped task, through a real server and its runner: a program in a sandbox without network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import docker_images
import megaflow
from commands import Serve
from docker_rig import new_scope
from leftovers import Place
from megaflow.calls import CallRecord, rows
from megaflow.trajectory import Event, ModelCall, TrajectoryReader
from megaflow_server.egress import can_listen

TESTS = Path(__file__).parent.parent
COMMAND = (sys.executable, "-P", "-m", "megaflow_server")
LITTLE = (TESTS / "little_agent.py").read_text()

pytestmark = pytest.mark.skipif(
    not can_listen(), reason="takes CAP_SYS_ADMIN, to listen in the networks of sandboxes"
)


RECIPE = """\
name = "little"
version = "1"
command = "little {instruction}"
runtime = "python"
files = ["little_agent.py"]

[programs]
little = ["python", "-I", "little_agent.py"]
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles, with the tests' own agent."""
    here = tmp_path_factory.mktemp("little")
    (here / "little_agent.py").write_text(LITTLE)
    (here / "recipe.toml").write_text(RECIPE)
    environ = {**os.environ, "MEGAFLOW_AGENTS": str(here / "agents")}
    argv = [*COMMAND, "agents", "bundle", str(here / "recipe.toml")]
    assert subprocess.run(argv, env=environ, check=False).returncode == 0
    # A version is built once.
    again = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert again.returncode == 3
    assert "is built once" in again.stderr
    listed = subprocess.run(
        [*COMMAND, "agents", "list", "--json"], env=environ, capture_output=True, check=True
    )
    assert [one["name"] for one in json.loads(listed.stdout)["bundles"]] == ["little"]
    return here / "agents"


def run(
    serve: Serve,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    attempts: Sequence[tuple[str, dict[str, Any]]],
    *options: str,
    bundles: Path,
    **fields: str,
) -> list[megaflow.Result]:
    """The results of attempts at find-copies, each with a model and the agent's arguments."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("MEGAFLOW_AGENTS", str(bundles))
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve("--listen", address, "--store", store, "--import", "solving_models", *options)
    tasks = [
        megaflow.Task(
            "megaflow/Terminal-v0",
            "cli",
            env_kwargs={"task": "megaflow:find-copies", **fields},
            agent_kwargs=kwargs,
            models={"policy": model},
        )
        for model, kwargs in attempts
    ]
    with megaflow.Client(served.addresses[0]) as client:
        results = sorted(client.submit(tasks).results(timeout=200), key=lambda one: one.task_id)
    assert served.end() == 0
    return results


def calls_of(result: megaflow.Result) -> list[CallRecord]:
    records = TrajectoryReader(result.trajectory)
    return [CallRecord.from_dict(one.call) for one in records if isinstance(one, ModelCall)]


def command_of(result: megaflow.Result) -> dict[str, Any]:
    (ran,) = (
        one.data
        for one in TrajectoryReader(result.trajectory)
        if isinstance(one, Event) and one.name == "command"
    )
    return dict(ran)


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_a_program_in_a_sandbox_solves_a_task_by_the_attempts_models(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch, bundles: Path
) -> None:
    little = {"command": 'python3 -c "$LITTLE" {instruction}', "env": {"LITTLE": LITTLE}}
    solved, failed, idle, wrong, slow = run(
        serve,
        place,
        monkeypatch,
        [
            ("cli-solver", {"bundle": "little"}),
            ("gone", little),
            ("idler", little),
            ("cli-solver", {"command": "ip addr; no-such-agent"}),
            ("cli-solver", {"command": "echo begun; sleep 600", "timeout": 1.0}),
        ],
        bundles=bundles,
    )
    check_solved(solved)
    # A model that has gone is no reward of 0.
    assert not failed.valid
    assert failed.failure is not None
    assert (failed.failure.kind, failed.reward) == ("model", None)
    assert (idle.reward, wrong.reward, slow.reward) == (0.0, 0.0, 0.0)
    assert command_of(wrong)["exit_code"] == 127
    assert (command_of(slow)["timed_out"], command_of(slow)["stdout"]) == (True, "begun\n")


@pytest.mark.long
@pytest.mark.requires("docker")
@pytest.mark.timeout(400)
def test_a_bundle_runs_in_an_image_that_has_nothing_of_it(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch, bundles: Path
) -> None:
    config = place.script(
        "megaflow.toml",
        f'[docker]\nscope = "{new_scope()}"\n[templates.bench]\nbackend = "docker"\n'
        f'image = "{docker_images.busybox()}"\nprofile = "standard"\nnetwork = "none"\n',
    )
    solved, closed = run(
        serve,
        place,
        monkeypatch,
        [
            ("cli-solver", {"bundle": "little@1"}),
            # All that there is is the port that leads to the models.
            (
                "cli-solver",
                {"command": "cat /proc/net/dev; echo >$(command -v little)", "bundle": "little"},
            ),
        ],
        "--config",
        str(config),
        bundles=bundles,
        template="bench",
    )
    check_solved(solved)
    (put,) = (
        one.data["latency"]
        for one in TrajectoryReader(solved.trajectory)
        if isinstance(one, Event) and one.name == "put"
    )
    print(f"the bundle was there after {put:.2f} s")
    seen = command_of(closed)
    interfaces = [line.split(":")[0].strip() for line in seen["stdout"].splitlines()[2:]]
    assert interfaces == ["lo"]


def check_solved(solved: megaflow.Result) -> None:
    """It is, and its trajectory has each call whole, and the session's token nowhere."""
    assert solved.failure is None
    assert solved.reward == 1.0
    calls = calls_of(solved)
    assert [one.dialect for one in calls] == ["chat"] * 4
    for call in calls:
        assert call.completion_token_ids
        assert call.logprobs
        assert len(call.completion_token_ids) == len(call.logprobs)
    assert len(rows(calls)) == 1
    ran = command_of(solved)
    assert (ran["exit_code"], ran["timed_out"]) == (0, False)
    assert "said: It is done." in ran["stdout"]
    # The token that it said, to its screen and to its model, stands nowhere.
    assert "key: [token]" in ran["stdout"]
    assert "Key [token]" in str(calls[0].messages)
    backwards = re.search("backwards: ([0-9a-f]{32})", ran["stdout"])
    assert backwards
    assert backwards[1][::-1] not in str(list(TrajectoryReader(solved.trajectory)))
