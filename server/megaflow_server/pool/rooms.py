"""A sandbox made of processes, as a pool sees it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from megaflow_server.backends.base import Backend, Exit, Instance, Stats
from megaflow_server.consumption import cpu_seconds, memory
from megaflow_server.pool.describe import describe_tree
from megaflow_server.pool.host import Files, without_ours
from megaflow_server.sandbox.phases import ALIKE, Phases
from megaflow_server.sandbox.process import ProcessSandbox
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["RoomHost"]


class RoomHost:
    """See `Host`; all that may be written to in it is in a folder of this host."""

    blind = None

    def __init__(
        self, backend: Backend, instance: Instance, room: ProcessSandbox, phases: Phases = ALIKE
    ) -> None:
        self._backend = backend
        self._instance = instance
        self._room = room
        self._phases = phases
        self._sandbox: AsyncSandbox | None = None

    @property
    def id(self) -> str:
        return self._instance.id

    def open(self) -> AsyncSandbox:
        self._sandbox = AsyncSandbox(
            self._room.stream,
            phases=self._phases,
            listen=self._room.listen_at,
            open_terminal=self._room.run_at_terminal,
            end_all=self._room.end_all,
            put=self._room.unpack,
        )
        return self._sandbox

    async def files(self) -> Files:
        found = await asyncio.to_thread(describe_tree, self._room.root)
        return without_ours(found, self._sandbox)

    async def programs(self) -> Counter[str]:
        pids = self._backend.processes(self.id)
        lines = await asyncio.to_thread(lambda: [_command_line(pid) for pid in pids])
        return Counter(line for line in lines if line)

    async def stats(self) -> Stats | None:
        pids = self._backend.processes(self.id)
        return await asyncio.to_thread(
            lambda: Stats(cpu_seconds(pids), memory(pids), pids=len(pids))
        )

    async def wait(self) -> Exit:
        return await self._instance.wait()

    async def destroy(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()
        await self._room.destroy()


def _command_line(pid: int) -> str:
    """Empty for one that is gone, and for one that is only still listed."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
    except OSError:
        return ""
