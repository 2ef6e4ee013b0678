"""A port in a sandbox that leads to this process, whatever network the sandbox has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

import grpc

from megaflow.connection import Connection
from megaflow.errors import MegaflowError, SessionLost
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["Connect", "Forward", "put_inside"]

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens what a connection of the sandbox leads to."""

_CHUNK = 1 << 16
# Bytes of a tar archive in one message.
_PART = 1 << 20


class Forward:
    """Such a port; close it, or use it as an asynchronous context manager. Made by `open`.

    Attributes:
        port: at the sandbox's loopback, 127.0.0.1.
        failure: what ended it before it was closed: nothing in the sandbox reaches this process any more.
    """

    def __init__(self, connection: Connection, connect: Connect) -> None:
        self.port = 0
        self.failure: MegaflowError | None = None
        self._connection = connection.share()
        self._connect = connect
        self._open: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, connection: Connection, inside: pb.Inside, port: int, connect: Connect
    ) -> Self:
        """Once it listens."""
        self = cls(connection, connect)
        events = connection.listen_inside(pb.ListenInsideRequest(inside=inside, port=port))
        try:
            self.port = (await self._next(events)).port
        except BaseException:
            events.cancel()
            await self.close()
            raise
        self._listening = asyncio.create_task(self._listen(events))
        return self

    async def _next(self, events: Any) -> pb.ListenInsideEvent:
        try:
            event: pb.ListenInsideEvent = await anext(aiter(events))
        except StopAsyncIteration:
            raise SessionLost("the port in the sandbox was closed") from None
        except grpc.RpcError as error:
            failed = self._connection.failed(error)
            raise failed from failed.__cause__
        return event

    async def _listen(self, events: Any) -> None:
        try:
            while True:
                name = (await self._next(events)).connection
                task = asyncio.create_task(self._carry(name))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
        except MegaflowError as error:
            self.failure = error
        finally:
            events.cancel()

    async def _carry(self, name: str) -> None:
        """One connection, until both ways have ended or it is broken, which both of its ends are told by its end."""
        reader, writer = await self._connect()
        call = self._connection.take_connection(_inputs(name, reader))
        try:
            with suppress(ConnectionError, grpc.RpcError):
                async for output in call:
                    if output.data:
                        writer.write(output.data)
                        await writer.drain()
                    elif writer.can_write_eof():
                        writer.write_eof()
        finally:
            call.cancel()
            writer.transport.abort()

    async def close(self) -> None:
        """Listen no more, and break off what is open. Idempotent."""
        tasks = {*self._open, *([self._listening] if self._listening else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


async def _inputs(name: str, reader: asyncio.StreamReader) -> AsyncIterator[pb.ConnectionInput]:
    yield pb.ConnectionInput(connection=name)
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            yield pb.ConnectionInput(data=data)
    yield pb.ConnectionInput(data=b"")


async def put_inside(connection: Connection, inside: pb.Inside, tar: Any) -> None:
    """Unpack a tar archive, a file, at the root of a sandbox."""

    async def parts() -> AsyncIterator[pb.PutInsideRequest]:
        yield pb.PutInsideRequest(inside=inside)
        while data := await asyncio.to_thread(tar.read, _PART):
            yield pb.PutInsideRequest(tar=data)

    try:
        await connection.put_inside(parts())
    except grpc.RpcError as error:
        failed = connection.failed(error)
        raise failed from failed.__cause__
