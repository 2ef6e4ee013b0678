"""Ports in sandboxes that lead to callers: what connects to one there is handed on, connection by connection."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from megaflow.errors import DeadlineExceeded, InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.auth import Principal
from megaflow_server.gateway.inside import Inside

__all__ = ["Forwarding"]

# Connections of one port that nobody has taken yet, and seconds after which one is closed.
_WAITING, _TAKEN_WITHIN = 128, 30.0
# Until a caller says which connection it takes; seconds.
_BEGIN_WITHIN = 10.0
_CHUNK = 1 << 16
_MOST_PORT = 65_535


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A connection that its caller has yet to take."""

    owner: str
    connection: socket.socket


class Forwarding:
    """Opens such ports in the sandboxes of sessions that run, for whoever may look into them."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._waiting: dict[str, _Waiting] = {}

    async def listen(
        self,
        request: pb.ListenInsideRequest,
        write: Callable[[pb.ListenInsideEvent], Awaitable[None]],
        caller: Principal,
    ) -> None:
        """See ListenInside; until it is cancelled.

        Raises:
            NotFound, PermissionDenied, InvalidArgument: as `Inside.running`.
            FailedPrecondition: the port is taken, or this server cannot listen in this sandbox.
        """
        if request.port > _MOST_PORT:
            raise InvalidArgument(f"port={request.port}: takes a number up to {_MOST_PORT}")
        sandbox = self._inside.running(request.inside, caller)
        listener = await sandbox.listen(request.port)
        mine: set[str] = set()
        try:
            await write(pb.ListenInsideEvent(port=listener.getsockname()[1]))
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                mine &= self._waiting.keys()
                if len(mine) >= _WAITING:
                    connection.close()
                    continue
                name = self._keep(caller.name, connection)
                mine.add(name)
                await write(pb.ListenInsideEvent(connection=name))
        finally:
            listener.close()
            for name in mine:
                self._drop(name)

    def _keep(self, owner: str, connection: socket.socket) -> str:
        connection.setblocking(False)
        name = secrets.token_hex(16)
        self._waiting[name] = _Waiting(owner, connection)
        asyncio.get_running_loop().call_later(_TAKEN_WITHIN, self._drop, name)
        return name

    def _drop(self, name: str) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            waiting.connection.close()

    async def connect(
        self,
        inputs: AsyncIterator[pb.ConnectionInput],
        write: Callable[[pb.ConnectionOutput], Awaitable[None]],
        caller: Principal,
    ) -> None:
        """See TakeConnection; until both ways have ended, or what is in the sandbox has broken it off.

        Raises:
            NotFound: there is no such connection of this caller's, any more.
        """
        name = await _begin(inputs)
        waiting = self._waiting.get(name)
        if waiting is None or waiting.owner != caller.name:
            raise NotFound("connection: none of that name waits for this caller")
        del self._waiting[name]
        reader, writer = await asyncio.open_connection(sock=waiting.connection, limit=_CHUNK)
        sending = asyncio.create_task(_send(inputs, writer))
        try:
            with suppress(ConnectionError):
                while data := await reader.read(_CHUNK):
                    await write(pb.ConnectionOutput(data=data))
                await write(pb.ConnectionOutput())
                await sending
        finally:
            sending.cancel()
            writer.transport.abort()
            await asyncio.gather(sending, return_exceptions=True)


async def _begin(inputs: AsyncIterator[pb.ConnectionInput]) -> str:
    try:
        async with asyncio.timeout(_BEGIN_WITHIN):
            async for one in inputs:
                if one.WhichOneof("input") == "connection":
                    return one.connection
                break
    except TimeoutError:
        raise DeadlineExceeded(f"no connection was named within {_BEGIN_WITHIN:g} s") from None
    raise InvalidArgument("the first message names a connection")


async def _send(inputs: AsyncIterator[pb.ConnectionInput], writer: asyncio.StreamWriter) -> None:
    async for one in inputs:
        if not one.data:
            break
        writer.write(one.data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
