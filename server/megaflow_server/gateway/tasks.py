"""The service of tasks: what clients ask of the orchestrator, for their own tenant."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.gateway.calls import Context, answer
from megaflow_server.gateway.task_answers import job_status, task_result, task_status
from megaflow_server.gateway.task_documents import label
from megaflow_server.gateway.task_requests import (
    MOST_TASKS,
    Catalogue,
    create_job,
    new_tasks,
    put_manifest,
)
from megaflow_server.orchestrator.commands import AddTasks, CancelJob, CancelTask, SealJob
from megaflow_server.orchestrator.explaining import waits_for
from megaflow_server.orchestrator.records import Job, Task
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.base import Store

# Longer than a client asks; seconds.
LONGEST_WAIT: Final = 60.0
# Results in one answer, and jobs: far within gRPC's limit on a message, logs included.
_MOST_RESULTS: Final = 500
_MOST_JOBS: Final = 1000
# Tasks that a job's status names.
_MOST_ACTIVE: Final = 10
# Tasks stored in one transaction, so that nobody waits long for it: a repeat finds what was stored before.
_MOST_STORED: Final = 200
# What is served changes only with the server's modules; seconds.
_CATALOGUE_KEPT: Final = 30.0


class TasksService(pb_grpc.TasksServicer):
    """See megaflow.proto for what each call does.

    Args:
        orchestrator: None where this server keeps no tasks.
        caller: the name of the principal of the running call: its tenant.
        environments: what is served to it.
        imports: whether clients may name modules.
        breakers: why no sandbox of a template is created at the moment, by the template's name.
    """

    def __init__(
        self,
        orchestrator: Orchestrator | None,
        *,
        caller: Callable[[], str],
        environments: Callable[[], Awaitable[pb.ListEnvironmentsResponse]],
        imports: bool,
        breakers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._maybe = orchestrator
        self._caller = caller
        self._environments = environments
        self._imports = imports
        self._breakers = breakers
        self._catalogue: tuple[float, Catalogue] | None = None

    @property
    def _orchestrator(self) -> Orchestrator:
        return here(self._maybe)

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.JobStatus:
        async def created() -> pb.JobStatus:
            orchestrator, tenant = self._orchestrator, self._caller()
            command = create_job(request, tenant, orchestrator.clock())
            known = await orchestrator.read(lambda store: store.find_job(tenant, command.id))
            # A repeat's deadline would be a little later.
            if known is not None and known.id == command.id and request.HasField("deadline_s"):
                command = replace(command, deadline=known.deadline)
            await orchestrator.ask(command)
            return await self._status(await orchestrator.job(tenant, command.id))

        return await answer(context, created())

    async def AddTasks(self, request: pb.AddTasksRequest, context: Context) -> pb.AddTasksResponse:
        async def added() -> pb.AddTasksResponse:
            orchestrator, tenant = self._orchestrator, self._caller()
            tasks = new_tasks(request, await self._served())
            job = await orchestrator.job(tenant, request.job_id)
            if job.total + len(tasks) > MOST_TASKS:
                raise InvalidArgument(
                    f"tasks: {job.total} and {len(tasks)} more, and a job has at most {MOST_TASKS:,}: "
                    "submit several jobs"
                )
            ids: list[str] = []
            for begin in range(0, len(tasks), _MOST_STORED):
                some = tasks[begin : begin + _MOST_STORED]
                ids += await orchestrator.ask(AddTasks(job.id, tenant, some))
            return pb.AddTasksResponse(task_ids=ids)

        return await answer(context, added())

    async def SealJob(self, request: pb.JobRequest, context: Context) -> pb.JobStatus:
        async def sealed() -> pb.JobStatus:
            orchestrator, tenant = self._orchestrator, self._caller()
            job = await orchestrator.job(tenant, request.job)
            await orchestrator.seal(SealJob(job.id, tenant))
            return await self._status(await orchestrator.job(tenant, job.id))

        return await answer(context, sealed())

    async def GetJob(self, request: pb.JobRequest, context: Context) -> pb.JobStatus:
        async def found() -> pb.JobStatus:
            job = await self._orchestrator.job(self._caller(), request.job)
            return await self._status(job, _MOST_ACTIVE)

        return await answer(context, found())

    async def PutManifest(
        self, request: pb.PutManifestRequest, context: Context
    ) -> pb.PutManifestResponse:
        async def put() -> pb.PutManifestResponse:
            orchestrator, tenant = self._orchestrator, self._caller()
            job = await orchestrator.job(tenant, request.job)
            await orchestrator.ask(put_manifest(request, job.id, tenant))
            return pb.PutManifestResponse()

        return await answer(context, put())

    async def GetManifest(
        self, request: pb.GetManifestRequest, context: Context
    ) -> pb.ManifestPart:
        async def got() -> pb.ManifestPart:
            job = await self._orchestrator.job(self._caller(), request.job)
            found = await self._orchestrator.read(
                lambda store: store.find_manifest(job.id, min(request.part, MOST_TASKS))
            )
            if found is None:
                raise NotFound(
                    f"job={request.job!r}: there is no part {request.part} of a manifest"
                )
            return pb.ManifestPart(data=found.data, parts=found.parts)

        return await answer(context, got())

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        async def listed() -> pb.ListJobsResponse:
            tenant, most = self._caller(), min(request.most or 100, _MOST_JOBS)
            jobs = await self._orchestrator.read(lambda store: store.jobs(tenant, most))
            return pb.ListJobsResponse(jobs=[await self._status(job) for job in jobs])

        return await answer(context, listed())

    async def WaitResults(
        self, request: pb.WaitResultsRequest, context: Context
    ) -> pb.WaitResultsResponse:
        async def waited() -> pb.WaitResultsResponse:
            most = min(request.most or _MOST_RESULTS, _MOST_RESULTS)
            job, found = await self._orchestrator.results(
                self._caller(), request.job, request.after, most, seconds(request.wait_s)
            )
            last = request.after + len(found)
            return pb.WaitResultsResponse(
                results=map(task_result, found), complete=job.sealed and last >= job.total
            )

        return await answer(context, waited())

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.JobStatus:
        async def cancelled() -> pb.JobStatus:
            orchestrator, tenant = self._orchestrator, self._caller()
            job = await orchestrator.job(tenant, request.job)
            reason = label("reason", request.reason) or f"cancelled by {tenant}"
            while await orchestrator.ask(CancelJob(job.id, tenant, reason)):
                pass  # a thousand at once, so that others are served in between
            return await self._status(await orchestrator.job(tenant, job.id))

        return await answer(context, cancelled())

    async def CancelTask(self, request: pb.TaskRequest, context: Context) -> pb.TaskStatus:
        async def cancelled() -> pb.TaskStatus:
            tenant = self._caller()
            reason = label("reason", request.reason) or f"cancelled by {tenant}"
            await self._orchestrator.ask(CancelTask(request.task_id, tenant, reason))
            return await self._explained(await self._orchestrator.task(tenant, request.task_id))

        return await answer(context, cancelled())

    async def ExplainTask(self, request: pb.TaskRequest, context: Context) -> pb.TaskStatus:
        async def explained() -> pb.TaskStatus:
            task = await self._orchestrator.task(self._caller(), request.task_id)
            return await self._explained(task)

        return await answer(context, explained())

    async def _explained(self, task: Task) -> pb.TaskStatus:
        orchestrator = self._orchestrator
        now, breakers, held = orchestrator.clock(), self._breakers(), orchestrator.held(task)

        def look(store: Store) -> pb.TaskStatus:
            waits = waits_for(store, task, now, breakers, held)
            return task_status(task, waits, store.history(task.id))

        return await orchestrator.read(look)

    async def _status(self, job: Job, active: int = 0) -> pb.JobStatus:
        now = self._orchestrator.clock()

        def look(store: Store) -> pb.JobStatus:
            some = store.active(job.id, active) if active else ()
            return job_status(job, store.states(job.id), some, now)

        return await self._orchestrator.read(look)

    async def _served(self) -> Catalogue:
        now = time.monotonic()
        if self._catalogue is None or now - self._catalogue[0] > _CATALOGUE_KEPT:
            listed = await self._environments()
            ids = {info.id for info in listed.environments}
            self._catalogue = (now, Catalogue(ids, self._imports))
        return self._catalogue[1]


def here(orchestrator: Orchestrator | None) -> Orchestrator:
    """Raises FailedPrecondition where there is none."""
    if orchestrator is None:
        raise FailedPrecondition(
            "this server keeps no tasks: have it started with --store sqlite:///PATH or postgresql://…"
        )
    return orchestrator


def seconds(wait: float) -> float:
    """For how long to wait, as asked and within limits; NaN is none at all."""
    return min(wait, LONGEST_WAIT) if wait > 0 else 0.0
