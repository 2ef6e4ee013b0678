"""The proxy of one sandbox: what it may reach is said by name, and may change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from megaflow_server.egress.hosts import NOTHING, Hosts, is_forbidden, normal
from megaflow_server.egress.namespaces import PORT
from megaflow_server.egress.requests import BadRequest, Wanted, answer, read

__all__ = ["Egress"]

# Connections at once; more are closed.
_MOST = 256
# A client's head, in bytes and seconds; and what a host takes to answer, in seconds.
_HEAD, _HEAD_SECONDS, _CONNECT_SECONDS = 1 << 16, 30.0, 30.0
_CHUNK = 1 << 16
# Names that take long to look up keep nothing else of the server waiting.
_LOOKING_UP = ThreadPoolExecutor(4, "egress")
_URL = f"http://127.0.0.1:{PORT}"
_NOT_THROUGH = "localhost,127.0.0.1"


class Egress:
    """Serves at a socket in a sandbox. Used from one event loop.

    At first nothing is allowed. Names are looked up here, so that a sandbox needs no name server; one that leads to
    this machine, to a link-local address or to a cloud's metadata leads nowhere, whoever has named it.

    Attributes:
        environ: with which programs in the sandbox find it.
    """

    environ: Mapping[str, str] = {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _URL),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), _NOT_THROUGH),
    }

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._hosts = NOTHING
        self._open: dict[asyncio.Task[None], tuple[str, int] | None] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener.fileno(), self._accept)

    def allow(self, hosts: Hosts) -> None:
        """From now on these, and no others; what is open to others breaks."""
        self._hosts = hosts
        for task, place in list(self._open.items()):
            if place is not None and not hosts.allows(*place):
                task.cancel()

    async def close(self) -> None:
        """Serve nobody any more."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (
            OSError
        ):  # it went before it was taken, or there are no more descriptors at the moment
            return
        if len(self._open) >= _MOST:
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._open[task] = None
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled():
            task.exception()  # that a connection broke is told to both of its ends by its end

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=_HEAD)
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                wanted = read(await reader.readuntil(b"\r\n\r\n"))
            refusal = await self._pass(wanted, reader, writer)
        except BadRequest as error:
            refusal = answer("400 Bad Request", str(error))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            refusal = b""
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        if refusal:
            with suppress(OSError):
                writer.write(refusal)
                await writer.drain()
        writer.close()

    async def _pass(
        self, wanted: Wanted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Connect a client with where it wants to go, until both have ended; what is answered instead."""
        host, port = normal(wanted.host), wanted.port
        if not self._hosts.allows(host, port):
            return answer(
                "403 Forbidden", f"{host}:{port} is not among the hosts that may be reached"
            )
        # From here on a change of what is allowed concerns it.
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = host, port
        try:
            found = await _look_up(host, port)
        except OSError as error:
            return answer("502 Bad Gateway", f"{host} is not known: {error.strerror}")
        addresses = [one for one in found if not is_forbidden(one)]
        if not addresses:
            return answer("403 Forbidden", f"{host} is an address of this machine, or of its cloud")
        try:
            there = await _connect(addresses, port)
        except (OSError, TimeoutError) as error:
            return answer("504 Gateway Timeout", f"{host}:{port} does not answer: {error}")
        try:
            if wanted.is_tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                there[1].write(wanted.head)
            await _both(_pump(reader, there[1]), _pump(there[0], writer))
        finally:
            there[1].transport.abort()
        return b""


async def _look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, those that are the best first."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            _LOOKING_UP, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        )
    except UnicodeError as error:
        raise OSError(0, "no name of a host") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


async def _connect(
    addresses: Sequence[str], port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first of these that answers: never to another that the name may have by now."""
    failed: Exception = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_connection(address, port, limit=_CHUNK)
        except (OSError, TimeoutError) as error:
            failed = error
    raise failed


async def _both(*ways: Coroutine[Any, Any, None]) -> None:
    """Until both have ended, or one is broken: then the other has, too."""
    tasks = [asyncio.ensure_future(one) for one in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one end to the other, and then its end."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
