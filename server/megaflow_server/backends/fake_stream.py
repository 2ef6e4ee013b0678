"""A program of a fake instance: a coroutine on the other end of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from megaflow.errors import Unavailable
from megaflow_server.backends.base import Exit

__all__ = ["FakeStream", "Program", "ProgramEnd", "cat"]

_ERRORS = 4096


class ProgramEnd:
    """What a program has of its stream: its input, its output and its standard error."""

    def __init__(self, argv: Sequence[str], user: str | None) -> None:
        self.argv = tuple(argv)
        self.user = user
        self.input: asyncio.Queue[bytes] = asyncio.Queue()
        self.output: asyncio.Queue[bytes] = asyncio.Queue()
        self.errors = bytearray()

    async def read(self) -> bytes:
        """The next bytes of its input; b"" at the end of it."""
        return await self.input.get()

    def write(self, data: bytes) -> None:
        if data:
            self.output.put_nowait(data)

    def complain(self, data: bytes) -> None:
        """Write to standard error."""
        self.errors += data
        del self.errors[:-_ERRORS]


# What a program does, until it returns its exit code; its instance's end cancels it.
Program = Callable[[ProgramEnd], Awaitable[int]]


async def cat(end: ProgramEnd) -> int:
    """The program that says what it is told."""
    while data := await end.read():
        end.write(data)
    return 0


class FakeStream:
    """The near end of a program; `cut` breaks it, as a lost connection would."""

    def __init__(self, program: Program, argv: Sequence[str], user: str | None) -> None:
        self.end = ProgramEnd(argv, user)
        self._exit: Exit | None = None
        self._cut = False
        self._over = False
        self._task = asyncio.ensure_future(self._run(program))

    @property
    def errors(self) -> bytes:
        return bytes(self.end.errors)

    async def read(self) -> bytes:
        if self._over and self.end.output.empty():
            return b""
        data = await self.end.output.get()
        if self._cut:
            self.end.output.put_nowait(b"")
            raise Unavailable("the fake stream was cut")
        if not data:
            self._over = True
        return data

    def write(self, data: bytes) -> None:
        if data:
            self.end.input.put_nowait(data)

    async def drain(self) -> None:
        if self._cut:
            raise Unavailable("the fake stream was cut")

    async def close(self) -> None:
        self._over = True
        self.end.output.put_nowait(b"")  # for who reads now
        self.end.output = asyncio.Queue()
        self.end.input.put_nowait(b"")

    async def wait(self) -> Exit:
        await asyncio.wait([self._task])  # which leaves it alone where this is cancelled
        return self._exit or Exit()

    def cut(self) -> None:
        """Break the connection; the program sees the end of its input."""
        self._cut = True
        self.end.output.put_nowait(b"")
        self.end.input.put_nowait(b"")

    async def kill(self) -> None:
        """End the program by SIGKILL, as the end of its instance does."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, program: Program) -> None:
        try:
            self._exit = Exit(code=await program(self.end))
        except asyncio.CancelledError:
            self._exit = Exit(signal=9)
        finally:
            self.end.output.put_nowait(b"")
