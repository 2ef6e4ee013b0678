"""The orchestrator benchmark: very many tasks that sleep, and what scheduling adds to them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from megaflow_server.bench.sleepers import Seen, Sleeper
from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelJob,
    CreateJob,
    NewTask,
    SealJob,
    SetTenant,
)
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store

# Tasks in one command, as the gateway's.
_AT_ONCE = 200
_DOCUMENT = '{"agent":"sleep","environment":"none"}'


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        sizes: how many tasks sleep at once.
        sleep: for how many seconds.
        queued: tasks that wait behind them.
        rate_tasks: tasks that do not sleep, for the completions per second.
        runners: how many there are.
        tenants: among how many, each with a weight and a quota, the tasks that do not sleep are shared the second time.
        store: a URL; None: SQLite in a temporary folder.
    """

    sizes: Sequence[int]
    sleep: float
    queued: int
    rate_tasks: int
    runners: int
    tenants: int
    store: str | None


@dataclass(frozen=True)
class Load:
    """What was measured with so many tasks at once.

    Attributes:
        tenants: who submitted them; where there are several, each has a weight and a quota.
        ramp: seconds from the first claim until all of them slept.
        submitted: tasks a second, those that wait included.
        claims: from each claim to its answer, of tasks that sleep once all slots were full; seconds.
        memory: of this process, runners included, while all of them slept; bytes.
        rate: tasks completed a second, from claim to result.
    """

    tasks: int
    sleep: float
    tenants: int
    submitted: float
    ramp: float
    waited: Sequence[float]
    overhead: Sequence[float]
    claims: Sequence[float]
    transactions: float
    memory: int
    rate: float


async def measure(plan: Plan, say: Callable[[str], None]) -> AsyncIterator[Load]:
    """One load after the other: each of the sizes, then tasks that do not sleep, of one tenant and of several."""
    for size in plan.sizes:
        say(f"{size:,} tasks of {plan.sleep:g} s, and {plan.queued:,} behind them")
        with _url(plan.store) as url:
            async with _orchestrator(url) as orchestrator:
                yield await _load(orchestrator, plan, size, plan.queued, plan.sleep, 1)
    for tenants in sorted({1, plan.tenants}) if plan.rate_tasks else ():
        say(f"{plan.rate_tasks:,} tasks of 0 s, of {tenants} tenant{'s' if tenants > 1 else ''}")
        with _url(plan.store) as url:
            async with _orchestrator(url) as orchestrator:
                yield await _load(orchestrator, plan, plan.rate_tasks, 0, 0.0, tenants)


@contextmanager
def _url(store: str | None) -> Iterator[str]:
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder:
        yield f"sqlite:///{Path(folder) / 'tasks.db'}"


@asynccontextmanager
async def _orchestrator(url: str) -> AsyncIterator[Orchestrator]:
    store = await asyncio.to_thread(open_store, url)
    try:
        async with Orchestrator(store) as orchestrator:
            yield orchestrator
    finally:
        store.close()


async def _load(
    orchestrator: Orchestrator, plan: Plan, size: int, queued: int, sleep: float, tenants: int
) -> Load:
    run = f"bench-{time.time_ns()}"
    slots = -(-(size if sleep else min(size, 2000)) // plan.runners)
    every = [f"{run}-{number}" for number in range(tenants)]
    begun = time.monotonic()
    for number, tenant in enumerate(every):
        if tenants > 1:  # a quota that some of them reach
            most = 2 * slots * plan.runners // tenants
            await orchestrator.ask(SetTenant(tenant, weight=1.0 + number % 4, most=most))
        await _submit(orchestrator, tenant, len(range(number, size + queued, tenants)))
    submitted = (size + queued) / (time.monotonic() - begun)
    seen = Seen(since=orchestrator.clock())
    sleepers = [
        Sleeper(orchestrator, f"{run}-runner-{number}", slots, sleep, seen)
        for number in range(plan.runners)
    ]
    begun = time.monotonic()
    running = [asyncio.create_task(sleeper.run()) for sleeper in sleepers]
    memory = await _until(seen, size, running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if plan.store is not None:  # the next load is alone in that store
        for tenant in every:
            while await orchestrator.ask(CancelJob(tenant, tenant)):
                pass
    histogram = orchestrator.figures.transactions
    return Load(
        tasks=size,
        sleep=sleep,
        tenants=tenants,
        submitted=submitted,
        ramp=seen.full_at - begun,
        waited=seen.waited[:size],
        overhead=seen.overhead[:size],
        claims=_claims(seen, sleep),
        transactions=histogram.sum / max(1, sum(histogram.counts)),
        memory=memory,
        rate=len(seen.ended) / (seen.ended[-1] - begun),
    )


def _claims(seen: Seen, sleep: float) -> Sequence[float]:
    """How long claims took: of tasks that sleep, once all slots were full, where there were any after that."""
    later = [took for begun, took in seen.claims if sleep and begun > seen.full_at]
    return later or [took for _, took in seen.claims]


async def _submit(orchestrator: Orchestrator, tenant: str, count: int) -> None:
    """A job of so many tasks, named as its tenant."""
    await orchestrator.ask(CreateJob(tenant, tenant, 0))
    for begin in range(0, count, _AT_ONCE):
        numbers = range(begin, min(count, begin + _AT_ONCE))
        tasks = tuple(NewTask(number, _DOCUMENT) for number in numbers)
        await orchestrator.ask(AddTasks(tenant, tenant, tasks))
    await orchestrator.ask(SealJob(tenant, tenant))


async def _until(seen: Seen, size: int, running: Sequence[asyncio.Task[None]]) -> int:
    """Waits until so many have ended: the memory that this process took at most meanwhile."""
    memory = 0
    while len(seen.ended) < size:
        done, _ = await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()  # why it ended
        memory = max(memory, _resident())
    return memory


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no VmRSS")
