"""A shell that is kept in a sandbox, one command after the other."""

from __future__ import annotations

import asyncio

from megaflow.errors import FailedPrecondition, MegaflowError
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult
from megaflow_server.sandbox.checks import check_command, result
from megaflow_server.sandbox.commands import Command, Ended
from megaflow_server.sandbox.jobs import Opening
from megaflow_server.sandbox.link import Link

__all__ = ["AsyncShell"]


class AsyncShell:
    """See `megaflow.sandbox.Shell`."""

    def __init__(self, link: Link, opening: Opening, end: asyncio.Future[object]) -> None:
        self._link = link
        self._opening = opening
        self._end = end
        self._turn = asyncio.Lock()

    async def run(
        self, command: str, *, timeout: float | None = None, output_limit: int = OUTPUT_LIMIT
    ) -> ExecResult:
        check_command(command, timeout, output_limit)
        async with self._turn:
            self._check()
            job = Command(command, limit=output_limit, timeout=timeout, shell=self._opening)
            ended = await self._link.do(job, Ended)
            if not ended.no_shell:
                return result(ended)
            # It ended under this command, or before it: only the first has a result.
            code = await asyncio.shield(self._end)
            if not isinstance(code, int):
                self._check()
            assert isinstance(code, int)
            return ExecResult(code, ended.stdout, ended.stderr, ended.timed_out)

    def _check(self) -> None:
        if not self._end.done():
            return
        end = self._end.result()
        if isinstance(end, MegaflowError):
            raise type(end)(end.message)
        raise FailedPrecondition(f"the shell has ended with exit code {end}; open another")

    async def close(self) -> None:
        if not self._end.done():
            self._link.hang_up(self._opening)
            await asyncio.shield(self._end)
