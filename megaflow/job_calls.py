"""What jobs and tasks are asked for, blocking or awaited (see transport/io.py). Every call may be repeated."""

from __future__ import annotations

import secrets
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Sequence,
    Sized,
)
from typing import Protocol

from megaflow.connection import Connection
from megaflow.errors import DeadlineExceeded, InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.task import JobStatus, Result, Task, TaskStatus
from megaflow.transport.io import INTERRUPTS

__all__ = [
    "WAIT",
    "JobCalls",
    "Opened",
    "Places",
    "Tasks",
    "cancel_task",
    "each_task",
    "explain_task",
    "jobs",
    "open_job",
    "submit",
]

Tasks = Iterable[Task] | AsyncIterable[Task]
# Samples by their task's index and their own.
Places = Collection[tuple[int, int]]

MOST_TASKS = 1_000_000
# Tasks in one call, and their bytes: far below gRPC's limit, and soon through.
_MOST_AT_ONCE, _BYTES_AT_ONCE = 1000, 2**20
# Bytes of a manifest in one call.
_PART = 2**20
# Seconds that the server waits for a result before it answers that there is none yet.
WAIT = 20.0
# Seconds that it has for tasks that are added: the first of its workers may still be starting.
_ADDING = 60.0


class Opened(Protocol):
    """Gives the connection of an open client."""

    async def __call__(self) -> Connection: ...


