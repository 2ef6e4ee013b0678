"""Runners of a server's own: started with it, started again where they end, and gone with it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

__all__ = ["Runners"]

logger = logging.getLogger(__name__)

# Seconds before a runner that ended is started again; doubled each time it ends soon, up to the longest.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# One that lived for so long ended for another reason than how it was started.
_LONG = 60.0
# Seconds beyond its grace after which a runner that was told to end is killed.
_PATIENCE = 10.0


class Runners:
    """So many runners; an asynchronous context manager.

    Args:
        arguments: of `megaflow runner`.
        grace: seconds that their attempts get where they are told to drain.
    """

    def __init__(self, count: int, arguments: Sequence[str], grace: float) -> None:
        self._count = count
        self._command = (
            *(sys.executable, "-P", "-m", "megaflow_server", "runner"),
            *arguments,
            *("--grace", str(grace), "--parent", str(os.getpid())),
        )
        self._grace = grace
        self._processes: set[Process] = set()
        self._kept: list[asyncio.Task[None]] = []
        self._leaving = False

    async def __aenter__(self) -> Runners:
        self._kept = [asyncio.create_task(self._keep()) for _ in range(self._count)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(signal.SIGINT, 0.0)

    async def drain(self) -> None:
        """Have them claim no more, and wait for what they have."""
        await self._end(signal.SIGTERM, self._grace)

    async def _end(self, number: signal.Signals, grace: float) -> None:
        self._leaving = True
        for task in self._kept:
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)
        self._kept = []
        processes = list(self._processes)
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        if waits:
            await asyncio.wait(waits, timeout=grace + _PATIENCE)
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._processes.clear()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _PAUSE
        while not self._leaving:
            began = loop.time()
            # In a session of its own: Ctrl-C is for the server, which tells its runners. Its parent-death signal
            # follows the thread that starts it, which is the server's main one.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=2, start_new_session=True
            )
            self._processes.add(process)
            status = await process.wait()
            self._processes.discard(process)
            pause = _PAUSE if loop.time() - began > _LONG else min(_LONGEST_PAUSE, 2 * pause)
            logger.warning("a runner ended with status %d; another starts in %g s", status, pause)
            await asyncio.sleep(pause)
