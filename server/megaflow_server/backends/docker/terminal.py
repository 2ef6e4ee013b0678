"""A program at a terminal in a container."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

from megaflow.errors import MegaflowError, Unavailable
from megaflow_server.backends.base import Exit, TerminalKind
from megaflow_server.backends.docker.failures import EngineRefusal
from megaflow_server.backends.docker.stream import DockerStream

__all__ = ["DockerTerminal", "hanging_up", "new_mark", "sized"]

_log = logging.getLogger(__name__)

_MARK = "MEGAFLOW_TERMINAL"
# What has the mark in its environment: a command substitution leaves out the NULs.
_HANG_UP = (
    "for p in /proc/[0-9]*; do"
    ' case "$(cat "$p/environ" 2>/dev/null)" in *"$1"*) kill -HUP "${p##*/}" 2>/dev/null;; esac;'
    " done"
)


# The engine sets the size only once a program runs, which may have asked for it by then.
_SIZED = 'stty rows "$1" cols "$2" 2>/dev/null; shift 2; exec "$@"'


def sized(argv: Sequence[str], kind: TerminalKind) -> Sequence[str]:
    """A program that sets the size of its terminal, where it can, and is another one then."""
    return ("/bin/sh", "-c", _SIZED, argv[0], str(kind.rows), str(kind.columns), *argv)


def new_mark() -> Mapping[str, str]:
    """A variable by which all that a program starts is found: an engine ends nothing that it has started."""
    return {_MARK: secrets.token_hex(16)}


def hanging_up(mark: Mapping[str, str]) -> Sequence[str]:
    """A program that sends SIGHUP to what has this mark; it has none itself."""
    return ("/bin/sh", "-c", _HANG_UP, "hang-up", mark[_MARK])


class DockerTerminal:
    """See `Terminal`.

    Args:
        stream: of a program with a terminal of the engine's.
        ended: how the program ended; None where it still runs.
        resize: tells the engine its size.
        hang_up: has the kernel's part done in its container, of which the engine does nothing.
    """

    def __init__(
        self,
        stream: DockerStream,
        ended: Callable[[], Awaitable[Exit | None]],
        resize: Callable[[int, int], Awaitable[None]],
        hang_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._how = ended
        self._resize = resize
        self._hang_up = hang_up
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        try:
            data = await self._stream.read()
        except Unavailable:
            # So it looks, too, to who types when the program has just ended.
            if await self._how() is None:
                raise
            data = b""
        self._ended = self._ended or not data
        return data

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    async def drain(self) -> None:
        with contextlib.suppress(Unavailable):  # `read` tells
            await self._stream.drain()

    async def resize(self, rows: int, columns: int) -> None:
        try:
            await self._resize(rows, columns)
        except EngineRefusal as error:  # it has ended
            _log.debug("a terminal keeps its size: %s", error.message)

    async def wait(self) -> Exit:
        return await self._stream.wait()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._stream.close()
        if self._ended:
            return
        try:
            await self._hang_up()
        except MegaflowError as error:  # its instance has gone, and all that was in it
            _log.debug("nothing is left to hang up: %s", error.message)
