"""What a runner reports of its attempts: many in one call, each until it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from megaflow.errors import FailedPrecondition, MegaflowError, NotFound
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["Ask", "Reports"]

logger = logging.getLogger(__name__)

Ask = Callable[..., Awaitable[Any]]
"""Asks a method of the orchestrator: its name, the request, and `wait`."""

# In one call; the server takes a thousand.
_MOST = 500
# Seconds between two tries.
_PAUSE = 1.0
# Failures of one report after which it is given up: the fault is its own.
_TRIES = 5


class Reports:
    """Sends reports until its task is cancelled.

    Args:
        ask: calls the orchestrator.
        unwanted: told of an attempt that is to stop.
    """

    def __init__(self, ask: Ask, unwanted: Callable[[str, int, str], None]) -> None:
        self._ask = ask
        self._unwanted = unwanted
        self._queue: deque[tuple[pb.AttemptReport, int]] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def put(self, report: pb.AttemptReport) -> None:
        """Have it sent. Reports of one attempt arrive in their order."""
        self._queue.append((report, 0))
        self._none.clear()
        self._some.set()

    async def sent(self) -> None:
        """Until all that were put are answered."""
        await self._none.wait()

    async def run(self) -> None:
        """Sends them."""
        while True:
            await self._some.wait()
            batch = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
            again = await self._send(batch)
            self._queue.extendleft(reversed(again))
            if again:
                await asyncio.sleep(_PAUSE)
            if not self._queue:
                self._some.clear()
                self._none.set()

    async def _send(
        self, batch: list[tuple[pb.AttemptReport, int]]
    ) -> list[tuple[pb.AttemptReport, int]]:
        """Those of a batch that are to be sent again."""
        request = pb.ReportAttemptsRequest(reports=[report for report, _ in batch])
        try:
            answer = await self._ask("ReportAttempts", request)
        except MegaflowError as error:
            logger.warning("%d reports wait: %s", len(batch), error.message)
            return batch
        again = []
        for (report, tries), verdict in zip(batch, answer.verdicts, strict=True):
            if verdict.HasField("error"):
                if self._is_to_be_sent_again(report, verdict.error, tries):
                    again.append((report, tries + 1))
            elif not verdict.accepted and report.WhichOneof("report") == "progress":
                self._unwanted(report.task_id, report.fence, verdict.reason)
            elif not verdict.accepted:
                logger.info("%s.%d came late: %s", report.task_id, report.fence, verdict.reason)
        return again

    def _is_to_be_sent_again(self, report: pb.AttemptReport, said: pb.Error, tries: int) -> bool:
        error = failures.from_message(said)
        name = f"{report.task_id}.{report.fence}"
        if isinstance(error, NotFound | FailedPrecondition) or tries >= _TRIES:
            logger.error("the report of %s was refused: %s", name, error)
            return False
        infrastructure = isinstance(error, MegaflowError) and error.infrastructure
        if not infrastructure and report.WhichOneof("report") == "outcome":
            # It cannot be told as it was; that there is no result must be.
            failure = pb.TaskFailure(
                kind="infrastructure",
                phase="evaluating",
                reason=f"its outcome was refused: {error}"[:2000],
            )
            cost = report.outcome.cost if report.outcome.HasField("cost") else None
            report.outcome.CopyFrom(pb.Outcome(valid=False, failure=failure, cost=cost))
        return True
