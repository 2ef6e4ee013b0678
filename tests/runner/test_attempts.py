"""What becomes of attempts: whose failure it was, what is a result, and what is written down."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from attempt_rig import Rig, kinds
from megaflow.errors import InvalidArgument, SessionLost
from megaflow.gateway_connection import on_behalf
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.trajectory import TrajectoryReader
from megaflow.trajectory.records import ModelCall, Start, Step
from megaflow_server.runner.attempt import Stopped
from megaflow_server.runner.failures import of_environment


async def test_a_whole_episode_is_a_result(rig: Rig) -> None:
    outcome = await rig.run("Counting", "ones")
    assert (outcome.valid, outcome.reward, dict(outcome.rewards)) == (True, 3.0, {"reward": 3.0})
    assert not outcome.HasField("failure")
    assert kinds(outcome) == ["start", "reset", "step", "step", "step", "verdict", "end"]
    assert rig.progress == [False, True]
    records = list(TrajectoryReader(outcome.trajectory))
    start, first = records[0], records[2]
    assert isinstance(start, Start)
    assert isinstance(first, Step)
    assert (start.job_id, start.fence, start.attempt, start.seed) == ("job", 1, 0, 5)
    assert (first.action, first.reward, dict(first.agent_info)) == (1, 1.0, {"saw": 0})
    assert first.latency is not None


async def test_a_verdict_of_the_environments_own_counts(rig: Rig) -> None:
    outcome = await rig.run("Judged", "ones")
    assert (outcome.reward, dict(outcome.rewards)) == (1.0, {"reward": 1.0, "steps": 3.0})


@pytest.mark.parametrize(("agent", "reward"), [("oracle", 1.0), ("nop", 0.0)])
async def test_oracle_takes_the_solution_and_nop_does_nothing(
    rig: Rig, agent: str, reward: float
) -> None:
    outcome = await rig.run("Judged", agent)
    assert (outcome.valid, outcome.reward) == (True, reward)


@pytest.mark.parametrize(
    ("environment", "kind", "phase", "words"),
    [
        ("Raising", "environment", "running", "no such thing"),
        ("Unmakeable", "environment", "starting", "no licence"),
        ("Absent", "environment", "starting", "Absent"),
        ("Unjudged", "verifier", "evaluating", "no tests were found"),
        ("Unclear", "verifier", "evaluating", "nan"),
    ],
)
@pytest.mark.parametrize("agent", ["ones", "swallowing"])
async def test_what_the_environment_does_wrong_is_never_a_reward(
    rig: Rig, agent: str, environment: str, kind: str, phase: str, words: str
) -> None:
    outcome = await rig.run(environment, agent)
    assert not outcome.valid
    assert not outcome.HasField("reward")
    assert (outcome.failure.kind, outcome.failure.phase) == (kind, phase)
    assert words in outcome.failure.reason
    assert kinds(outcome)[0] == "start"
    assert kinds(outcome)[-3:] == ["failure", "verdict", "end"]


@pytest.mark.parametrize(
    ("agent", "reward", "words"),
    [
        ("failing", 1.0, "an agent's own fault"),
        ("odd", 0.0, "no such action"),
        ("greedy", 0.0, "uses_solution"),
        ("twice", 0.0, "one episode"),
    ],
)
async def test_what_an_agent_does_wrong_is_evaluated_as_it_stands(
    rig: Rig, agent: str, reward: float, words: str
) -> None:
    outcome = await rig.run("Counting", agent)
    assert (outcome.valid, outcome.reward) == (True, reward)
    assert outcome.failure.kind == "agent"
    assert words in outcome.failure.reason
    assert len(outcome.failure.log.splitlines()) <= 50


async def test_an_agent_that_reaches_its_limit_is_evaluated(rig: Rig) -> None:
    outcome = await rig.run("Counting", "waiting", limits=pb.TaskLimits(start_to_close=1.0))
    assert (outcome.valid, outcome.reward, outcome.failure.kind) == (True, 1.0, "timeout")
    assert "start_to_close" in outcome.failure.reason


async def test_an_agent_that_there_is_not_is_told_with_the_nearest(rig: Rig) -> None:
    outcome = await rig.run("Counting", "randon")
    assert (outcome.valid, outcome.failure.kind) == (False, "environment")
    assert "did you mean 'random'?" in outcome.failure.reason


async def test_one_that_is_cancelled_keeps_what_it_wrote(rig: Rig) -> None:
    execution = rig.execution("Counting", "waiting")
    task = asyncio.create_task(execution.run())
    await rig.running.wait()
    await asyncio.sleep(0.1)  # its agent waits for an hour
    execution.stopped = Stopped("cancelled", "somebody said so")
    task.cancel()
    outcome = await task
    assert (outcome.valid, outcome.failure.kind) == (False, "cancelled")
    assert outcome.failure.reason == "somebody said so"
    assert kinds(outcome) == ["start", "reset", "step", "failure"]


@pytest.mark.parametrize(
    ("agent", "agent_kwargs", "words"),
    [
        ("ending", {"how": "exit"}, "SystemExit: 3"),
        ("ending", {"how": "interrupt"}, "KeyboardInterrupt"),
        ("ending", {"how": "cancelled"}, "CancelledError"),
        ("exhausted", {}, "StopIteration"),
    ],
)
async def test_an_agent_ends_nothing_but_its_attempt(
    rig: Rig, agent: str, agent_kwargs: dict[str, str], words: str
) -> None:
    async with asyncio.timeout(30):
        outcome = await rig.run("Counting", agent, agent_kwargs=agent_kwargs)
    assert (outcome.valid, outcome.reward, outcome.failure.kind) == (True, 1.0, "agent")
    assert words in outcome.failure.reason
    assert kinds(outcome) == ["start", "reset", "step", "failure", "verdict", "end"]


async def test_calls_of_models_are_recorded(rig: Rig) -> None:
    outcome = await rig.run("Counting", "asking", models={"policy": "echo"})
    assert outcome.valid, outcome.failure
    (call,) = (one for one in TrajectoryReader(outcome.trajectory) if isinstance(one, ModelCall))
    assert call.call["role"] == "policy"
    assert call.call["response"]["content"] == "hello"


async def test_a_model_that_is_out_of_reach_makes_no_result(rig: Rig) -> None:
    outcome = await rig.run("Counting", "asking", models={"policy": "away"})
    assert (outcome.valid, outcome.failure.kind) == (False, "model")


@pytest.mark.parametrize(("gone", "kind"), [(False, "worker_died"), (True, "runner_lost")])
def test_a_lost_session_is_a_servers_end_or_a_workers(gone: bool, kind: str) -> None:
    assert of_environment(SessionLost("x"), "running", server_gone=gone).kind == kind


async def test_sessions_are_opened_as_the_task_says(rig: Rig) -> None:
    opened = []

    class Client:
        async def make(self, *_: Any, **__: Any) -> None:
            opened.append(on_behalf.get())
            raise InvalidArgument("no more is looked at")

    client: Any = Client()
    rig.tools = replace(rig.tools, client=client)
    for mode, alone in (("ephemeral", True), ("auto", False)):
        fields = {"tenant": "research", "mode": mode, "alone": alone}
        await asyncio.create_task(rig.run("Counting", "ones", **fields))
    assert [one.alone for one in opened] == [True, False]
    assert [one.mode for one in opened] == ["ephemeral", "auto"]
    assert {one.tenant for one in opened} == {"research"}
    assert all(one.task for one in opened)


async def test_what_its_session_used_is_asked_for_once_it_is_closed(rig: Rig) -> None:
    rig.peak = pb.Amount(cpu=0.5, memory=1 << 30)
    execution = rig.execution("Counting", "ones")
    assert (await execution.run()).valid
    assert execution.peak == rig.peak
    assert len(rig.asked) == 1
    assert rig.asked[0]
