"""Watching a job until it has ended, or until whoever watches has had enough."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from enum import StrEnum

from rich.console import Console, RenderableType
from rich.live import Live

from megaflow import AsyncJob, JobStatus, Result
from megaflow_server.jobs.progress import Progress
from megaflow_server.jobs.table import Names, failed_line, live, plain

__all__ = ["Ending", "Plain", "Shown", "watch"]

# Seconds between two looks at a job, and between two lines of a log.
_LOOK, _LINE = 1.0, 15.0
# Seconds that a second Ctrl-C has.
_SECOND = 3.0
_FRAMES = 4


class Ending(StrEnum):
    """Why watching has ended."""

    COMPLETE = "complete"
    DETACHED = "detached"
    CANCELLED = "cancelled"


class Shown:
    """A live table on a terminal. Plain, its other form, writes lines."""

    def __init__(self, console: Console, title: str, progress: Progress, names: Names) -> None:
        self._console, self._title = console, title
        self._progress, self._names = progress, names

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=_FRAMES):
            yield

    def result(self, result: Result) -> None:
        """A task has ended."""

    def looked(self) -> None:
        """There is a new status."""

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        status = self._progress.status
        active = () if status is None else status.active
        slow = [
            (_sample(self._names, one.index, one.sample), one.state, one.seconds) for one in active
        ]
        return live(self._title, self._progress, time.monotonic(), slow)


class Plain(Shown):
    """A line now and then, and one for each failure: for logs and CI."""

    _last = ""
    _due = 0.0

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        yield
        self._line()

    def result(self, result: Result) -> None:
        if (line := failed_line(result, self._names)) is not None:
            self.say(line)

    def looked(self) -> None:
        if time.monotonic() >= self._due:
            self._line()
            self._due = time.monotonic() + _LINE

    def _line(self) -> None:
        line = plain(self._title, self._progress, time.monotonic())
        if line != self._last:
            self.say(line)
        self._last = line


async def watch(job: AsyncJob, progress: Progress, shown: Shown, how_back: str) -> Ending:
    """Follow a job to its end.

    Args:
        how_back: what to tell somebody who leaves: how to come back.

    Returns:
        CANCELLED where Ctrl-C came twice, and every task has ended; DETACHED where it came once.
    """
    interrupts: asyncio.Queue[None] = asyncio.Queue()
    with _interrupts(interrupts.put_nowait):
        following = asyncio.create_task(_follow(job, progress, shown))
        interrupted = asyncio.create_task(interrupts.get())
        with shown.showing():
            await asyncio.wait({following, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not interrupted.done():
                interrupted.cancel()
                await following
                return Ending.COMPLETE
        shown.say(f"Detached: the job goes on. {how_back}\nCtrl-C again cancels it.")
        try:
            await asyncio.wait_for(interrupts.get(), _SECOND)
        except TimeoutError:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            return Ending.DETACHED
        shown.say("Cancelling: tasks that have ended keep their results.")
        await job.cancel("Ctrl-C at the command that submitted it")
        with shown.showing():
            await following
        return Ending.CANCELLED


async def _follow(job: AsyncJob, progress: Progress, shown: Shown) -> None:
    async def take() -> None:
        async for result in job.results():
            progress.take(result)
            shown.result(result)

    taking = asyncio.create_task(take())
    try:
        while not progress.complete:
            _hear(progress, await job.status())
            shown.looked()
            await asyncio.wait({taking}, timeout=_LOOK)
            if taking.done():
                await taking
                _hear(progress, await job.status())
                return
    finally:
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking


def _hear(progress: Progress, status: JobStatus) -> None:
    progress.hear(status, time.monotonic(), max(0.0, time.time() - status.submitted.timestamp()))


@contextlib.contextmanager
def _interrupts(tell: Callable[[None], None]) -> Iterator[None]:
    """Ctrl-C is told instead of raised."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, tell, None)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _sample(names: Names, index: int, sample: int) -> str:
    name = names.get(index, str(index))
    return f"{name} [{sample + 1}]" if sample else name
