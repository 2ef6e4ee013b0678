"""What sessions of tasks use at most, so that tasks like them are packed by what they need.

A worker has several sessions, and what it takes is shared out by how many sub-environments each has there. What a
sandbox takes is its session's alone. Memory is the most that was seen at one look; cores are the mean of the busiest
minute, and of its whole life in a session that has less: a core that is busy for a moment is nobody else's loss.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from megaflow.errors import MegaflowError
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends.base import Stats
from megaflow_server.gateway.lending import Lent
from megaflow_server.gateway.processes import usage
from megaflow_server.gateway.records import Session

__all__ = ["Meter", "Peaks"]

logger = logging.getLogger(__name__)

# Between two looks; seconds.
INTERVAL: Final = 2.0
# The same as a multiple of what the last look took: an engine with a thousand sandboxes has other things to do.
_REST: Final = 4.0
# Over how long cores are averaged; seconds.
_WINDOW: Final = 60.0
# For how long what a session used is kept after its end, for who opened it to ask; seconds.
_KEPT: Final = 60.0
# Sandboxes that are looked at at once: an engine answers for each.
_AT_ONCE: Final = 8


class Used(NamedTuple):
    """Processor seconds so far, and bytes now."""

    cpu_seconds: float
    memory: int


class Meter:
    """The most that one session used."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._looks: deque[tuple[float, float]] = deque()
        self._busiest = 0.0
        self._memory = 0

    def look(self, now: float, seconds: float, memory: int) -> None:
        """So many processor seconds since the look before, and so many bytes now."""
        self._seconds += seconds
        self._memory = max(self._memory, memory)
        self._looks.append((now, self._seconds))
        while len(self._looks) > 2 and self._looks[1][0] <= now - _WINDOW:
            self._looks.popleft()
        began, before = self._looks[0]
        if now - began >= _WINDOW:
            self._busiest = max(self._busiest, (self._seconds - before) / (now - began))

    @property
    def peak(self) -> pb.Amount | None:
        """None before two looks: there is nothing to be said of cores then."""
        if len(self._looks) < 2:
            return None
        (began, before), (ended, after) = self._looks[0], self._looks[-1]
        cores = self._busiest or (after - before) / (ended - began)
        return pb.Amount(cpu=cores, memory=self._memory)


class Peaks:
    """Looks at the sessions that are to be measured.

    Args:
        sessions: those that there are.
        lent: what sandboxes they have.
    """

    def __init__(
        self,
        sessions: Callable[[], Iterable[Session]],
        lent: Callable[[], Sequence[Lent]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._lent = lent
        self._clock = clock
        self._meters: dict[tuple[str, str], Meter] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._before: dict[str, float] = {}

    async def watch(self) -> None:
        """Looks, for ever."""
        took = 0.0
        while True:
            await asyncio.sleep(max(INTERVAL, _REST * took))
            began = self._clock()
            try:
                await self.look()
            except Exception:  # the next look may go better
                logger.exception("what sessions use cannot be measured")
            took = self._clock() - began

    async def look(self) -> None:
        """Looks once."""
        sessions = [one for one in self._sessions() if one.measured and not one.opening]
        used = await self._workers(sessions)
        used |= await self._sandboxes({one.id for one in sessions})
        now = self._clock()
        spent = {
            name: max(0.0, one.cpu_seconds - self._before.get(name, one.cpu_seconds))
            for name, one in used.items()
        }
        self._before = {name: one.cpu_seconds for name, one in used.items()}
        sandboxes = [one for one in self._lent() if one.leased.id in used]
        for session in sessions:
            seconds, memory = 0.0, 0.0
            for shard in session.shards.values():
                worker = shard.worker
                if worker.instance_id in used and shard.loss is None:
                    share = shard.count / max(1, worker.load)
                    seconds += share * spent[worker.instance_id]
                    memory += share * used[worker.instance_id].memory
            for lent in sandboxes:
                if lent.shard.session is session:
                    seconds += spent[lent.leased.id]
                    memory += used[lent.leased.id].memory
            key = (session.owner, session.id)
            self._seen[key] = now
            self._meters.setdefault(key, Meter()).look(now, seconds, round(memory))
        for key in [key for key, seen in self._seen.items() if seen < now - _KEPT]:
            del self._seen[key]
            del self._meters[key]

    def take(self, session_id: str, owner: str) -> pb.Amount | None:
        """What a session of this owner's used at most, as far as that was measured; said once."""
        key = (owner, session_id)
        self._seen.pop(key, None)
        meter = self._meters.pop(key, None)
        return None if meter is None else meter.peak

    async def _workers(self, sessions: Sequence[Session]) -> dict[str, Used]:
        """By the ids of their instances; those in containers are not looked into."""
        workers = {
            shard.worker.pid: shard.worker
            for session in sessions
            for shard in session.shards.values()
            if shard.worker.pid is not None and shard.worker.serves
        }
        if not workers:
            return {}
        found = await asyncio.to_thread(usage, list(workers), exact_from=0)
        return {
            workers[pid].instance_id: Used(one.cpu_seconds, one.memory)
            for pid, one in found.items()
            if one.processes
        }

    async def _sandboxes(self, sessions: set[str]) -> Mapping[str, Used]:
        """By the ids of their instances; those that do not say are left out."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(lent: Lent) -> Stats | None:
            async with turn:
                try:
                    return await lent.leased.stats()
                except MegaflowError:  # it is just ending, or its engine is away
                    return None

        lent = [one for one in self._lent() if one.shard.session.id in sessions]
        found = await asyncio.gather(*map(one, lent))
        return {
            each.leased.id: Used(stats.cpu_seconds, stats.memory)
            for each, stats in zip(lent, found, strict=True)
            if stats is not None
        }