async def submit(
    opened: Opened,
    tasks: Tasks,
    *,
    samples: int,
    name: str,
    seed: int | None,
    deadline: float | None,
    only: Places | None = None,
    manifest: Callable[[str], bytes] | None = None,
    max_cost: float | None = None,
    unpriced: bool = False,
) -> JobCalls:
    """A job with these tasks, or `only` some of their samples.

    Where one is refused, the job is cancelled and the error says which; likewise where it is interrupted.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InvalidArgument(f"samples={samples!r}: give a whole number from 1")
    count = len(tasks) * samples if isinstance(tasks, Sized) else 0
    count = count if only is None else len(only)
    _check_count(count)
    job = await open_job(
        opened,
        name=name,
        seed=seed,
        deadline=deadline,
        tasks=count,
        max_cost=max_cost,
        unpriced=unpriced,
    )
    try:
        if manifest is not None:
            await job.put_manifest(manifest(job.id))
        async for some in _batches(tasks, samples, only):
            await job.add(some)
        await job.seal()
    except INTERRUPTS:
        await job.cancel("its submission was interrupted")
        raise
    except Exception:
        await job.cancel("its submission failed")
        raise
    return job


async def open_job(
    opened: Opened,
    *,
    name: str,
    seed: int | None,
    deadline: float | None = None,
    tasks: int = 0,
    max_cost: float | None = None,
    unpriced: bool = False,
) -> JobCalls:
    """A job to which tasks are still added, `tasks` of them where that is known."""
    request = pb.CreateJobRequest(
        job_id=secrets.token_hex(8),
        name=name,
        seed=secrets.randbits(31) if seed is None else _seed(seed),
        deadline_s=deadline,
        tasks=tasks,
        max_cost=max_cost,
        unpriced=unpriced,
    )
    await (await opened()).ask("CreateJob", request)
    return JobCalls(opened, request.job_id)


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument(f"seed={seed!r}: give a whole number from 0, below 2**63")
    return seed


def _check_count(count: int) -> None:
    if count > MOST_TASKS:
        raise InvalidArgument(
            f"tasks: {count:,} with their samples, and a job has at most {MOST_TASKS:,}: submit several jobs"
        )


async def _batches(
    tasks: Tasks, samples: int, only: Places | None
) -> AsyncIterator[list[pb.NewTask]]:
    """So many at once that one is never far ahead of what the server has taken."""
    batch: list[pb.NewTask] = []
    size = index = 0
    async for task in each_task(tasks):
        if not isinstance(task, Task):
            raise InvalidArgument(f"tasks[{index}]={task!r:.100}: give megaflow.Task(…)")
        _check_count((index + 1) * samples)
        for sample in range(samples):
            if only is not None and (index, sample) not in only:
                continue
            message = task.message(index, sample, samples)
            bytes_ = message.ByteSize()
            if batch and (len(batch) == _MOST_AT_ONCE or size + bytes_ > _BYTES_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append(message)
            size += bytes_
        index += 1
    if batch:
        yield batch


async def each_task(tasks: Tasks) -> AsyncIterator[Task]:
    """Tasks as they come, of whichever kind of iterable."""
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task


class JobCalls:
    """A job on a server."""

    def __init__(self, opened: Opened, job_id: str) -> None:
        self._opened = opened
        self.id = job_id

    @classmethod
    async def find(cls, opened: Opened, job: str) -> JobCalls:
        """The job of this id, or the newest of this name. Raises NotFound."""
        found = await (await opened()).ask("GetJob", pb.JobRequest(job=job))
        return cls(opened, found.job_id)

    async def add(self, tasks: Sequence[pb.NewTask]) -> Sequence[str]:
        """Add tasks, a few thousand at most; their ids."""
        request = pb.AddTasksRequest(job_id=self.id, tasks=tasks)
        added: pb.AddTasksResponse = await (await self._opened()).ask(
            "AddTasks", request, wait=_ADDING
        )
        return added.task_ids

    async def seal(self) -> None:
        """No more are added."""
        await (await self._opened()).ask("SealJob", pb.JobRequest(job=self.id))

    async def status(self) -> JobStatus:
        return JobStatus.of(await (await self._opened()).ask("GetJob", pb.JobRequest(job=self.id)))

    async def cancel(self, reason: str) -> JobStatus:
        request = pb.CancelJobRequest(job=self.id, reason=reason)
        return JobStatus.of(await (await self._opened()).ask("CancelJob", request, wait=_ADDING))

    async def results(self, after: int, timeout: float | None) -> AsyncIterator[Sequence[Result]]:
        """Results as they come, some at once; DeadlineExceeded where none comes for so many seconds."""
        latest = _latest(timeout)
        while True:
            answer = await self.wait_results(after, _left(latest))
            if answer.results:
                after = answer.results[-1].done
                yield [Result.of(message) for message in answer.results]
                latest = _latest(timeout)
            if answer.complete:
                return
            if latest is not None and time.monotonic() >= latest:
                raise DeadlineExceeded(f"timeout: no result of job {self.id} for {timeout:g} s")

    async def wait(self, timeout: float | None) -> JobStatus:
        latest = _latest(timeout)
        while True:
            status = await self.status()
            if status.complete:
                return status
            if latest is not None and time.monotonic() >= latest:
                raise DeadlineExceeded(
                    f"timeout: job {self.id} has not ended within {timeout:g} s: {status.done} of "
                    f"{status.total} tasks have"
                )
            await self.wait_results(max(0, status.total - 1), _left(latest), most=1)

    async def put_manifest(self, data: bytes) -> None:
        pieces = [data[at : at + _PART] for at in range(0, len(data), _PART)] or [b""]
        connection = await self._opened()
        for part, piece in enumerate(pieces):
            content = pb.ManifestPart(data=piece, parts=len(pieces))
            request = pb.PutManifestRequest(job=self.id, part=part, content=content)
            await connection.ask("PutManifest", request)

    async def manifest(self) -> bytes | None:
        connection = await self._opened()
        pieces: list[bytes] = []
        parts = 1
        while len(pieces) < parts:
            request = pb.GetManifestRequest(job=self.id, part=len(pieces))
            try:
                content: pb.ManifestPart = await connection.ask("GetManifest", request)
            except NotFound:  # nothing was kept, or not all of it
                return None
            pieces.append(content.data)
            parts = content.parts
        return b"".join(pieces)

    async def wait_results(
        self, after: int, wait: float, *, most: int = 0
    ) -> pb.WaitResultsResponse:
        """Results after the first so many, none where none comes for so many seconds; `most` is 0 for no limit."""
        request = pb.WaitResultsRequest(job=self.id, after=after, most=most, wait_s=wait)
        answer: pb.WaitResultsResponse = await (await self._opened()).ask(
            "WaitResults", request, wait=wait
        )
        return answer


def _latest(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(latest: float | None) -> float:
    return WAIT if latest is None else min(WAIT, max(0.0, latest - time.monotonic()))


async def jobs(opened: Opened) -> list[JobStatus]:
    """The caller's jobs, the newest first; a hundred at most."""
    answer = await (await opened()).ask("ListJobs", pb.ListJobsRequest())
    return [JobStatus.of(one) for one in answer.jobs]


async def explain_task(opened: Opened, task_id: str) -> TaskStatus:
    answer = await (await opened()).ask("ExplainTask", pb.TaskRequest(task_id=task_id))
    return TaskStatus.of(answer)


async def cancel_task(opened: Opened, task_id: str, reason: str) -> TaskStatus:
    request = pb.TaskRequest(task_id=task_id, reason=reason)
    return TaskStatus.of(await (await opened()).ask("CancelTask", request))
