"""Reports: together, in order, each until it is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

import megaflow_server.runner.reports as module
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.runner.reports import Reports


def progress(task: str) -> pb.AttemptReport:
    return pb.AttemptReport(task_id=task, fence=1, progress=pb.AttemptProgress())


def outcome(task: str) -> pb.AttemptReport:
    return pb.AttemptReport(task_id=task, fence=1, outcome=pb.Outcome(valid=True, reward=1.0))


class Orchestrator:
    """Answers as it is told: what it was asked is in `asked`."""

    def __init__(self, *answers: object) -> None:
        self.asked: list[list[pb.AttemptReport]] = []
        self._answers = list(answers)

    async def __call__(self, method: str, request: Any, **_: Any) -> Any:
        copy = pb.ReportAttemptsRequest()
        copy.CopyFrom(request)
        self.asked.append(list(copy.reports))
        answer = self._answers.pop(0) if self._answers else pb.ReportVerdict(accepted=True)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, pb.ReportVerdict)
        return pb.ReportAttemptsResponse(verdicts=[answer] * len(request.reports))


async def sent(
    orchestrator: Orchestrator, *reports: pb.AttemptReport
) -> list[tuple[str, int, str]]:
    """Sends them; which attempts were to stop."""
    unwanted: list[tuple[str, int, str]] = []
    queue = Reports(orchestrator, lambda *name: unwanted.append(name))
    for report in reports:
        queue.put(report)
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        await queue.sent()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return unwanted


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)


async def test_they_go_together_and_again_in_order_where_nobody_answers() -> None:
    orchestrator = Orchestrator(Unavailable("away"))
    await sent(orchestrator, progress("a"), outcome("a"), outcome("b"))
    assert [[one.task_id for one in asked] for asked in orchestrator.asked] == [["a", "a", "b"]] * 2


async def test_progress_that_is_refused_stops_its_attempt() -> None:
    refused = pb.ReportVerdict(accepted=False, reason="superseded")
    assert await sent(Orchestrator(refused), progress("a")) == [("a", 1, "superseded")]
    assert await sent(Orchestrator(refused), outcome("a")) == []


async def test_an_outcome_that_is_refused_is_told_as_a_failure() -> None:
    wrong = pb.ReportVerdict(error=failures.to_message(InvalidArgument("outcome.reward: odd")))
    orchestrator = Orchestrator(wrong)
    await sent(orchestrator, outcome("a"))
    again = orchestrator.asked[1][0].outcome
    assert (again.valid, again.failure.kind) == (False, "infrastructure")
    assert "odd" in again.failure.reason
