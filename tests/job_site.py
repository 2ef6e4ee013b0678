"""A server that keeps tasks, with a runner that says how attempts end, beside a test that runs commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store
from megaflow_server.worker import in_process
from runner_rig import FakeRunner

__all__ = ["Executed", "Site", "rewarded"]

Executed = Callable[[pb.Attempt], pb.Outcome]


def rewarded(reward: float) -> pb.Outcome:
    return pb.Outcome(valid=True, reward=reward, rewards={"reward": reward})


class Site:
    """A server in a thread, with a runner whose attempts end as `executed` says; None: no runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.executed: Executed | None = lambda _: rewarded(1.0)
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> Site:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with AsyncExitStack() as stack:
            store = open_store(f"sqlite:///{self.folder / 'tasks.db'}")
            stack.callback(store.close)
            orchestrator = await stack.enter_async_context(Orchestrator(store))
            settings = GatewaySettings(
                folder=self.folder,
                listen=[f"unix:{self.folder / 'g.sock'}"],
                max_workers=1,
                warm_workers=1,
                stop_grace=0.1,
            )
            backend = FakeBackend(in_process.run)
            gateway = await stack.enter_async_context(Gateway(settings, backend, orchestrator))
            (self.address,) = gateway.addresses
            runner = await stack.enter_async_context(FakeRunner(self.address, "r", 50))
            work = asyncio.create_task(self._work(runner))
            self._ready.set()
            await self._over.wait()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, runner: FakeRunner) -> None:
        while True:
            await runner.renew()
            if self.executed is None:
                await asyncio.sleep(0.1)
            elif attempts := await runner.claim(50, wait=0.2):
                # As the test has it now, which may have changed during that wait.
                await runner.finish(attempts, self._end)

    def _end(self, attempt: pb.Attempt) -> pb.Outcome:
        assert self.executed is not None
        return self.executed(attempt)
