"""Jobs: tasks that were submitted together, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator

from megaflow.job_calls import JobCalls
from megaflow.task import JobStatus, Result

__all__ = ["AsyncJob"]


class AsyncJob:
    """A job on a server, as `Job`; made by `AsyncClient.submit` and `AsyncClient.job`."""

    def __init__(self, calls: JobCalls) -> None:
        self._calls = calls

    @property
    def id(self) -> str:
        """What `AsyncClient.job` takes, from any process."""
        return self._calls.id

    async def status(self) -> JobStatus:
        """How far it is."""
        return await self._calls.status()

    async def results(
        self, *, after: int = 0, timeout: float | None = None
    ) -> AsyncIterator[Result]:
        """Every result, in the order in which the tasks ended; see `Job.results`."""
        async for some in self._calls.results(after, timeout):
            for result in some:
                yield result

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until all of it has ended. Raises DeadlineExceeded after so many seconds."""
        return await self._calls.wait(timeout)

    async def cancel(self, reason: str = "") -> JobStatus:
        """Cancel what has not ended; what has ended stays as it is. Idempotent."""
        return await self._calls.cancel(reason)

    async def seal(self) -> None:
        """See `Job.seal`."""
        await self._calls.seal()

    async def put_manifest(self, data: bytes) -> None:
        """See `Job.put_manifest`."""
        await self._calls.put_manifest(data)

    async def manifest(self) -> bytes | None:
        """See `Job.manifest`."""
        return await self._calls.manifest()

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"
