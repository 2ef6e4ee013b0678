"""Keeps the workers alive: starts them through a backend, notices a death at once, replaces the dead.

A worker is never shared between principals, not even one after the other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from megaflow.errors import MegaflowError, ResourceExhausted, Unavailable
from megaflow_server.backends.base import Backend, Exit
from megaflow_server.gateway.logs import watch_logs
from megaflow_server.gateway.watchdog import watch_leftovers, watch_memory, watch_pulses
from megaflow_server.gateway.worker_settings import WorkerSettings
from megaflow_server.gateway.workers import START_TIMEOUT, WorkerHandle

logger = logging.getLogger(__name__)

# Before a worker that never came up is tried again; seconds.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0

# Before a session for which there is no worker is asked for again; seconds.
_RETRY_AFTER = 1.0

# Between the end of a worker's connection and that of its process; seconds.
_ENDING = 5.0
# Between SIGKILL and the end of a process; seconds.
_KILLING = 1.0


class Supervisor:
    """At most `max_workers` workers, started as they are asked for and replaced when they die.

    Each principal with sessions has at most `workers_each` of them. Beside these are workers for one session each,
    as many as are asked for, in slots from `max_workers` on. `on_death` hears of a worker that died
    (its `loss` says why), `on_closed` of the id of a shard that ended without the gateway's doing.
    """

    def __init__(
        self,
        backend: Backend,
        settings: WorkerSettings,
        *,
        workers_each: int,
        max_workers: int,
        on_death: Callable[[WorkerHandle], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.workers_each = workers_each
        self.max_workers = max_workers
        self._backend = backend
        self._settings = settings
        self._on_death = on_death
        self._on_closed = on_closed
        self._workers: dict[int, WorkerHandle] = {}
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._present: set[str] = set()  # ids of what was created and not destroyed yet
        self._incarnations = 0
        watching = [
            watch_pulses(lambda: self.workers, interval=settings.heartbeat),
            watch_logs(
                settings.logs, lambda: [one.log for one in self.workers], limit=settings.log_limit
            ),
        ]
        watching.append(watch_leftovers(lambda: self.workers, backend.processes))
        if settings.memory_limit is not None:
            watching.append(watch_memory(lambda: self.workers, limit=settings.memory_limit))
        self._watching = [asyncio.create_task(one) for one in watching]

    def warm(self, count: int) -> None:
        """Starts workers until there are so many (or `max_workers`), for whoever comes first."""
        for _ in range(min(count, self.max_workers) - len(self._shared)):
            self._add()

    def workers_for(self, principal: str, count: int) -> list[WorkerHandle]:
        """The workers of a principal with most room, at most `count`; more of them where these are busy.

        Raises:
            ResourceExhausted: it has none, and there is no room for another.
        """
        own = [one for one in self._shared if one.owner == principal and one.accepts]
        busy = sum(worker.load > 0 for worker in own)
        while len(own) < min(busy + count, self.workers_each):
            another = (
                self._first_of(None)
                or self._successor(principal)
                or self._add()
                or self._evict(principal)
            )
            if another is None:
                break
            another.owner = principal
            own.append(another)
        if not own:
            raise self._no_room(principal)
        sound = [one for one in own if one.is_sound] or own
        return sorted(sound, key=lambda one: (one.struggling, one.load, one.slot))[:count]

    def worker_alone(self, principal: str) -> WorkerHandle:
        """A new worker for one session of a principal's, and for no other: it ends with it."""
        slot = next(one for one in itertools.count(self.max_workers) if one not in self._workers)
        self._incarnations += 1
        settings = replace(self._settings, max_sessions=1)
        worker = self._workers[slot] = WorkerHandle(slot, self._incarnations, settings)
        worker.owner = principal
        self._slots[slot] = asyncio.create_task(self._keep_alone(slot))
        return worker

    def _no_room(self, principal: str) -> ResourceExhausted:
        own = [one for one in self._shared if one.owner == principal]
        others = len(self._shared) - len(own)
        taken = []
        if others:
            taken.append(f"with sessions of other principals, with whom none is shared: {others}")
        if own:
            why = "; ".join(sorted({one.leaves_because for one in own}))
            taken.append(
                f"about to be replaced, once their sessions have ended: {len(own)} ({why})"
            )
        return ResourceExhausted(
            f"no worker for a session of {principal!r}: all {self.max_workers} that this server may have "
            f"(max_workers) are taken ({', '.join(taken)}); try again when sessions have ended",
            retry_after=_RETRY_AFTER,
        )

    def any_for(self, principal: str) -> WorkerHandle:
        """A worker for a question that leaves nothing in it, the principal's own where it has one.

        Raises ResourceExhausted where there is none, and no room for one.
        """
        idle = self._first_of(principal) or self._first_of(None)
        return idle or self.workers_for(principal, 1)[0]

    def _first_of(self, owner: str | None) -> WorkerHandle | None:
        """The worker of this owner, or of nobody, that serves or will serve first."""
        own = [one for one in self._shared if one.owner == owner and one.accepts]
        return min(own, key=lambda one: (one.struggling, not one.served, one.slot), default=None)

    def _successor(self, principal: str) -> WorkerHandle | None:
        """The next worker in the place of one of this principal's that is being ended, so that no other is added."""
        for old in self._shared:
            # One that was never started would not be told of as dead.
            running = old.instance_id in self._present
            if old.owner == principal and old.dismissed.done() and running:
                return self._replace(old)
        return None

    def _add(self) -> WorkerHandle | None:
        """One worker more, on its way; None where there are as many as there may be."""
        slot = len(self._shared)
        if slot == self.max_workers:
            return None
        # The first handle is there before this returns: a caller may place on it.
        worker = self._workers[slot] = self._next(slot)
        self._slots[slot] = asyncio.create_task(self._keep(slot))
        return worker

    def _evict(self, principal: str) -> WorkerHandle | None:
        """A fresh worker in place of an empty one of another principal, or of one that is being ended."""
        empty = [one for one in self._shared if one.load == 0 and one.owner is not None]
        leaving = [one for one in empty if one.dismissed.done()]
        others = [one for one in empty if one.owner != principal]
        old = min(leaving or others, key=lambda one: one.emptied, default=None)
        if old is None:
            return None
        old.end("another principal needs its place", grace=self._settings.close_grace)
        return self._replace(old)

    def _replace(self, old: WorkerHandle) -> WorkerHandle:
        """The next worker in the place of one; it is started once that one is gone."""
        if self._workers[old.slot] is old:
            self._workers[old.slot] = self._next(old.slot)
        return self._workers[old.slot]

    @property
    def workers(self) -> list[WorkerHandle]:
        """The current worker of each slot in use, ready or on its way."""
        return list(self._workers.values())

    @property
    def _shared(self) -> list[WorkerHandle]:
        """Those of them that sessions share."""
        return [one for one in self.workers if one.slot < self.max_workers]

    def _next(self, slot: int) -> WorkerHandle:
        self._incarnations += 1
        return WorkerHandle(slot, self._incarnations, self._settings)

    async def _keep(self, slot: int) -> None:
        """Runs one worker after the other in a slot, for ever."""
        pause = 0.0
        while True:
            worker = self._workers[slot]
            try:
                await asyncio.wait({worker.dismissed}, timeout=pause)
                await self._live(worker)
                # Whoever places a session from here on waits for the next one.
                healthy = worker.hosted > 0 if worker.dismissed.done() else worker.served
                self._replace(worker).struggling = not healthy
                logger.log(logging.WARNING if worker.load else logging.INFO, "%s", worker.loss)
                self._on_death(worker)
            finally:
                await worker.close()
            await self._clear(worker)
            pause = _next_pause(pause, healthy=healthy)

    async def _keep_alone(self, slot: int) -> None:
        """Runs one worker, after which its slot is nobody's."""
        worker = self._workers[slot]
        try:
            await self._live(worker)
            self._on_death(worker)
        finally:
            await worker.close()
        await self._clear(worker)
        del self._workers[slot], self._slots[slot]

    async def _live(self, worker: WorkerHandle) -> None:
        """A worker's life; its `loss` says afterwards how it ended."""
        try:
            worker.died(await self._run(worker))
        except MegaflowError as error:
            worker.failed(error)
        except Exception as error:  # a slot that gives up would keep whoever waits for it for ever
            logger.exception("%s", worker.name)
            worker.failed(Unavailable(f"{type(error).__name__}: {error}"))

    async def _clear(self, worker: WorkerHandle) -> None:
        """Destroys what a dead worker may have left."""
        try:
            await self._backend.destroy(worker.instance_id, grace=0)
        except MegaflowError as error:
            logger.error("%s left something behind: %s", worker.name, error.message)
        self._present.discard(worker.instance_id)

    async def _run(self, worker: WorkerHandle) -> Exit:
        """A worker's life: how it ended. Raises MegaflowError where the backend cannot start it."""
        if worker.dismissed.done():
            return Exit()
        self._present.add(worker.instance_id)
        worker.make_room()
        instance = await self._backend.create(worker.spec())
        worker.pid = instance.pid
        ended = asyncio.create_task(instance.wait())
        connecting = asyncio.create_task(worker.connect(self._on_closed))
        try:
            whatever: set[asyncio.Future[Any]] = {ended, connecting, worker.dismissed}
            await asyncio.wait(
                {*whatever, worker.ready},
                timeout=START_TIMEOUT,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if worker.served:
                await asyncio.wait(whatever, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                # Its connection breaks a moment before its process is gone.
                await asyncio.wait({ended}, timeout=_ENDING)
            if not ended.done():
                await self._destroy(worker, connecting)
            return ended.result() if ended.done() else Exit()
        finally:
            for task in (ended, connecting):
                task.cancel()
            await asyncio.gather(ended, connecting, return_exceptions=True)

    async def _destroy(self, worker: WorkerHandle, connecting: asyncio.Task[None]) -> None:
        """Ends a worker that runs: one that was dismissed, or that does not serve."""
        grace = 0.0
        if worker.dismissed.done():
            grace = worker.dismissed.result()
        else:
            what = f"did not answer in {START_TIMEOUT:g} s"
            if connecting.done():
                what = f"broke off ({connecting.exception() or 'its events ended'})"
            logger.error("%s %s: it is ended", worker.name, what)
            worker.ended_for = f"it {what}"
        destroying = asyncio.create_task(self._backend.destroy(worker.instance_id, grace=grace))
        try:
            # What withstands SIGKILL for a while, in a system call, keeps nobody waiting for the news.
            await asyncio.wait({destroying}, timeout=grace + _KILLING)
        finally:
            destroying.cancel()
            await asyncio.gather(destroying, return_exceptions=True)

    def owns(self, instance: str) -> bool:
        """Whether an instance is one of its workers, or what is left of one that it destroys."""
        return instance in self._present

    async def stop(self, *, grace: float) -> None:
        """Ends all workers, giving their environments so many seconds to close."""
        tasks = [*self._slots.values(), *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(
            *(self._backend.destroy(instance_id, grace=grace) for instance_id in self._present)
        )


def _next_pause(pause: float, *, healthy: bool) -> float:
    """Seconds before the next start: none after a healthy life, growing ones after failures to start."""
    if healthy:
        return 0.0
    return min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
