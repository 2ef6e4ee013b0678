"""A runner that executes nothing: it speaks the runners' protocol, and says how attempts ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import grpc.aio

from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from worker_rig import PATIENCE

Executed = Callable[[pb.Attempt], pb.Outcome]


def solved(attempt: pb.Attempt) -> pb.Outcome:
    return pb.Outcome(valid=True, reward=1.0, rewards={"solved": 1.0}, trajectory=attempt.task_id)


def died(attempt: pb.Attempt) -> pb.Outcome:
    failure = pb.TaskFailure(kind="worker_died", phase="running", reason="out of memory", log="…\n")
    return pb.Outcome(valid=False, failure=failure)


class FakeRunner:
    """One runner, over a channel of its own."""

    def __init__(self, address: str, name: str, slots: int, metadata: Any = ()) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self.stub: Any = pb_grpc.RunnersStub(self._channel)
        self.name, self._slots, self._metadata = name, slots, metadata
        self._requests = itertools.count(1)

    async def __aenter__(self) -> FakeRunner:
        await self.stub.RegisterRunner(
            pb.RegisterRunnerRequest(runner_id=self.name, slots=self._slots),
            timeout=PATIENCE,
            metadata=self._metadata,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def claim(self, most: int = 1, wait: float = 0.0, request: int = 0) -> list[pb.Attempt]:
        asked = pb.ClaimAttemptsRequest(
            runner_id=self.name,
            most=most,
            request=request or next(self._requests),
            wait_s=wait,
        )
        answer = await self.stub.ClaimAttempts(asked, timeout=PATIENCE, metadata=self._metadata)
        return list(answer.attempts)

    async def some(self) -> pb.Attempt:
        """One attempt, waited for."""
        async with asyncio.timeout(PATIENCE):
            while not (attempts := await self.claim(wait=5.0)):
                pass
        return attempts[0]

    async def report(self, *reports: pb.AttemptReport) -> list[pb.ReportVerdict]:
        asked = pb.ReportAttemptsRequest(reports=reports)
        answer = await self.stub.ReportAttempts(asked, timeout=PATIENCE, metadata=self._metadata)
        return list(answer.verdicts)

    async def finish(
        self, attempts: list[pb.Attempt], executed: Executed = solved
    ) -> list[pb.ReportVerdict]:
        return await self.report(
            *(
                pb.AttemptReport(task_id=one.task_id, fence=one.fence, outcome=executed(one))
                for one in attempts
            )
        )

    async def renew(self) -> list[tuple[str, int]]:
        asked = pb.RunnerRequest(runner_id=self.name)
        answer = await self.stub.RenewRunner(asked, timeout=PATIENCE, metadata=self._metadata)
        return [(one.task_id, one.fence) for one in answer.revoked]

    async def work(self, executed: Executed = solved) -> None:
        """Claims, finishes and renews, until it is cancelled."""
        while True:
            await self.renew()
            attempts = await self.claim(self._slots, wait=0.5)
            if attempts:
                await self.finish(attempts, executed)


async def working(runner: FakeRunner, executed: Executed = solved) -> asyncio.Task[None]:
    return asyncio.create_task(runner.work(executed))
