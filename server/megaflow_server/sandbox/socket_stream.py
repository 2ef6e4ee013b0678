"""Input and output of a program over a socket and a pipe of this host."""

from __future__ import annotations

import asyncio
import contextlib
import os

from megaflow_server.backends.base import Exit

__all__ = ["CHUNK", "SocketStream", "exit_of"]

# A chunk is at most this long, so that as much is held beside what a socket's buffers do.
CHUNK = 1 << 16


def exit_of(status: int | None) -> Exit:
    """How a program ended with this status of waitpid's; None where nobody knows."""
    if status is None:
        return Exit()
    if os.WIFSIGNALED(status):
        return Exit(signal=os.WTERMSIG(status))
    return Exit(code=os.WEXITSTATUS(status))


class SocketStream:
    """A program's input and output over a socket: see `Stream`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, errors: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._errors = b""
        self._pipe = errors
        os.set_blocking(errors, False)
        asyncio.get_running_loop().add_reader(errors, self._read_errors)

    @property
    def errors(self) -> bytes:
        return self._errors

    async def read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except ConnectionError:
            return b""  # it died with input that it had not read

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):  # what an ended program does not read is dropped
            await self._writer.drain()

    async def close(self) -> None:
        if self._writer.can_write_eof() and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    def ended(self, status: int | None) -> None:
        if self._exit.done():
            return
        self._exit.set_result(exit_of(status))
        self._read_errors()
        self._close_errors()
        self._writer.close()

    def _read_errors(self) -> None:
        try:
            data = os.read(self._pipe, CHUNK) if self._pipe >= 0 else b""
        except BlockingIOError:
            return
        self._errors = (self._errors + data)[-4096:]
        if not data:
            self._close_errors()

    def _close_errors(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
