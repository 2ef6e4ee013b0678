"""The service of runners: what executes attempts asks of the orchestrator."""

from __future__ import annotations

import asyncio
from typing import Final

from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.gateway.calls import Context, answer
from megaflow_server.gateway.task_answers import attempt, outcome_of
from megaflow_server.gateway.task_documents import label
from megaflow_server.gateway.task_requests import amount
from megaflow_server.gateway.tasks import here, seconds
from megaflow_server.orchestrator.commands import (
    Advance,
    Claim,
    DrainRunner,
    Finish,
    RegisterRunner,
    Renew,
)
from megaflow_server.orchestrator.lease_watch import RENEW, RUNNER_STOPS
from megaflow_server.orchestrator.records import Resources
from megaflow_server.orchestrator.service import Orchestrator

# Attempts in one answer, and reports in one call.
_MOST_CLAIMED: Final = 500
_MOST_REPORTS: Final = 1000
_MOST_SLOTS: Final = 100_000


class RunnersService(pb_grpc.RunnersServicer):
    """See megaflow.proto for what each call does; `orchestrator` is None where this server keeps no tasks."""

    def __init__(self, orchestrator: Orchestrator | None) -> None:
        self._maybe = orchestrator

    @property
    def _orchestrator(self) -> Orchestrator:
        return here(self._maybe)

    async def RegisterRunner(
        self, request: pb.RegisterRunnerRequest, context: Context
    ) -> pb.RegisterRunnerResponse:
        async def registered() -> pb.RegisterRunnerResponse:
            orchestrator = self._orchestrator
            if not label("runner_id", request.runner_id):
                raise InvalidArgument("runner_id is empty: choose one that none had before")
            if request.slots > _MOST_SLOTS:
                raise InvalidArgument(f"slots={request.slots}: a runner has at most {_MOST_SLOTS}")
            room = request.capacity
            if not 0 <= room.cpu < float("inf") or room.memory > 2**60:
                raise InvalidArgument(f"capacity={room}: give cores from 0, and bytes")
            capacity = Resources(request.slots, room.cpu, room.memory)
            await orchestrator.ask(RegisterRunner(request.runner_id, capacity))
            return pb.RegisterRunnerResponse(renew_s=RENEW, stop_s=RUNNER_STOPS)

        return await answer(context, registered())

    async def RenewRunner(
        self, request: pb.RunnerRequest, context: Context
    ) -> pb.RenewRunnerResponse:
        async def renewed() -> pb.RenewRunnerResponse:
            told = await self._orchestrator.ask(Renew(request.runner_id))
            revoked = [pb.AttemptName(task_id=task, fence=fence) for task, fence in told.revoked]
            return pb.RenewRunnerResponse(revoked=revoked)

        return await answer(context, renewed())

    async def ClaimAttempts(
        self, request: pb.ClaimAttemptsRequest, context: Context
    ) -> pb.ClaimAttemptsResponse:
        async def claimed() -> pb.ClaimAttemptsResponse:
            if request.request < 1:
                raise InvalidArgument("request=0: a runner counts its claims from 1")
            most = min(request.most, _MOST_CLAIMED)
            command = Claim(request.runner_id, most, request.request)
            given = await self._orchestrator.claim(command, seconds(request.wait_s))
            return pb.ClaimAttemptsResponse(attempts=map(attempt, given))

        return await answer(context, claimed())

    async def ReportAttempts(
        self, request: pb.ReportAttemptsRequest, context: Context
    ) -> pb.ReportAttemptsResponse:
        async def reported() -> pb.ReportAttemptsResponse:
            if len(request.reports) > _MOST_REPORTS:
                raise InvalidArgument(f"reports: {len(request.reports)}, over {_MOST_REPORTS}")
            orchestrator = self._orchestrator
            verdicts = [_verdict(orchestrator, report) for report in request.reports]
            return pb.ReportAttemptsResponse(verdicts=await asyncio.gather(*verdicts))

        return await answer(context, reported())

    async def DrainRunner(
        self, request: pb.RunnerRequest, context: Context
    ) -> pb.DrainRunnerResponse:
        async def drained() -> pb.DrainRunnerResponse:
            await self._orchestrator.ask(DrainRunner(request.runner_id))
            return pb.DrainRunnerResponse()

        return await answer(context, drained())


async def _verdict(orchestrator: Orchestrator, report: pb.AttemptReport) -> pb.ReportVerdict:
    """What became of one report; another's fault is not this one's."""
    try:
        if report.WhichOneof("report") == "outcome":
            outcome = outcome_of(report.outcome)
            peak = amount("peak", report.peak) if report.HasField("peak") else None
            command = Finish(report.task_id, report.fence, outcome, peak)
            finished = await orchestrator.finish(command)
            return pb.ReportVerdict(accepted=finished.accepted, reason=finished.reason)
        progress = report.progress
        wanted = await orchestrator.advance(
            Advance(
                report.task_id,
                report.fence,
                progress.evaluating,
                label("progress.worker", progress.worker),
            )
        )
        return pb.ReportVerdict(accepted=wanted, reason="" if wanted else "stop it: superseded")
    except MegaflowError as error:
        return pb.ReportVerdict(error=failures.to_message(error))
