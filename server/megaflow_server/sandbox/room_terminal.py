"""A program at a terminal in a sandbox that is made of processes, by the terminal's other end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios

from megaflow_server.backends.base import Exit
from megaflow_server.sandbox.socket_stream import CHUNK, exit_of

__all__ = ["RoomTerminal"]


class RoomTerminal:
    """See `Terminal`; `begin` comes first, and `ended` is told how its program ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = -1
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._stir = asyncio.Event()  # there may be something to read
        self._unsent = bytearray()
        self._sent = asyncio.Event()
        self._sent.set()

    def begin(self, end: int) -> None:
        """Take the other end, a descriptor."""
        os.set_blocking(end, False)
        self._end = end

    def ended(self, status: int | None) -> None:
        """The program has ended, with this status of waitpid's; None: nobody knows how."""
        if not self._exit.done():
            self._exit.set_result(exit_of(status))
            self._stir.set()
            self._sent.set()

    async def read(self) -> bytes:
        while self._end >= 0:
            over = self._exit.done()
            try:
                if data := os.read(self._end, CHUNK):
                    return data
            except BlockingIOError:
                if over:  # what it left in the background may hold the terminal for ever
                    return b""
                await self._readable()
            except OSError:  # nobody has the terminal any more
                await self.wait()
                return b""
        return b""

    async def _readable(self) -> None:
        self._stir.clear()
        self._loop.add_reader(self._end, self._stir.set)
        try:
            await self._stir.wait()
        finally:
            if self._end >= 0:
                self._loop.remove_reader(self._end)

    def write(self, data: bytes) -> None:
        if self._end < 0 or self._exit.done():
            return
        self._unsent += data
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._end, self._unsent)]
        except BlockingIOError:
            if self._sent.is_set():
                self._sent.clear()
                self._loop.add_writer(self._end, self._send)
            return
        except OSError:  # nobody has the terminal any more
            self._unsent.clear()
        if not self._sent.is_set():
            self._loop.remove_writer(self._end)
            self._sent.set()

    async def drain(self) -> None:
        await self._sent.wait()

    async def resize(self, rows: int, columns: int) -> None:
        if self._end >= 0:
            with contextlib.suppress(OSError):  # nobody has it any more
                fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def close(self) -> None:
        end, self._end = self._end, -1
        if end < 0:
            return
        self._loop.remove_reader(end)
        self._loop.remove_writer(end)
        self._stir.set()
        self._sent.set()
        os.close(end)  # the kernel hangs up
