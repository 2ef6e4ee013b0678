"""The kinds of sandbox that tests are run over, as a server makes them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaflow_server.backends.base import Exit, Limits
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.sandbox.instances import InstanceSandbox
from megaflow_server.sandbox.link import ARGV
from megaflow_server.sandbox.process import ProcessSandbox, Room
from megaflow_server.sandbox.proxy import Door
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["KINDS", "Made", "ProgramStream", "bare", "process"]

_numbers = itertools.count()


@dataclass
class Made:
    """A sandbox, a door to it, and its ends."""

    door: Door
    kill: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]

    async def destroy(self) -> None:
        await self.door.close()
        await self.end()


class ProgramStream:
    """A program of this host, with nothing around it: a `Stream`."""

    errors = b""

    def __init__(self, program: asyncio.subprocess.Process) -> None:
        self.program = program

    @classmethod
    async def start(cls, argv: Sequence[str], environ: Mapping[str, str]) -> ProgramStream:
        return cls(
            await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environ,
                start_new_session=True,
            )
        )

    async def read(self) -> bytes:
        assert self.program.stdout is not None
        return await self.program.stdout.read(1 << 16)

    def write(self, data: bytes) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write(data)

    async def drain(self) -> None:
        assert self.program.stdin is not None
        try:
            await self.program.stdin.drain()
        except ConnectionError:
            return

    async def close(self) -> None:
        assert self.program.stdin is not None
        self.program.stdin.close()

    async def wait(self) -> Exit:
        return Exit(code=await self.program.wait())


async def bare(folder: Path, shell: Sequence[str] = ("/bin/sh",), path: str = "") -> Made:
    """No sandbox at all: what runs inside, run outside, by a shell of one's choice."""
    environ = {"PATH": path or os.environ["PATH"], "HOME": str(folder)}
    streams: list[ProgramStream] = []

    async def open_stream(user: str | None) -> ProgramStream:
        streams.append(await ProgramStream.start([*shell, *ARGV[1:]], environ))
        return streams[-1]

    sandbox = AsyncSandbox(open_stream)
    door = Door(sandbox, folder)
    await door.open()

    async def kill() -> None:
        raise NotImplementedError("there is no one process whose end is this sandbox's")

    async def end() -> None:
        await sandbox.close()
        for stream in streams:
            await stream.program.wait()

    return Made(door, kill, end)


async def process(folder: Path, **room: object) -> Made:
    backend = ProcessBackend()
    name = f"sandbox-{next(_numbers)}"
    sandbox = await ProcessSandbox.start(backend, name, folder / name, Room(**room))  # type: ignore[arg-type]
    door = Door(sandbox, folder)
    await door.open()

    async def kill() -> None:
        (instance,) = await backend.list({})
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)

    return Made(door, kill, sandbox.destroy)


async def container(
    folder: Path, scope: str, limits: Mapping[str, float] | None = None, **fields: Any
) -> Made:
    from docker_rig import idle
    from megaflow_server.backends.docker.backend import DockerBackend
    from megaflow_server.backends.docker.options import DockerOptions

    backend = DockerBackend(DockerOptions(scope=scope))
    spec = idle(folder, f"sandbox-{next(_numbers)}", limits=Limits(**(limits or {})), **fields)  # type: ignore[arg-type]
    sandbox = await InstanceSandbox.start(backend, spec)
    door = Door(sandbox, folder)
    await door.open()

    async def kill() -> None:
        pid = sandbox.instance.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def end() -> None:
        await sandbox.destroy()
        await backend.close()

    return Made(door, kill, end)


KINDS: Mapping[str, Callable[..., Awaitable[Made]]] = {
    "bare": bare,
    "container": container,
    "process": process,
}
