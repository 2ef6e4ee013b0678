"""What may start: no more of a kind at once than a server builds, and none where starting keeps failing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Advance,
    Claim,
    Claimed,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
)
from megaflow_server.orchestrator.explaining import waits_for
from megaflow_server.orchestrator.records import Failure, FailureKind, Outcome, Resources
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.starts import Grant, Starts
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.pool.breaker import OPEN_SECONDS

MOST = 4
# Seconds; longer than what tests do with a runner.
EXPIRES = 3.0
PATIENCE = 30.0


def outage(kind: FailureKind = FailureKind.INFRASTRUCTURE, phase: str = "starting") -> Outcome:
    return Outcome(False, failure=Failure(kind, phase, "the registry is away"))


class Scene:
    """An orchestrator over a store in memory, with one large runner; what starts is on a clock of the test's own."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.now = 1000.0
        self.store = MemoryStore()
        self.starts = Starts(MOST, lambda: self.now)
        self._stack = stack
        self.claims = 0

    async def begin(self) -> None:
        self.orchestrator = await self._stack.enter_async_context(
            Orchestrator(self.store, starts=self.starts, expires=EXPIRES)
        )
        await self.orchestrator.ask(RegisterRunner("r", Resources(1000)))

    async def submit(self, environment: str, tasks: int, tenant: str = "ann") -> None:
        job = f"{tenant}-{environment}"
        new = tuple(NewTask(one, "{}", environment=environment) for one in range(tasks))
        await self.orchestrator.ask(CreateJob(job, tenant, 1))
        await self.orchestrator.ask(AddTasks(job, tenant, new))

    async def claim(self, most: int = 100) -> list[Claimed]:
        self.claims += 1
        return await self.orchestrator.claim(Claim("r", most, self.claims), 0.0)

    async def began(self, claimed: Claimed) -> None:
        await self.orchestrator.advance(Advance(claimed.task.id, claimed.task.fence))

    async def failed(self, claimed: Claimed, **how: Any) -> None:
        await self.orchestrator.finish(Finish(claimed.task.id, claimed.task.fence, outage(**how)))

    def why(self, environment: str, tenant: str = "ann") -> str:
        return self.starts.why(tenant, environment) or ""


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        scene = Scene(stack)
        await scene.begin()
        yield scene


def environments(claimed: list[Claimed]) -> list[str]:
    return sorted(one.task.environment for one in claimed)


async def test_of_a_kind_so_many_start_at_once_and_others_go_ahead(scene: Scene) -> None:
    await scene.submit("slow", 20)
    await scene.submit("quick", 2)
    first = await scene.claim()
    assert environments(first) == ["quick"] * 2 + ["slow"] * MOST
    assert await scene.claim() == []
    assert "one of the 4 slow that are being made" in scene.why("slow")
    assert scene.why("quick") == ""
    slow = [one for one in first if one.task.environment == "slow"]
    await scene.began(slow[0])
    await scene.failed(slow[1], kind=FailureKind.ENVIRONMENT)
    assert environments(await scene.claim()) == ["slow"] * 2


async def test_one_tenants_do_not_keep_anothers_from_starting(scene: Scene) -> None:
    await scene.submit("slow", 20)
    assert len(await scene.claim()) == MOST
    await scene.submit("slow", 1, "bob")
    assert [one.task.tenant for one in await scene.claim()] == ["bob"]


async def test_what_keeps_failing_to_start_is_not_started_and_then_tried_alone(
    scene: Scene,
) -> None:
    await scene.submit("broken", 40)
    for _ in range(2):
        for one in await scene.claim():
            await scene.failed(one)
        scene.now += 10.0
    assert await scene.claim() == []
    assert "kept failing: the registry is away" in scene.why("broken")
    await scene.submit("other", 3)
    assert environments(await scene.claim()) == ["other"] * 3

    scene.now += OPEN_SECONDS
    (alone,) = await scene.claim()
    assert await scene.claim() == []
    await scene.failed(alone)
    assert await scene.claim() == []
    scene.now += OPEN_SECONDS
    (alone,) = await scene.claim()
    await scene.began(alone)
    assert len(await scene.claim()) == MOST


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (FailureKind.ENVIRONMENT, "starting"),
        (FailureKind.RUNNER_LOST, "starting"),
        (FailureKind.INFRASTRUCTURE, "running"),
    ],
)
async def test_what_says_nothing_of_the_infrastructure_stops_nothing(
    scene: Scene, kind: FailureKind, phase: str
) -> None:
    await scene.submit("fine", 40)
    for _ in range(3):
        claimed = await scene.claim()
        assert len(claimed) == MOST
        for one in claimed:
            await scene.failed(one, kind=kind, phase=phase)


async def test_who_waits_is_told_when_the_time_is_over(scene: Scene) -> None:
    await scene.submit("broken", 40)
    while claimed := await scene.claim():
        for one in claimed:
            await scene.failed(one)
        scene.now += 6.0
    scene.now += OPEN_SECONDS
    scene.claims += 1
    # Far less than it would wait, were it not rung for.
    assert len(await scene.orchestrator.claim(Claim("r", 100, scene.claims), 30.0)) == 1


@pytest.mark.long
async def test_what_a_lost_runner_started_holds_nobody_back(scene: Scene) -> None:
    await scene.submit("slow", 20)
    assert len(await scene.claim()) == MOST
    assert scene.starts.runners() == {"r"}
    async with asyncio.timeout(PATIENCE):
        while scene.starts.runners():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    await scene.orchestrator.ask(RegisterRunner("s", Resources(1000)))
    claimed = await scene.orchestrator.claim(Claim("s", 100, 1), PATIENCE)
    assert len(claimed) == MOST


async def test_why_says_what_is_waited_for(scene: Scene) -> None:
    await scene.submit("slow", 20)
    await scene.claim()
    task = scene.store.find_task("ann-slow/19")
    assert task is not None
    reasons = waits_for(scene.store, task, 0.0, held=scene.orchestrator.held(task))
    assert reasons[0].startswith("one of the 4 slow that are being made")


async def test_a_claim_that_is_repeated_or_fails_takes_nothing_more(scene: Scene) -> None:
    await scene.submit("slow", 20)
    first = await scene.claim(1)
    again = await scene.orchestrator.claim(Claim("r", 1, scene.claims), 0.0)
    assert [one.task.id for one in again] == [one.task.id for one in first]
    assert len(await scene.claim()) == MOST - 1


def test_a_transaction_that_is_tried_again_counts_once() -> None:
    store, starts = MemoryStore(), Starts(MOST, lambda: 0.0)
    tasks = tuple(NewTask(one, "{}", environment="slow") for one in range(20))
    setup = (RegisterRunner("r", Resources(100)), CreateJob("j", "ann", 1))
    carry_out(store, [*setup, AddTasks("j", "ann", tasks)], lambda: 0.0, RetryPolicy())
    grant = starts.grant("r")
    for number in (1, 2):  # as after a conflict, of which nothing is kept
        (given,) = carry_out(store, [Claim("r", 2, number, grant)], lambda: 0.0, RetryPolicy())
    grant.settle({(one.task.id, one.task.fence) for one in given})
    rest = Grant(starts, "r")
    (claimed,) = carry_out(store, [Claim("r", 9, 3, rest)], lambda: 0.0, RetryPolicy())
    assert len(claimed) == MOST - 2
    rest.settle(())  # its transaction failed
    (claimed,) = carry_out(store, [Claim("r", 9, 4, starts.grant("r"))], lambda: 0.0, RetryPolicy())
    assert len(claimed) == MOST - 2
