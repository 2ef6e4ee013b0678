"""Shares and quotas, through a running orchestrator over SQLite."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from megaflow_server.orchestrator.commands import (
    AddTasks,
    Claim,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
    SetTenant,
)
from megaflow_server.orchestrator.records import Outcome, Resources
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store

DONE = Outcome(True, 1.0)


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    store = open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    async with Orchestrator(store) as orchestrator:
        yield orchestrator
    store.close()


async def submit(orchestrator: Orchestrator, tenant: str, count: int) -> None:
    await orchestrator.ask(CreateJob(f"of-{tenant}", tenant, 1))
    for begin in range(0, count, 500):
        tasks = tuple(NewTask(begin + i, "{}") for i in range(min(500, count - begin)))
        await orchestrator.ask(AddTasks(f"of-{tenant}", tenant, tasks))


async def test_ten_thousand_tasks_of_one_tenant_delay_anothers_single_one_by_no_second(
    orchestrator: Orchestrator,
) -> None:
    await submit(orchestrator, "heavy", 10_000)
    await orchestrator.ask(RegisterRunner("r", Resources(50)))
    held = await orchestrator.claim(Claim("r", 50, 1), 0)
    await submit(orchestrator, "light", 1)
    assert len(held) == 50
    begun = time.monotonic()
    await orchestrator.finish(Finish(held[0].task.id, held[0].task.fence, DONE))
    (next_,) = await orchestrator.claim(Claim("r", 50, 2), 30)
    assert next_.task.tenant == "light"
    assert time.monotonic() - begun < 1.0


async def test_shares_hold_within_a_tenth_of_the_weights_while_tasks_come_and_go(
    orchestrator: Orchestrator,
) -> None:
    weights = {"ann": 1.0, "bob": 3.0, "cem": 4.0}
    for name, weight in weights.items():
        await orchestrator.ask(SetTenant(name, weight))
        await submit(orchestrator, name, 1500)
    await orchestrator.ask(RegisterRunner("r", Resources(80)))
    held = []
    started: Counter[str] = Counter()
    for number in range(1, 26):
        claimed = await orchestrator.claim(Claim("r", 80, number), 0)
        started.update(one.task.tenant for one in claimed)
        held += claimed
        running = Counter(one.task.tenant for one in held)
        for name, weight in weights.items():
            assert running[name] == pytest.approx(80 * weight / 8, abs=1 + 8 * weight / 8)
        for one in held[:40]:
            await orchestrator.finish(Finish(one.task.id, one.task.fence, DONE))
        held = held[40:]
    for name, weight in weights.items():
        assert started[name] == pytest.approx(started.total() * weight / 8, rel=0.1)


async def test_a_quota_holds_and_leaves_the_rest_to_others(orchestrator: Orchestrator) -> None:
    await orchestrator.ask(SetTenant("ann", most=7))
    await submit(orchestrator, "ann", 100)
    await submit(orchestrator, "bob", 100)
    await orchestrator.ask(RegisterRunner("r", Resources(50)))
    claimed = await orchestrator.claim(Claim("r", 50, 1), 0)
    assert Counter(one.task.tenant for one in claimed) == {"ann": 7, "bob": 43}
