"""Moves the bytes of one attached stream, and waits for what the machine waits for."""

from __future__ import annotations

import asyncio
import secrets
from typing import TypeVar, cast

from megaflow.errors import MegaflowError, SessionLost, Unavailable
from megaflow_server.backends.base import Stream
from megaflow_server.sandbox.commands import Command
from megaflow_server.sandbox.jobs import Job, Opening
from megaflow_server.sandbox.machine import Machine
from megaflow_server.sandbox.scripts import program

__all__ = ["ARGV", "Link"]

# What is run in the instance.
ARGV = ("/bin/sh", "-c", program("boot"))

# How long a program in the sandbox gets to end by itself, once its input has ended.
_CLOSE_WITHIN = 2.0

T = TypeVar("T")


class Link:
    """One attached stream, used from one event loop; `stream` leads to a program ARGV."""

    def __init__(self, stream: Stream) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._name = secrets.token_hex(8)
        self._machine = Machine(secrets.token_hex(16).encode(), self._name, self._loop.time)
        self._waiting: dict[Job, asyncio.Future[object]] = {}
        self._starting: dict[Job, asyncio.Future[object]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._written = asyncio.Event()
        self._tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._write())]
        self._turn()

    @property
    def lost(self) -> MegaflowError | None:
        """Why it is of no use any more; None while it is."""
        return self._machine.lost

    @property
    def folder(self) -> str:
        """The name of its folder in the sandbox."""
        return f".megaflow-{self._name}"

    async def do(self, job: Job, _outcome: type[T]) -> T:
        """Have a job done; gives its outcome.

        Raises:
            MegaflowError: that was its outcome.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiting[job] = future
        self._machine.submit(job)
        self._turn()
        try:
            outcome = await future
        except asyncio.CancelledError:
            if isinstance(job, Command):
                self._machine.stop(job)
                self._turn()
            raise
        finally:
            self._waiting.pop(job, None)
        if isinstance(outcome, MegaflowError):
            # A new one for each: raising it adds to its traceback.
            raise type(outcome)(outcome.message, retry_after=outcome.retry_after)
        return cast(T, outcome)

    async def begin(self, shell: Opening) -> asyncio.Future[object]:
        """Start a shell; the future is its end, its exit code or a MegaflowError."""
        end: asyncio.Future[object] = self._loop.create_future()
        started: asyncio.Future[object] = self._loop.create_future()
        self._waiting[shell] = end
        self._starting[shell] = started
        self._machine.submit(shell)
        self._turn()
        try:
            await asyncio.wait([started, end], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._waiting.pop(shell, None)
            self._starting.pop(shell, None)
            self.hang_up(shell)
            raise
        return end

    def hang_up(self, shell: Opening) -> None:
        """End a shell."""
        self._machine.hang_up(shell)
        self._turn()

    async def close(self) -> None:
        """End the stream, and every command on it."""
        self._machine.lose(SessionLost("the sandbox was closed"))
        self._turn()
        reader, writer = self._tasks
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await self._stream.close()
        await asyncio.wait([reader], timeout=_CLOSE_WITHIN)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._stream.read():
                self._machine.receive(data)
                self._turn()
        except Unavailable as error:
            self._lose(f"the connection to the sandbox broke: {error}")
            return
        except asyncio.CancelledError:
            self._lose("the sandbox was closed")
            raise
        except Exception as error:  # a fault of ours: who waits is not to wait for ever
            self._lose(f"the server failed at reading what the sandbox sent: {error!r}")
            raise
        said = self._stream.errors.decode("utf-8", "replace").strip()
        self._lose(f"the sandbox has ended{': ' + said[-400:] if said else ''}")

    async def _write(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            data = self._machine.take_output()
            if not data:
                continue
            try:
                self._stream.write(data)
                await self._stream.drain()
            except Unavailable as error:
                self._lose(f"the connection to the sandbox broke: {error}")
                return

    def _lose(self, why: str) -> None:
        self._machine.lose(SessionLost(why))
        self._turn()

    def _turn(self) -> None:
        """Pass on what the machine has come to."""
        self._written.set()
        for job in self._machine.take_finished():
            starting = self._starting.pop(job, None)
            if starting is not None and not starting.done():
                starting.set_result(None)
            if job.outcome is None:
                continue
            future = self._waiting.pop(job, None)
            if future is not None and not future.done():
                future.set_result(job.outcome)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._machine.due()
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._machine.advance()
        self._turn()
