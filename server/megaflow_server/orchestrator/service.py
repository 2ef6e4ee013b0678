"""An orchestrator at work: commands carried out, leases watched, timers kept, and whoever waits told."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from megaflow.errors import MegaflowError, NotFound, ResourceExhausted, Unavailable
from megaflow_server.orchestrator.bells import Bell
from megaflow_server.orchestrator.commands import (
    Advance,
    Claim,
    Claimed,
    Command,
    ExpireRunner,
    Finish,
    Finished,
    SealJob,
    SetTenant,
    StopJob,
    Wake,
)
from megaflow_server.orchestrator.figures import Figures
from megaflow_server.orchestrator.lease_watch import EXPIRES, LeaseWatch
from megaflow_server.orchestrator.records import Job, Runner, Task
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import ENDED, MISSED, Store
from megaflow_server.orchestrator.writer import Writer

if TYPE_CHECKING:
    from megaflow_server.orchestrator.starts import Starts

__all__ = ["Orchestrator"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds between two looks at what is due, and at leases; a limit that is reached shows within a second.
_WAKE: Final = 0.5
_LOOK: Final = 1.0
# Those who wait for tasks to be queued are woken at most so often; seconds.
_PAUSE: Final = 0.02
# Commands that may wait for their transaction: with more, whoever asks is sent away.
_MOST_WAITING: Final = 20_000


class Orchestrator:
    """One of those that work on a store; an asynchronous context manager.

    Args:
        store: closed by whoever opened it, afterwards.
        tenants: what the configuration says of them; set when it starts.
        clock: seconds since the epoch.
        expires: seconds without a renewal after which what a runner held is given to others.
        starts: which of them may start now; None: all of them.
    """

    def __init__(
        self,
        store: Store,
        *,
        tenants: Sequence[SetTenant] = (),
        policy: RetryPolicy | None = None,
        clock: Callable[[], float] = time.time,
        expires: float = EXPIRES,
        starts: Starts | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.figures = Figures()
        self._tenants = tenants
        self._policy = policy or RetryPolicy()
        self._watch = LeaseWatch(expires)
        self._starts = starts
        self._waiting = 0
        self._queued = Bell(_PAUSE)
        self._given_nothing: dict[str, int] = {}
        self._ended: dict[str, tuple[Bell, int]] = {}
        self._leaving = False

    async def __aenter__(self) -> Orchestrator:
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(2, "orchestrator-reader")
        self._writer = Writer(
            self.store, self._policy, self.clock, self.figures.transactions.observe
        )
        self._stop_listening = self.store.listen(self._heard)
        self._loops: list[asyncio.Task[None]] = []
        try:
            for tenant in self._tenants:
                await self.ask(tenant)
        except BaseException:
            await self._end()
            raise
        self._loops = [
            asyncio.create_task(self._repeat(_WAKE, self._wake)),
            asyncio.create_task(self._repeat(_LOOK, self._reap)),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._stop_listening()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)

    async def ask(self, command: Command) -> Any:
        """A command's answer, once it is committed.

        Raises:
            MegaflowError: what it was refused with.
            ResourceExhausted: too many wait already; nothing was done.
        """
        # Cancelling does not undo what may be under way.
        return await asyncio.shield(self._asked(command))

    def _asked(self, command: Command) -> asyncio.Future[Any]:
        if self._waiting >= _MOST_WAITING:
            raise ResourceExhausted(
                f"{self._waiting} commands wait for the store: come back later", retry_after=1.0
            )
        self._waiting += 1
        answer = asyncio.wrap_future(self._writer.ask(command))
        answer.add_done_callback(self._answered)
        return answer

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not answer.cancelled():
            answer.exception()  # whoever asked may be gone

    async def read(self, look: Callable[[Store], T]) -> T:
        """What a look at the store finds; outside of transactions."""
        return await self._loop.run_in_executor(self._readers, look, self.store)

    async def claim(self, command: Claim, wait: float) -> list[Claimed]:
        """What a runner is to execute; waits so many seconds for news where its last claim was given nothing.

        Raises:
            Unavailable: this orchestrator is leaving.
        """
        seen = self._given_nothing.pop(command.runner, None)
        if seen is not None and not self._leaving:
            await self._queued.wait(seen, wait)
        if self._leaving:
            raise Unavailable(
                "draining: this server is about to end, and hands out no more tasks; ask the next one"
            )
        rung, begun = self._queued.rung, time.perf_counter()
        claimed = await self._granted(command)
        self.figures.claiming.observe(time.perf_counter() - begun)
        if not claimed:
            self._given_nothing[command.runner] = rung
        self.figures.claims += len(claimed)
        for one in claimed:
            self.figures.started.observe(max(0.0, one.task.started - one.task.queued))
        return claimed

    async def _granted(self, command: Claim) -> list[Claimed]:
        if self._starts is None:
            answer = self._asked(command)
        else:
            grant = self._starts.grant(command.runner)
            answer = self._asked(replace(command, grant=grant))
            # Also where whoever asked is gone by then: the attempts are the runner's.
            answer.add_done_callback(lambda done: grant.settle(_names(done)))
        claimed: list[Claimed] = await asyncio.shield(answer)
        return claimed

    def held(self, task: Task) -> str | None:
        """Why no task like this one is started at the moment; None where one may be."""
        if self._starts is None or not task.environment:
            return None
        return self._starts.why(task.tenant, task.environment)

    def leave(self) -> None:
        """Hand out no more attempts, also to those who wait for some; everything else goes on."""
        self._leaving = True
        self._queued.ring()

    async def advance(self, command: Advance) -> bool:
        wanted: bool = await self.ask(command)
        if self._starts is not None and self._starts.came(command.task, command.fence):
            self._queued.ring()
        self.figures.fenced += not wanted
        return wanted

    async def finish(self, command: Finish) -> Finished:
        finished: Finished = await self.ask(command)
        if self._starts is not None:
            self._starts.ended(command.task, command.fence, command.outcome)
        self.figures.fenced += not finished.accepted
        if finished.spent is not None:
            while await self.ask(StopJob(finished.spent)):
                pass  # more wait than go into one transaction
        self._queued.ring()  # there is room now
        return finished

    async def seal(self, command: SealJob) -> None:
        await self.ask(command)
        self._tell(command.job)

    async def results(
        self, tenant: str, name: str, after: int, most: int, wait: float
    ) -> tuple[Job, Sequence[Task]]:
        """A job, and its next results; waits so many seconds for the first of them, or for its end.

        Raises:
            NotFound: the tenant has no such job.
        """
        end = time.monotonic() + wait
        job = await self.job(tenant, name)
        look = functools.partial(_results, job.id, after, most)
        with _Listening(self._ended, job.id) as bell:
            while True:
                seen = bell.rung
                found = await self.read(look)
                job = await self.job(tenant, job.id)
                left = end - time.monotonic()
                if found or left <= 0 or (job.sealed and after >= job.total):
                    return job, found
                await bell.wait(seen, left)

    async def job(self, tenant: str, name: str) -> Job:
        """A tenant's job by its id, or the newest of this name. Raises NotFound."""
        found = await self.read(lambda store: store.find_job(tenant, name))
        if found is None:
            raise NotFound(f"job={name!r}: there is no such job; `megaflow ps` lists them")
        return found

    async def task(self, tenant: str, name: str) -> Task:
        """A tenant's task by its id. Raises NotFound."""
        found = await self.read(lambda store: store.find_task(name))
        if found is None or found.tenant != tenant:
            raise NotFound(
                f"task={name!r}: there is no such task; give JOB/INDEX or JOB/INDEX.SAMPLE"
            )
        return found

    # News, from whatever thread a transaction was committed in.

    def _heard(self, news: str) -> None:
        self._loop.call_soon_threadsafe(self._told, news)

    def _told(self, news: str) -> None:
        self._queued.ring()
        if news == MISSED:
            for bell, _ in self._ended.values():
                bell.ring()
        elif news.startswith(ENDED):
            self._tell(news.removeprefix(ENDED))

    def _tell(self, job: str) -> None:
        if job in self._ended:
            self._ended[job][0].ring()

    # What happens by itself.

    async def _repeat(self, pause: float, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await step()
            except MegaflowError as error:
                logger.error("the orchestrator goes on after: %s", error.message)
            await asyncio.sleep(pause)

    async def _wake(self) -> None:
        if self._starts is not None and self._starts.stirs():
            self._queued.ring()
        while await self.ask(Wake()):
            pass  # more has come due than goes into one transaction

    async def _reap(self) -> None:
        starting = frozenset() if self._starts is None else self._starts.runners()
        runners = await self.read(lambda store: store.runners())
        known = {runner.id for runner in runners}
        if self._starts is not None and starting - known:
            self._starts.gone(starting - known)
            self._queued.ring()
        self._given_nothing = {
            name: seen for name, seen in self._given_nothing.items() if name in known
        }
        for runner in self._watch.look(runners, time.monotonic()):
            await self._expire(runner)

    async def _expire(self, runner: Runner) -> None:
        logger.warning("runner %s has not renewed its lease", runner.id)
        self.figures.expired += 1
        while await self.ask(ExpireRunner(runner.id, runner.renewals)):
            pass  # it held more than goes into one transaction
        self._queued.ring()


def _names(claimed: asyncio.Future[list[Claimed]]) -> set[tuple[str, int]]:
    """The attempts that a claim was given; none where it failed."""
    if claimed.cancelled() or claimed.exception() is not None:
        return set()
    return {(one.task.id, one.task.fence) for one in claimed.result()}


def _results(job: str, after: int, most: int, store: Store) -> Sequence[Task]:
    return store.results(job, after, most)


class _Listening:
    """A job's bell, for as long as somebody listens."""

    def __init__(self, bells: dict[str, tuple[Bell, int]], job: str) -> None:
        self._bells, self._job = bells, job

    def __enter__(self) -> Bell:
        bell, listeners = self._bells.get(self._job, (Bell(_PAUSE), 0))
        self._bells[self._job] = (bell, listeners + 1)
        return bell

    def __exit__(self, *_: object) -> None:
        bell, listeners = self._bells.pop(self._job)
        if listeners > 1:
            self._bells[self._job] = (bell, listeners - 1)
