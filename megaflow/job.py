"""Jobs: tasks that were submitted together, blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from megaflow.job_calls import JobCalls
from megaflow.task import JobStatus, Result
from megaflow.transport.io import run

__all__ = ["Job"]


class Job:
    """A job on a server; made by `Client.submit` and `Client.job`, and of use while that client is open.

    A server that is restarted meanwhile is waited for, for a minute: nothing that it has acknowledged is lost.
    """

    def __init__(self, calls: JobCalls) -> None:
        self._calls = calls

    @property
    def id(self) -> str:
        """What `Client.job` takes, from any process."""
        return self._calls.id

    def status(self) -> JobStatus:
        """How far it is."""
        return run(self._calls.status())

    def results(self, *, after: int = 0, timeout: float | None = None) -> Iterator[Result]:
        """Every result, in the order in which the tasks ended, each as soon as it is there; ends with the last.

        Args:
            after: skip so many: the `done` of the last result that was seen, in another process say.
            timeout: seconds without a result after which DeadlineExceeded is raised; None: wait.
        """
        batches = self._calls.results(after, timeout)
        while (some := run(_next(batches))) is not None:
            yield from some

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until all of it has ended. Raises DeadlineExceeded after so many seconds."""
        return run(self._calls.wait(timeout))

    def cancel(self, reason: str = "") -> JobStatus:
        """Cancel what has not ended; what has ended stays as it is. Idempotent."""
        return run(self._calls.cancel(reason))

    def seal(self) -> None:
        """Take no more tasks: where whoever submitted them has gone before all were there. Idempotent."""
        run(self._calls.seal())

    def put_manifest(self, data: bytes) -> None:
        """Keep beside the job what it was made of, in a form of your own; 64 MiB at most.

        Raises:
            FailedPrecondition: it has one already, and another.
        """
        run(self._calls.put_manifest(data))

    def manifest(self) -> bytes | None:
        """What was kept so, whole; else None."""
        return run(self._calls.manifest())

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


async def _next(batches: AsyncIterator[Sequence[Result]]) -> Sequence[Result] | None:
    return await anext(batches, None)
