"""Several servers over one PostgreSQL: what one is told, the others act on at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelTask,
    Claim,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
    Renew,
    SealJob,
)
from megaflow_server.orchestrator.records import Outcome, Resources
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store
from postgres_server import PostgresServer

DONE = Outcome(True, 1.0)

pytestmark = pytest.mark.requires("postgres")


async def test_what_one_is_told_the_other_acts_on_at_once(postgres: PostgresServer) -> None:
    async with AsyncExitStack() as stack:
        stores = [open_store(postgres.url) for _ in range(2)]
        for store in stores:
            stack.callback(store.close)
        here, there = [await stack.enter_async_context(Orchestrator(store)) for store in stores]
        await there.ask(RegisterRunner("pg-r", Resources(10)))
        number = 1
        while await there.claim(Claim("pg-r", 10, number), 0.0):
            number += 1
        waiting = asyncio.create_task(there.claim(Claim("pg-r", 10, number + 1), 30.0))
        await asyncio.sleep(0.2)
        await here.ask(CreateJob("pg-j", "ann", 1))
        await here.ask(AddTasks("pg-j", "ann", (NewTask(0, "{}"), NewTask(1, "{}"))))
        await here.seal(SealJob("pg-j", "ann"))
        async with asyncio.timeout(10):  # the claim would wait for 30
            claimed = await waiting
        assert len(claimed) == 2

        results = asyncio.create_task(here.results("ann", "pg-j", 0, 10, 30.0))
        await asyncio.sleep(0.2)
        first, second = claimed
        await there.finish(Finish(first.task.id, first.task.fence, DONE))
        async with asyncio.timeout(10):
            _, found = await results
        assert [task.id for task in found] == [first.task.id]

        await here.ask(CancelTask(second.task.id, "ann"))
        renewed = await there.ask(Renew("pg-r"))
        assert renewed.revoked == ((second.task.id, second.task.fence),)
        finished = await there.finish(Finish(second.task.id, second.task.fence, DONE))
        assert not finished.accepted
