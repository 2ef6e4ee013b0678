"""What a container's main process reads and prints: its configuration, and its log."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from megaflow.errors import InvalidArgument
from megaflow_server.backends.base import InstanceSpec
from megaflow_server.backends.docker.stream import Demultiplexer
from megaflow_server.backends.docker.wire import Connection

__all__ = ["Attached", "open_log"]

_log = logging.getLogger(__name__)

_CHUNK = 1 << 16


def open_log(spec: InstanceSpec) -> int:
    """The log of an instance, open for appending; its folder is made.

    Raises:
        InvalidArgument: it cannot be written.
    """
    try:
        Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
        return os.open(spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"instance {spec.id}: log={str(spec.log)!r} cannot be written: {error.strerror}"
        ) from error


class Attached:
    """Sends the configuration and appends the output to the log, until both are at their end.

    Args:
        log: the descriptor, which is closed at the end.
    """

    def __init__(self, connection: Connection, config: bytes, log: int) -> None:
        self._reader, self._writer = connection
        self._log = log
        self._tasks = [
            asyncio.ensure_future(work) for work in (self._send(config), self._receive())
        ]

    async def finish(self, seconds: float) -> None:
        """Return once all output is in the log; it is cut off where that takes longer."""
        await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _send(self, config: bytes) -> None:
        try:
            self._writer.write(config)
            await self._writer.drain()
            self._writer.write_eof()
        except OSError as error:
            _log.debug("the configuration was not read to its end: %s", error)

    async def _receive(self) -> None:
        frames = Demultiplexer()
        try:
            while data := await self._reader.read(_CHUNK):
                for _, part in frames.feed(data):
                    _write_all(self._log, part)
        except OSError as error:
            _log.warning("the log of an instance is incomplete: %s", error)
        finally:
            os.close(self._log)
            self._writer.transport.abort()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
