"""Runners whose attempts only sleep, in the orchestrator's own process: what is left is what scheduling costs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from megaflow_server.orchestrator.commands import (
    Advance,
    Claim,
    Claimed,
    Finish,
    RegisterRunner,
    Renew,
)
from megaflow_server.orchestrator.lease_watch import RENEW
from megaflow_server.orchestrator.records import Outcome, Resources
from megaflow_server.orchestrator.seeds import fraction
from megaflow_server.orchestrator.service import Orchestrator

# By how much of their time attempts differ, so that those that begin together do not end together.
SPREAD = 0.2
_DONE = Outcome(valid=True, reward=1.0)
# Attempts in one claim: with more, runners that start together wait for each other's transactions.
_MOST_CLAIMED = 20
# Seconds that a claim waits for tasks.
_WAIT = 1.0


@dataclass
class Seen:
    """What sleepers saw.

    Attributes:
        since: when runners came, by the orchestrator's clock.
        waited: from each task's queueing, or from then on, to its claim; seconds.
        overhead: from each attempt's claim to the answer to its end, less its sleep; seconds.
        claims: when each claim that was given something began (monotonic), and how long it took; seconds.
        ended: when each end was answered; monotonic.
        running, most: attempts that sleep now, and the most that did at once.
        full_at: when there were the most; monotonic.
    """

    since: float
    waited: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    claims: list[tuple[float, float]] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    running: int = 0
    most: int = 0
    full_at: float = 0.0


class Sleeper:
    """One runner.

    Args:
        name: as no runner before it.
        slots: attempts at once.
        sleep: seconds that each lasts, on average: see `SPREAD`.
    """

    def __init__(
        self, orchestrator: Orchestrator, name: str, slots: int, sleep: float, seen: Seen
    ) -> None:
        self._orchestrator = orchestrator
        self._name, self._slots, self._sleep = name, slots, sleep
        self._seen = seen
        self._free = slots
        self._freed = asyncio.Event()
        self._requests = 0

    async def run(self) -> None:
        """Works until it is cancelled."""
        await self._orchestrator.ask(RegisterRunner(self._name, Resources(self._slots)))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            while True:
                for one in await self._claim():
                    self._free -= 1
                    group.create_task(self._attempt(one, time.monotonic()))

    async def _renew(self) -> None:
        while True:
            await self._orchestrator.ask(Renew(self._name))
            await asyncio.sleep(RENEW)

    async def _claim(self) -> list[Claimed]:
        while self._free == 0:
            self._freed.clear()
            await self._freed.wait()
        self._requests += 1
        most = min(self._free, _MOST_CLAIMED)
        begun = time.monotonic()
        claimed = await self._orchestrator.claim(Claim(self._name, most, self._requests), _WAIT)
        if claimed:  # else it may have waited for tasks
            self._seen.claims.append((begun, time.monotonic() - begun))
        return claimed

    async def _attempt(self, claimed: Claimed, begun: float) -> None:
        seen, task = self._seen, claimed.task
        seen.waited.append(max(0.0, task.started - max(task.queued, seen.since)))
        seen.running += 1
        if seen.running > seen.most:
            seen.most, seen.full_at = seen.running, begun
        await self._orchestrator.advance(Advance(task.id, task.fence))
        sleep = self._sleep * (1.0 - SPREAD + 2.0 * SPREAD * fraction("sleep", task.id))
        if sleep:
            await asyncio.sleep(sleep)
        seen.running -= 1
        finished = await self._orchestrator.finish(Finish(task.id, task.fence, _DONE))
        if not finished.accepted:
            raise AssertionError(f"{task.id}: {finished.reason}")
        now = time.monotonic()
        seen.overhead.append(now - begun - sleep)
        seen.ended.append(now)
        self._free += 1
        self._freed.set()
