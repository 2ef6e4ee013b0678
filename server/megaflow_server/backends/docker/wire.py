"""What the SDK has no asyncio for: the engine's two-way streams and its events, over its Unix socket.

HTTP/1.1 as the engine speaks it. A two-way stream begins as a request and continues as raw bytes, of
which those that arrive together with the reply's header must not be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from megaflow.errors import Unavailable
from megaflow_server.backends.docker.failures import EngineRefusal

__all__ = ["Connection", "EngineSocket"]

# asyncio stops reading from the socket at twice this.
_BUFFER = 1 << 16
_BLOCK = 1 << 20
_HEADER_SECONDS = 60.0
_LONGEST_OBJECT = 1 << 20

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EngineSocket:
    """Connections to an engine, one for each stream."""

    def __init__(self, path: Path, version: str) -> None:
        self._path = path
        self._version = version

    async def upgrade(self, path: str, body: Mapping[str, Any] | None = None) -> Connection:
        """Ask for a two-way stream.

        Raises:
            EngineRefusal: the engine has none for us.
            Unavailable: it cannot be reached.
        """
        reader, writer = await self._request("POST", path, body, upgrade=True)
        try:
            async with asyncio.timeout(_HEADER_SECONDS):
                status, headers = await _header(reader)
                # Engines from before the upgrade header answer 200 and go on raw.
                if status not in (101, 200):
                    raise EngineRefusal(status, _message(await _body(reader, headers)))
        except BaseException as error:
            writer.transport.abort()
            raise _unavailable(self._path, error) from error
        return reader, writer

    async def header(self, path: str, name: str) -> str | None:
        """One header of the reply to a HEAD; None where the path is not there.

        Raises:
            EngineRefusal: the engine said no.
            Unavailable: it cannot be reached.
        """
        reader, writer = await self._request("HEAD", path, None, upgrade=False)
        try:
            async with asyncio.timeout(_HEADER_SECONDS):
                status, headers = await _header(reader)
            if status == 404:
                return None
            if status != 200:
                raise EngineRefusal(status, "no more is said in a reply to HEAD")
            return headers.get(name)
        except BaseException as error:
            raise _unavailable(self._path, error) from error
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def objects(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        tar: IO[bytes] | None = None,
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """A reply that goes on, object by object: events, or the steps of a pull or build, which ends with this.

        Args:
            tar: sent along, a block at a time; a file that is at its beginning.

        Raises:
            EngineRefusal: the engine said no.
            Unavailable: it cannot be reached, or goes in the middle of it.
        """
        size = None if tar is None else os.fstat(tar.fileno()).st_size
        reader, writer = await self._request(
            method, path, None, upgrade=False, more=headers, tar=size
        )
        try:
            if tar is not None:
                # One that takes no more of it says why.
                with contextlib.suppress(ConnectionError):
                    await _send(writer, tar)
            await self._accepted(reader)
            yield self._objects(reader)
        finally:
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader) -> None:
        try:
            async with asyncio.timeout(_HEADER_SECONDS):
                status, found = await _header(reader)
                if status != 200:
                    raise EngineRefusal(status, _message(await _body(reader, found)))
        except (OSError, EOFError, ValueError) as error:
            raise _unavailable(self._path, error) from error

    async def _objects(self, reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
        try:
            async for one in _objects(reader):
                yield one
        except (OSError, EOFError, ValueError) as error:
            raise _unavailable(self._path, error) from error

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        upgrade: bool,
        more: Mapping[str, str] | None = None,
        tar: int | None = None,
    ) -> Connection:
        """Send a request; but for the bytes of a tar, where such follow."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=_BUFFER)
        except OSError as error:
            raise _unavailable(self._path, error) from error
        content = b"" if body is None else json.dumps(body).encode()
        kind, size = ("json", len(content)) if tar is None else ("x-tar", tar)
        lines = [f"{method} /v{self._version}{path} HTTP/1.1", "Host: docker"]
        lines += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else ["Connection: close"]
        lines += [f"{name}: {value}" for name, value in (more or {}).items()]
        lines += [f"Content-Type: application/{kind}", f"Content-Length: {size}", "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        return reader, writer


async def _send(writer: asyncio.StreamWriter, file: IO[bytes]) -> None:
    while data := await asyncio.to_thread(file.read, _BLOCK):
        writer.write(data)
        await writer.drain()


def _unavailable(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, (OSError, EOFError, ValueError, TimeoutError)):
        what = str(error) or type(error).__name__
        return Unavailable(f"the Docker Engine at unix://{path} does not answer: {what}")
    return error


async def _header(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = text.split("\r\n")
    _, _, after = first.partition(" ")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(after.split(" ", 1)[0]), headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        return b"".join([chunk async for chunk in _chunks(reader)])
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunk = await reader.readexactly(size)
        await reader.readexactly(2)
        yield chunk


async def _objects(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """JSON objects, one to a line; a chunk is no line."""
    rest = b""
    async for chunk in _chunks(reader):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
        if len(rest) > _LONGEST_OBJECT:
            raise ValueError(f"an object of more than {_LONGEST_OBJECT} bytes")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
