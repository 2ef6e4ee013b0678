"""A gateway over workers in this process, and a client of it, for tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.backends.base import InstanceSpec
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.worker import in_process
from worker_rig import PATIENCE, OddEnv

T = TypeVar("T")


class Bench:
    """A gateway on the fake backend, and a client of it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.bodies: dict[str, in_process.InProcessWorker] = {}
        self.backend = FakeBackend(self._run)

    def _run(self, spec: InstanceSpec) -> in_process.InProcessWorker:
        self.bodies[spec.id] = in_process.run(spec)
        return self.bodies[spec.id]

    async def start(
        self,
        *,
        max_workers: int = 2,
        warm: int = 2,
        sessions: SessionSettings | None = None,
        heartbeat_timeout: float = 60.0,
    ) -> None:
        settings = GatewaySettings(
            folder=self._folder,
            listen=[f"unix:{self._folder / 'gateway.sock'}"],
            max_workers=max_workers,
            warm_workers=warm,
            # A worker that is killed here waits for its environments to close, which a gate keeps from doing.
            stop_grace=0.1,
            sessions=sessions or SessionSettings(),
            heartbeat_timeout=heartbeat_timeout,
        )
        self.gateway = await self._stack.enter_async_context(Gateway(settings, self.backend))
        (self.address,) = self.gateway.addresses
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.address))
        self.stub: Any = pb_grpc.GatewayStub(channel)

    async def call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            message = failures.message_of(error)
            if message is None:
                raise
            failed = failures.from_message(message)
            raise failed from failed.__cause__

    async def open(
        self, spec: pb.EnvironmentSpec, request_id: str = "", **fields: Any
    ) -> pb.OpenSessionResponse:
        request = pb.OpenSessionRequest(
            request_id=request_id or secrets.token_hex(16), environment=spec, **fields
        )
        return await self.call(self.stub.OpenSession(request, timeout=PATIENCE))

    async def describe(self, session_id: str, shard_id: str) -> pb.ShardStatus:
        request = pb.DescribeShardRequest(session_id=session_id, shard_id=shard_id)
        return await self.call(self.stub.DescribeShard(request, timeout=PATIENCE))

    async def reopen(
        self, session_id: str, shard_id: str, request_id: str = "", given_up: str = ""
    ) -> pb.Shard:
        request = pb.ReopenShardRequest(
            request_id=request_id, session_id=session_id, shard_id=shard_id, given_up=given_up
        )
        return await self.call(self.stub.ReopenShard(request, timeout=PATIENCE))

    async def renew(self, *session_ids: str, released: Sequence[str] = ()) -> dict[str, Exception]:
        """Those that were lost, and why."""
        request = pb.RenewLeasesRequest(session_ids=session_ids, released_ids=released)
        answer = await self.call(self.stub.RenewLeases(request, timeout=PATIENCE))
        return {lost.session_id: failures.from_message(lost.error) for lost in answer.lost}

    async def close(self, session_id: str) -> None:
        request = pb.CloseSessionRequest(session_id=session_id)
        await self.call(self.stub.CloseSession(request, timeout=PATIENCE))

    @property
    def workers(self) -> list[Any]:
        return self.gateway.supervisor.workers

    def held(self) -> int:
        """How many sessions the workers themselves hold."""
        return sum(len(body._table._sessions) for body in self.bodies.values())

    async def kill(self, shard: pb.Shard) -> None:
        """Ends the worker that holds this shard."""
        (worker,) = [
            worker for worker in self.workers if str(worker.socket) == shard.endpoint.unix_path
        ]
        await self.backend.kill(worker.instance_id)

    async def quiet(self) -> None:
        """Waits until nothing is held and nothing is counted."""
        await eventually(lambda: self.held() == 0)
        await eventually(lambda: self.gateway.sessions.count == 0)
        assert [worker.load for worker in self.workers] == [0] * len(self.workers)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  # there is no event for what a worker's table holds
            await asyncio.sleep(0.01)


async def entered() -> None:
    await asyncio.to_thread(OddEnv.entered.get, timeout=PATIENCE)
