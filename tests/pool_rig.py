"""Pools over every backend, and ways to do harm to what is in them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megaflow_server.backends import Backend
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.backends.fake_stream import ProgramEnd
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.pool import Leased, Pools, PoolStatus
from megaflow_server.templates import PoolSize, Template

RUN = "0123456789abcdef"
PATIENCE = 30.0


@dataclass
class Scene:
    """Pools, their backend, and a template that they have.

    Attributes:
        environ: what programs of fake instances find in their environment.
    """

    pools: Pools
    backend: Backend
    template: Template
    environ: dict[str, str] = field(default_factory=dict)

    async def lease(self, template: Template | None = None, **given: Any) -> Leased:
        given = {"owner": "me", "session": "s", **given}
        return await self.pools.lease(template or self.template, **given)

    def having(self, **fields: Any) -> Template:
        """The template with other fields."""
        return replace(self.template, **fields)

    @property
    def status(self) -> PoolStatus:
        (one,) = self.pools.list()
        return one

    async def until(self, holds: Callable[[PoolStatus], bool]) -> PoolStatus:
        """The one pool, once something holds of it."""
        async with asyncio.timeout(PATIENCE):
            while not holds(self.status):  # noqa: ASYNC110  # nobody says when a pool has changed
                await asyncio.sleep(0.02)
        return self.status

    async def settled(self) -> PoolStatus:
        """The one pool, once nothing is leased and nothing goes on."""
        return await self.until(
            lambda one: not (one.leased or one.creating or one.resetting or one.ending)
        )

    async def kill(self, name: str) -> None:
        """End the main process of an instance, as from outside."""
        if isinstance(self.backend, FakeBackend):
            await self.backend.kill(name)
            return
        (instance,) = [one for one in await self.backend.list({}) if one.id == name]
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)

    async def instances(self) -> list[str]:
        return [one.id for one in await self.backend.list({"run": RUN})]


@asynccontextmanager
async def scene(kind: str, folder: Path, **fields: Any) -> AsyncIterator[Scene]:
    """Pools over a backend of this kind; nothing is left at the end."""
    environ = {"PATH": os.environ["PATH"]}
    async with _backend(kind, environ) as (backend, image):
        given = {"pool": PoolSize(max=4), "mode": "persistent", **fields}
        template = Template("t", backend.name, image, **given)
        pools = Pools(lambda name: backend, run=RUN, folder=folder / "pools")
        here = Scene(pools, backend, template, environ)
        try:
            yield here
        finally:
            await pools.stop()
        assert await here.instances() == []
        assert not (folder / "pools").exists()


@asynccontextmanager
async def _backend(kind: str, environ: dict[str, str]) -> AsyncIterator[tuple[Backend, str | None]]:
    if kind == "docker":
        from docker_rig import busybox, docker_backend

        async with docker_backend() as engine:
            yield engine, busybox()
    elif kind == "process":
        processes = ProcessBackend()
        yield processes, None
        await processes.close()
    else:
        everything = frozenset({"images", "streams", "copy", "commit", "inspect"})
        fake = FakeBackend(capabilities=everything, program=_HostPrograms(environ))
        yield fake, "image:1"


class _HostPrograms:
    """Runs the programs of fake instances on this host, of whose mounts they see none: those are others'."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ

    async def __call__(self, end: ProgramEnd) -> int:
        process = await asyncio.create_subprocess_exec(
            "unshare",
            "--ipc",
            *end.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            start_new_session=True,
        )
        feeding = asyncio.create_task(self._feed(end, process))
        try:
            assert process.stdout is not None
            while data := await process.stdout.read(1 << 16):
                end.write(data)
            return await process.wait()
        finally:
            feeding.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _feed(self, end: ProgramEnd, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        with suppress(ConnectionError):
            while data := await end.read():
                process.stdin.write(data.replace(b"/proc/self/mountinfo", b"/dev/null"))
                await process.stdin.drain()
        process.stdin.close()
