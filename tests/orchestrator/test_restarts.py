"""A client's job outlives the server that it was submitted to, and the client waits for the next one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from megaflow import AsyncClient, Result, Task
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store
from megaflow_server.worker import in_process
from runner_rig import FakeRunner

TASK = Task("CartPole-v1", "random")


async def serve(folder: Path, stack: AsyncExitStack) -> str:
    store = open_store(f"sqlite:///{folder / 'tasks.db'}")
    stack.callback(store.close)
    orchestrator = await stack.enter_async_context(Orchestrator(store))
    settings = GatewaySettings(
        folder=folder,
        listen=[f"unix:{folder / 'g.sock'}"],
        max_workers=1,
        warm_workers=1,
        stop_grace=0.1,
    )
    gateway = Gateway(settings, FakeBackend(in_process.run), orchestrator)
    await stack.enter_async_context(gateway)
    return gateway.addresses[0]


async def test_results_go_on_after_the_server_was_restarted(tmp_path: Path) -> None:
    found: list[Result] = []
    first = asyncio.Event()

    async with AsyncExitStack() as clients:
        async with AsyncExitStack() as servers:
            address = await serve(tmp_path, servers)
            client = await clients.enter_async_context(AsyncClient(address))
            job = await client.submit([TASK] * 10)

            async def collect() -> None:
                async for result in job.results(timeout=60):
                    found.append(result)
                    first.set()

            collecting = asyncio.create_task(collect())
            async with FakeRunner(address, "one", 10) as runner:
                attempts = await runner.claim(10)
                await runner.finish(attempts[:4])
                await first.wait()
        assert not collecting.done()
        async with AsyncExitStack() as servers:
            address = await serve(tmp_path, servers)
            # The runner lives on, and what it holds is its own still.
            runner = FakeRunner(address, "one", 10)
            verdicts = await runner.finish(attempts[4:])
            assert all(verdict.accepted for verdict in verdicts)
            await runner.__aexit__()
            async with asyncio.timeout(60):
                await collecting
    assert [result.done for result in found] == list(range(1, 11))
