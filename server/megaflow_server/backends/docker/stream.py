"""A program's input and output over one connection to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from megaflow.errors import MegaflowError, Unavailable
from megaflow_server.backends.base import Exit
from megaflow_server.backends.docker.wire import Connection

__all__ = ["Demultiplexer", "DockerStream", "Undivided"]

_HEADER = 8
_STDERR = 2
_CHUNK = 1 << 16
_ERRORS = 4096
# How long a closed stream goes on sending what nobody reads.
_CLOSE_SECONDS = 5.0
# Between two questions whether a program has ended.
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 1.0


class Demultiplexer:
    """Frames of standard output and standard error; sans-IO.

    A frame is 8 bytes (which of the two, three zeros, the length in four bytes, big-endian) and as many
    bytes as that length says. Parts of frames are handed on as they come: one may have 4 GiB.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._kind = 0

    @property
    def whole(self) -> bool:
        """Whether no frame is under way."""
        return not self._header and not self._left

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take any number of bytes; gives what is in them, each part with 1 or 2 for where it is from."""
        parts = []
        view = memoryview(data)
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                parts.append((self._kind, bytes(part)))
                continue
            missing = _HEADER - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _HEADER:
                self._kind = self._header[0]
                self._left = int.from_bytes(self._header[4:], "big")
                self._header.clear()
        return parts


class Undivided:
    """What comes from a terminal, which has one output: see `Demultiplexer`."""

    whole = True

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        return [(1, data)]


class DockerStream:
    """The stream of a program that runs in a container.

    Args:
        ended: how the program ended; None where it still runs.
        frames: what its output is divided by.
    """

    def __init__(
        self,
        connection: Connection,
        ended: Callable[[], Awaitable[Exit | None]],
        name: str,
        frames: Demultiplexer | Undivided | None = None,
    ) -> None:
        self._reader, self._writer = connection
        self._ended = ended
        self._name = name
        self._frames = Demultiplexer() if frames is None else frames
        self._errors = bytearray()
        self._exit: Exit | None = None
        self._broken: Unavailable | None = None
        self._closed = False

    @property
    def errors(self) -> bytes:
        return bytes(self._errors)

    async def read(self) -> bytes:
        while self._exit is None and not self._closed:
            if self._broken is not None:
                raise self._broken
            try:
                data = await self._reader.read(_CHUNK)
            except OSError as error:
                raise self._break(str(error)) from error
            if not data:
                await self._finish()
            elif output := self._output(data):
                return output
        return b""

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            await self._writer.drain()
        except OSError as error:
            if self._exit is None and not self._closed:
                raise self._break(str(error)) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Sends what is still here, for as long as somebody may be reading it.
        self._writer.close()
        asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._writer.transport.abort)

    async def wait(self) -> Exit:
        """How it ended; where nobody reads, it is asked for again and again."""
        pause = _FIRST_PAUSE
        while self._exit is None:
            self._exit = await self._ended()
            if self._exit is None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        return self._exit

    def _output(self, data: bytes) -> bytes:
        output = []
        for kind, part in self._frames.feed(data):
            if kind == _STDERR:
                self._errors += part
                del self._errors[:-_ERRORS]
            else:
                output.append(part)
        return b"".join(output)

    async def _finish(self) -> None:
        """The connection is at its end: so is the program, or else it was cut."""
        if self._closed:
            return
        self._writer.transport.abort()
        try:
            await self._ask_for_the_end()
        except MegaflowError as error:  # the engine went, and not the program alone
            raise self._break(error.message) from error
        if self._exit is None or not self._frames.whole:
            self._exit = None
            raise self._break("its connection ended before it did")

    async def _ask_for_the_end(self) -> None:
        pause = _FIRST_PAUSE
        # The engine says so a moment after it has closed the connection.
        while self._exit is None and pause < _LONGEST_PAUSE:
            self._exit = await self._ended()
            if self._exit is None:
                await asyncio.sleep(pause)
                pause *= 2

    def _break(self, why: str) -> Unavailable:
        if self._broken is None:
            self._broken = Unavailable(f"the stream of {self._name} broke off: {why}")
        self._writer.transport.abort()
        return self._broken
