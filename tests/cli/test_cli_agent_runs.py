"""The agent `cli` at a shipped task, through a real server and its runner: a program in a sandbox without network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import megaflow
from commands import Serve
from leftovers import Place
from megaflow.calls import CallRecord, rows
from megaflow.trajectory import Event, ModelCall, TrajectoryReader
from megaflow_server.egress import can_listen

TESTS = Path(__file__).parent.parent
LITTLE = (TESTS / "little_agent.py").read_text()

pytestmark = pytest.mark.skipif(
    not can_listen(), reason="takes CAP_SYS_ADMIN, to listen in the networks of sandboxes"
)


def run(
    serve: Serve,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    attempts: Sequence[tuple[str, dict[str, Any]]],
) -> list[megaflow.Result]:
    """The results of attempts at find-copies, each with a model and the agent's arguments."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve("--listen", address, "--store", store, "--import", "solving_models")
    tasks = [
        megaflow.Task(
            "megaflow/Terminal-v0",
            "cli",
            env_kwargs={"task": "megaflow:find-copies"},
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


@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_a_program_in_a_sandbox_solves_a_task_by_the_attempts_models(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = {"command": 'python3 -c "$LITTLE" {instruction}', "env": {"LITTLE": LITTLE}}
    solved, failed, idle, wrong, slow = run(
        serve,
        place,
        monkeypatch,
        [
            ("cli-solver", little),
            ("gone", little),
            ("idler", little),
            ("cli-solver", {"command": "ip addr; no-such-agent"}),
            ("cli-solver", {"command": "echo begun; sleep 600", "timeout": 1.0}),
        ],
    )
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
    # A model that has gone is no reward of 0.
    assert not failed.valid
    assert failed.failure is not None
    assert (failed.failure.kind, failed.reward) == ("model", None)
    assert (idle.reward, wrong.reward, slow.reward) == (0.0, 0.0, 0.0)
    assert command_of(wrong)["exit_code"] == 127
    assert (command_of(slow)["timed_out"], command_of(slow)["stdout"]) == (True, "begun\n")
