"""What a connection does with the network on an event loop; network.py is the same for blocking callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from megaflow import embedded, leases
from megaflow.embedded import EmbeddedServer
from megaflow.network import Keeper, Metadata, Verdict
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport import handshake
from megaflow.transport.aio_connections import GrpcConnection, SocketConnection
from megaflow.transport.aio_stream import AioShardChannel, wait_any
from megaflow.transport.channels import aio_channel
from megaflow.transport.control import Control
from megaflow.transport.credentials import Target, Tls
from megaflow.transport.io import BlockingCaller, Caller, ShardIO, run, shown, stubs
from megaflow.transport.machine import Verb
from megaflow.transport.slots import Lent, slots_for


class AioCaller:
    """See `megaflow.transport.io.Caller`; cancelling a call ends it at the server, too."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = aio_channel(target)
        self._metadata = target.metadata
        self._stubs = stubs(self._channel)

    async def call(
        self,
        method: str,
        request: Message,
        *,
        timeout: float | None,
        wait_for_ready: bool = False,
    ) -> Any:
        return await self._stubs[method](
            request,
            timeout=timeout,
            wait_for_ready=wait_for_ready,
            metadata=shown(self._metadata, request),
        )

    def stream(self, method: str, requests: Any, *, timeout: float | None = None) -> Any:
        return self._stubs[method](requests, metadata=self._metadata, timeout=timeout)

    async def explain(self) -> str | None:
        return await asyncio.to_thread(handshake.explain, self._target)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self._channel.close()


@dataclass
class _Users:
    channel: grpc.aio.Channel
    users: int = 0


class AioNetwork:
    """See `megaflow.network.Network`; of the event loop on which it was made.

    All streams to one worker share a channel.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels: dict[tuple[str, Tls | None], _Users] = {}
        self._keeper: leases.Keeper | None = None
        self._renewing: BlockingCaller | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def embedded_server(self) -> EmbeddedServer:
        return await asyncio.to_thread(embedded.ensure)

    def caller(self, target: Target) -> Caller:
        return AioCaller(target)

    def keeper(self, target: Target, control: Control) -> Keeper:
        # A thread's, which renews while a program computes on its event loop for longer than a lease lasts.
        self._renewing = caller = BlockingCaller(target)
        renewing = control.over(caller)
        self._keeper = keeper = leases.keeper(
            target, lambda request: run(renewing.renew_leases(request)), control.hello.lease_s
        )
        return keeper

    async def close_keeper(self) -> None:
        if self._keeper is not None and self._renewing is not None:
            await asyncio.to_thread(self._keeper.close)
            await self._renewing.close()

    async def answers(self, target: Target, timeout: float) -> bool:
        shared = self._take(target)
        try:
            async with asyncio.timeout(timeout):
                await shared.channel.channel_ready()
        except TimeoutError:
            return False
        finally:
            await self._give_back(target)
        return True

    async def attach(
        self,
        target: Target,
        shard_id: str,
        token: bytes,
        *,
        timeout: float,
        metadata: Metadata,
        verdict: Verdict,
    ) -> ShardIO:
        shared = self._take(target)
        try:
            stream = await AioShardChannel.open(
                lambda: GrpcConnection(shared.channel, target.address, metadata),
                shard_id,
                token,
                address=target.address,
                attach_timeout=timeout,
                verdict=verdict,
            )
        except BaseException:
            await self._give_back(target)
            raise
        return _Shared(stream, self, target)

    async def attach_socket(
        self,
        path: str,
        shard_id: str,
        token: bytes,
        *,
        timeout: float,
        verdict: Verdict,
        slot_bytes: int,
    ) -> ShardIO:
        slots = slots_for(slot_bytes)
        return await AioShardChannel.open(
            lambda: SocketConnection(path, slots),
            shard_id,
            token,
            address=f"unix:{path}",
            attach_timeout=timeout,
            verdict=verdict,
            slots=slots,
        )

    async def wait_any(
        self, requests: Sequence[tuple[ShardIO, int]], timeout: float | None
    ) -> None:
        streams = cast("Sequence[tuple[AioShardChannel | _Shared, int]]", requests)
        await wait_any([(_channel_of(stream), sequence) for stream, sequence in streams], timeout)

    def _take(self, target: Target) -> _Users:
        key = target.address, target.tls
        shared = self._channels.get(key)
        if shared is None:
            shared = self._channels[key] = _Users(aio_channel(target))
        shared.users += 1
        return shared

    async def _give_back(self, target: Target) -> None:
        key = target.address, target.tls
        shared = self._channels[key]
        shared.users -= 1
        if shared.users == 0:
            del self._channels[key]
            await shared.channel.close()

    def finish(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._spawn, ending)
        except RuntimeError:
            ending.close()  # the loop is closed, and its streams with it

    def abandon(self) -> None:
        keeper, renewing = self._keeper, self._renewing
        if keeper is None or renewing is None:
            return

        def close() -> None:
            keeper.close()
            run(renewing.close())

        # A thread, because it waits for the server, and the garbage collector may be who calls.
        threading.Thread(target=close, name="megaflow-abandon", daemon=True).start()

    def _spawn(self, ending: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


class _Shared:
    """A shard's stream with its use of the gRPC channel that it shares; see `ShardIO`."""

    def __init__(self, stream: AioShardChannel, network: AioNetwork, target: Target) -> None:
        self.stream = stream
        self._network: AioNetwork | None = network
        self._target = target

    async def send(self, verb: Verb) -> int:
        return await self.stream.send(verb)

    async def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        return await self.stream.wait(sequence, timeout)

    def poll(self, sequence: int) -> pb.Reply | None:
        return self.stream.poll(sequence)

    def slot(self) -> Lent | None:
        return self.stream.slot()

    async def close(self) -> None:
        network, self._network = self._network, None
        if network is not None:
            try:
                await self.stream.close()
            finally:
                await network._give_back(self._target)


def _channel_of(stream: AioShardChannel | _Shared) -> AioShardChannel:
    return stream.stream if isinstance(stream, _Shared) else stream
