"""How shards end: their workers close them, or end with them.

A thread cannot be killed: what hangs in a worker stays in it, and may keep its interpreter busy, until the
worker ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from megaflow.errors import MegaflowError
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.records import Shard
from megaflow_server.gateway.workers import RemoteRefusal, WorkerHandle

logger = logging.getLogger(__name__)

_CALL_TIMEOUT = 5.0
# What an environment that nobody uses any more gets to end its step and close; seconds.
_END_GRACE = 3.0
# What it gets of that with the sandboxes that were lent to it: a step that waits for one ends without it.
_LENT_GRACE = 2.0
# The same for one that was given up because it did not end its step, before others go with it.
_GIVEN_UP_GRACE = 1.0
# How many shards are closed at once: each is a call, and thousands may end together.
_AT_ONCE = 64


class Closing:
    """Has workers close shards, and takes down which of them do not come to an end.

    Args:
        on_unused: called with the id of a shard that is to use nothing any more: its worker is no more, or
            it has had its time to close.
    """

    def __init__(self, on_unused: Callable[[str], None]) -> None:
        self._on_unused = on_unused
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        # What its worker was told to close and has not said to have closed.
        self._unclosed: dict[str, WorkerHandle] = {}
        # The same, since longer than that may take, or because it was given up.
        self._stuck: dict[str, WorkerHandle] = {}
        # Done when one that was given up has ended after all.
        self._given_up: dict[str, asyncio.Future[None]] = {}

    def close_later(self, shards: Iterable[Shard]) -> None:
        """Closes shards without anybody's waiting for it."""
        for shard in shards:
            self._start(asyncio.create_task(self.close(shard)))

    async def settle(self, within: float) -> None:
        """Waits for what is being closed, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    async def stop(self) -> None:
        """Closes no more: the workers are about to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self, shard: Shard) -> None:
        """Has its worker close a shard; one that is not there is fine."""
        worker = shard.worker
        reason = shard.session.ended or (shard.loss.message if shard.loss else "")
        request = pb.CloseShardRequest(shard_id=shard.id, reason=reason)
        async with self._turns:
            if worker.loss is not None or not worker.served:
                self._on_unused(shard.id)
                return
            self._unclosed[shard.id] = worker
            loop = asyncio.get_running_loop()
            loop.call_later(_LENT_GRACE, self._on_unused, shard.id)
            loop.call_later(_END_GRACE, self._check_closed, shard.id)
            try:
                await worker.call(
                    lambda stub: stub.CloseShard(
                        request, metadata=worker.metadata, timeout=_CALL_TIMEOUT
                    ),
                    deadline=f"not closed within {_CALL_TIMEOUT:g} s",
                )
            except (RemoteRefusal, MegaflowError) as error:
                logger.warning("closing shard %s on %s: %s", shard.id, worker.name, error)

    def is_under_way_on(self, worker: WorkerHandle) -> bool:
        return worker in self._unclosed.values()

    async def give_up(self, shard: Shard, reason: str) -> None:
        """Ends a lost shard in which a step does not end; returns when its worker is rid of it, or is being ended.

        A worker that does not close it within a second is ended, with all that it has besides.
        """
        # Also when the session ends meanwhile, with whoever waits for this.
        await asyncio.shield(self._start(asyncio.create_task(self._end_together(shard, reason))))

    async def _end_together(self, shard: Shard, reason: str) -> None:
        ended = self._given_up[shard.id] = asyncio.get_running_loop().create_future()
        self._stick(shard.id, shard.worker)  # nothing is to be placed there meanwhile
        self.close_later([shard])
        try:
            await asyncio.wait({ended}, timeout=_GIVEN_UP_GRACE)
        finally:
            del self._given_up[shard.id]
        if not ended.done():
            shard.worker.end(f"what was given up in it did not end: {reason}")

    def _start(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_closed(self, shard_id: str) -> None:
        worker = self._unclosed.pop(shard_id, None)
        if worker is not None and worker.loss is None and shard_id not in self._stuck:
            self._stick(shard_id, worker)

    def _stick(self, shard_id: str, worker: WorkerHandle) -> None:
        self._stuck[shard_id] = worker
        worker.stick()

    def closed(self, shard_id: str) -> None:
        """A worker has closed a shard, because it was told to or by its client."""
        self._unclosed.pop(shard_id, None)
        stuck = self._stuck.pop(shard_id, None)
        if stuck is not None:
            stuck.unstick()
        given_up = self._given_up.get(shard_id)
        if given_up is not None and not given_up.done():
            given_up.set_result(None)

    def worker_died(self, worker: WorkerHandle) -> None:
        """Forgets what the worker was to close."""
        for shard_id, one in self._unclosed.items():
            if one is worker:
                self._on_unused(shard_id)
        self._unclosed = {key: one for key, one in self._unclosed.items() if one is not worker}
        self._stuck = {key: one for key, one in self._stuck.items() if one is not worker}
