"""The agent `tool` at a shipped task, through a real server and its runner, with a model that was told what to say."""

from __future__ import annotations

from pathlib import Path

import pytest

import megaflow
from commands import Serve
from leftovers import Place
from megaflow.calls import CallRecord, rows
from megaflow.trajectory import ModelCall, Step, TrajectoryReader

TESTS = str(Path(__file__).parent.parent)


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_a_task_is_solved_and_every_call_recorded(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", TESTS)
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve("--listen", address, "--store", store, "--import", "solving_models")
    task = {"task": "megaflow:find-copies"}
    with megaflow.Client(served.addresses[0]) as client:
        job = client.submit(
            [
                megaflow.Task("megaflow/Terminal-v0", "tool", env_kwargs=task, models=models)
                for models in ({"policy": "solver"}, {"policy": "idler"}, {})
            ]
        )
        solved, idle, without = sorted(job.results(timeout=200), key=lambda one: one.task_id)
    assert (solved.reward, idle.reward) == (1.0, 0.0)
    assert not without.valid
    assert without.failure is not None
    assert "the agent needs one as policy" in without.failure.reason
    records = list(TrajectoryReader(solved.trajectory))
    calls = [CallRecord.from_dict(one.call) for one in records if isinstance(one, ModelCall)]
    steps = [one for one in records if isinstance(one, Step)]
    assert [one.agent_info["tool"] for one in steps] == [
        "shell",
        "write",
        "edit",
        "shell",
        "submit",
    ]
    assert len(calls) == len(steps)
    for call in calls:
        assert call.completion_token_ids
        assert call.logprobs
        assert len(call.completion_token_ids) == len(call.logprobs)
    # One conversation, in which nothing was left out: one row for training.
    assert len(rows(calls)) == 1
    assert served.end() == 0
