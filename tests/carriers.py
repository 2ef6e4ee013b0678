"""Every way to carry a session's stream, so that one suite runs over all of them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from megaflow import errors
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport import frames
from megaflow.transport.aio_connections import GrpcConnection, SocketConnection
from megaflow.transport.aio_stream import AioShardChannel
from megaflow.transport.credentials import Target
from megaflow.transport.grpc_stream import GrpcShardChannel
from megaflow.transport.io import BlockingShard, ShardIO
from megaflow.transport.options import CLIENT
from megaflow.transport.resume import StreamBroken
from megaflow.transport.slots import slots_for
from megaflow.transport.socket_stream import SocketShardChannel
from worker_rig import PATIENCE, TOKEN

# Seconds after which a caller surely waits; one that does not yet hears of it all the same.
_SOON = 0.05

Verdict = Callable[[StreamBroken], errors.SessionLost | None]
Answer = Callable[[Iterator[pb.ClientFrame]], Iterator[pb.ServerFrame]]


def lost(broken: StreamBroken) -> errors.SessionLost:
    """A verdict: whatever broke, the session went with it."""
    return errors.SessionLost(str(broken))


def alive(_: StreamBroken) -> None:
    """A verdict: the session is there."""


@dataclass(frozen=True)
class Carrier:
    """One of them: gRPC or a Unix socket, for blocking callers or for asyncio."""

    sockets: bool
    awaits: bool

    def __str__(self) -> str:
        return f"{'socket' if self.sockets else 'grpc'}-{'asyncio' if self.awaits else 'blocking'}"

    def path(self, folder: Path) -> Path:
        """Where a worker serves it."""
        return folder / ("worker.sock.frames" if self.sockets else "worker.sock")

    @asynccontextmanager
    async def attached(
        self,
        folder: Path,
        shard_id: str = "a",
        token: bytes = TOKEN,
        *,
        verdict: Verdict = lost,
        timeout: float = PATIENCE,
        slot_bytes: int = 0,
    ) -> AsyncIterator[ShardIO]:
        """A session of the worker in this folder; over sockets with slots of so many bytes."""
        path = str(self.path(folder))
        opening = self._awaiting if self.awaits else self._blocking
        async with opening(path, shard_id, token, verdict, timeout, slot_bytes) as stream:
            try:
                yield stream
            finally:
                await stream.close()

    @asynccontextmanager
    async def _blocking(
        self,
        path: str,
        shard_id: str,
        token: bytes,
        verdict: Verdict,
        timeout: float,
        slot_bytes: int,
    ) -> AsyncIterator[ShardIO]:
        options: dict[str, Any] = {"attach_timeout": timeout, "verdict": verdict}
        if self.sockets:
            options["slot_bytes"] = slot_bytes
            yield BlockingShard(SocketShardChannel(path, shard_id, token, **options))
        else:
            yield BlockingShard(
                GrpcShardChannel(Target(f"unix:{path}"), shard_id, token, **options)
            )

    @asynccontextmanager
    async def _awaiting(
        self,
        path: str,
        shard_id: str,
        token: bytes,
        verdict: Verdict,
        timeout: float,
        slot_bytes: int,
    ) -> AsyncIterator[ShardIO]:
        async def judge(broken: StreamBroken) -> errors.SessionLost | None:
            return verdict(broken)

        address = f"unix:{path}"
        slots = slots_for(slot_bytes)
        async with grpc.aio.insecure_channel(address, options=CLIENT) as channel:

            def connect() -> GrpcConnection | SocketConnection:
                if self.sockets:
                    return SocketConnection(path, slots)
                return GrpcConnection(channel, address)

            yield await AioShardChannel.open(
                connect,
                shard_id,
                token,
                address=address,
                attach_timeout=timeout,
                verdict=judge,
                slots=slots,
            )

    def cut_soon(self, stream: ShardIO) -> None:
        """Cuts it while the caller waits. What is an event loop's is left to that."""
        if self.awaits:
            asyncio.get_running_loop().call_later(_SOON, self.cut, stream)
        else:
            threading.Timer(_SOON, self.cut, (stream,)).start()

    def cut(self, stream: ShardIO) -> None:
        """Breaks the connection, behind the client's back."""
        channel: Any = stream.channel if isinstance(stream, BlockingShard) else stream
        if self.awaits:
            channel._connection.end()
        elif self.sockets:
            channel._socket.shut()
        else:
            channel._connection.call.cancel()

    @contextmanager
    def serving(self, folder: Path, answer: Answer) -> Iterator[threading.Event]:
        """A server in this folder that answers so; what is set when a stream at it has ended."""
        with (_sockets if self.sockets else _grpc)(self.path(folder), answer) as ended:
            yield ended


CARRIERS = [
    Carrier(sockets=sockets, awaits=awaits) for sockets in (False, True) for awaits in (False, True)
]


@contextmanager
def _grpc(path: Path, answer: Answer) -> Iterator[threading.Event]:
    from concurrent.futures import ThreadPoolExecutor

    ended = threading.Event()

    class Service(pb_grpc.SessionsServicer):
        def Attach(
            self, request_iterator: Iterator[pb.ClientFrame], context: grpc.ServicerContext
        ) -> Iterator[pb.ServerFrame]:
            context.add_callback(ended.set)
            yield from answer(request_iterator)

    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_SessionsServicer_to_server(Service(), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield ended
    finally:
        server.stop(grace=None).wait()


@contextmanager
def _sockets(path: Path, answer: Answer) -> Iterator[threading.Event]:
    ended = threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def received(connection: socket.socket) -> Iterator[pb.ClientFrame]:
        reader = frames.FrameReader()
        while data := connection.recv(65536):
            reader.feed(data)
            yield from map(pb.ClientFrame.FromString, reader)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                for frame in answer(received(connection)):
                    data = frame.SerializeToString()
                    connection.sendall(frames.header(data) + data)
            except ConnectionError:
                pass  # the client has ended it
        ended.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        listener.close()
        thread.join(PATIENCE)
