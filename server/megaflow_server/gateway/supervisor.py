"""Keeps the workers alive: starts them through a backend, notices a death at once, replaces the dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from megaflow.errors import MegaflowError, Unavailable
from megaflow_server.backends.base import Backend, Exit
from megaflow_server.gateway.workers import START_TIMEOUT, WorkerHandle, WorkerSettings

logger = logging.getLogger(__name__)

# Before a worker that never came up is tried again; seconds.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0

# Between the end of a worker's connection and that of its process; seconds.
_ENDING = 5.0


class Supervisor:
    """At most `max_workers` workers, started as they are asked for and replaced when they die.

    `on_death` hears of a worker that died (its `loss` says why), `on_closed` of the id of a shard that
    ended without the gateway's doing.
    """

    def __init__(
        self,
        backend: Backend,
        settings: WorkerSettings,
        *,
        max_workers: int,
        on_death: Callable[[WorkerHandle], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.max_workers = max_workers
        self._backend = backend
        self._settings = settings
        self._on_death = on_death
        self._on_closed = on_closed
        self._workers: dict[int, WorkerHandle] = {}
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._clearing: set[str] = set()
        self._incarnations = 0

    def ensure(self, count: int) -> list[WorkerHandle]:
        """Starts workers until there are so many (or `max_workers`); all there are, ready or on their way."""
        for slot in range(min(count, self.max_workers)):
            if slot not in self._slots:
                # The first handle is there before this returns: a caller may place on it.
                self._workers[slot] = self._next(slot)
                self._slots[slot] = asyncio.create_task(self._keep(slot))
        return list(self._workers.values())

    @property
    def workers(self) -> list[WorkerHandle]:
        """The current worker of each slot in use, ready or on its way."""
        return list(self._workers.values())

    def _next(self, slot: int) -> WorkerHandle:
        self._incarnations += 1
        return WorkerHandle(slot, self._incarnations, self._settings)

    async def _keep(self, slot: int) -> None:
        """Runs one worker after the other in a slot, for ever."""
        pause = 0.0
        while True:
            worker = self._workers[slot]
            try:
                await asyncio.sleep(pause)
                await self._live(worker)
                # Whoever places a session from here on waits for the next one.
                self._workers[slot] = self._next(slot)
                self._workers[slot].struggling = not worker.served
                logger.warning("%s", worker.loss)
                self._on_death(worker)
            finally:
                await worker.close()
            await self._clear(worker)
            pause = _next_pause(pause, healthy=worker.served)

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
        self._clearing.add(worker.instance_id)
        try:
            await self._backend.destroy(worker.instance_id, grace=0)
        except MegaflowError as error:
            logger.error("%s left something behind: %s", worker.name, error.message)
        self._clearing.discard(worker.instance_id)

    async def _run(self, worker: WorkerHandle) -> Exit:
        """A worker's life: how it ended. Raises MegaflowError where the backend cannot start it."""
        instance = await self._backend.create(worker.spec())
        worker.pid = instance.pid
        ended = asyncio.create_task(instance.wait())
        connecting = asyncio.create_task(worker.connect(self._on_closed))
        try:
            first: set[asyncio.Future[Any]] = {ended, connecting, worker.ready}
            await asyncio.wait(first, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if worker.served:
                await asyncio.wait({ended, connecting}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                # Its connection breaks a moment before its process is gone.
                await asyncio.wait({ended}, timeout=_ENDING)
            if not ended.done():
                what = f"did not answer in {START_TIMEOUT:g} s"
                if connecting.done():
                    what = f"broke off ({connecting.exception() or 'its events ended'})"
                logger.error("%s %s: it is ended", worker.name, what)
                await self._backend.destroy(worker.instance_id, grace=0)
            return await ended
        finally:
            for task in (ended, connecting):
                task.cancel()
            await asyncio.gather(ended, connecting, return_exceptions=True)

    async def stop(self, *, grace: float) -> None:
        """Ends all workers, giving their environments so many seconds to close."""
        for task in self._slots.values():
            task.cancel()
        await asyncio.gather(*self._slots.values(), return_exceptions=True)
        instances = {worker.instance_id for worker in self._workers.values()} | self._clearing
        await asyncio.gather(
            *(self._backend.destroy(instance_id, grace=grace) for instance_id in instances)
        )


def _next_pause(pause: float, *, healthy: bool) -> float:
    """Seconds before the next start: none after a healthy life, growing ones after failures to start."""
    if healthy:
        return 0.0
    return min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
