"""An instance as a pool sees it: sandboxes are opened in it, one after the other, and it is looked at from outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from megaflow_server.backends.base import Backend, Exit, Instance, InstanceSpec, Stats
from megaflow_server.pool.describe import GONE, describe
from megaflow_server.sandbox.instances import InstanceSandbox
from megaflow_server.sandbox.phases import ALIKE, Phases
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["Files", "Host", "InstanceHost", "without_ours"]

T = TypeVar("T")

# What is at a path: see `describe`.
Files = Mapping[str, str]

# Paths that are asked for at once.
_AT_ONCE = 8


def without_ours(files: Mapping[str, T], sandbox: AsyncSandbox | None) -> dict[str, T]:
    """What of paths is not of the streams that are attached now, by the very names of their folders.

    Nobody but who used the sandbox knew these names, and only after the session before it had ended.
    """
    names = sandbox.folders() if sandbox is not None else frozenset()
    return {
        path: what for path, what in files.items() if names.isdisjoint(PurePosixPath(path).parts)
    }


class Host(Protocol):
    """One instance."""

    @property
    def id(self) -> str: ...

    @property
    def blind(self) -> str | None:
        """Why `files` may leave something out; None where it does not."""

    def open(self) -> AsyncSandbox:
        """A new sandbox in it; the one before is to be closed."""

    async def files(self) -> Files:
        """What differs from what it was made of, as far as can be told without what a fresh one is like."""

    async def programs(self) -> Counter[str]:
        """The command lines of what runs in it."""

    async def stats(self) -> Stats | None:
        """What it uses; None where nobody counts that."""

    async def wait(self) -> Exit:
        """How it ended, as soon as it has."""

    async def destroy(self) -> None:
        """End it, with everything in it."""


class InstanceHost:
    """An instance of a backend that has "streams", and where it is to be compared also "copy" and "inspect".

    Attributes:
        instance: what it is in, as long as it was not restored.
    """

    def __init__(
        self, backend: Backend, spec: InstanceSpec, instance: Instance, phases: Phases = ALIKE
    ) -> None:
        self._backend = backend
        self._spec = spec
        self.instance = instance
        self._phases = phases
        self._sandbox: InstanceSandbox | None = None

    @property
    def id(self) -> str:
        return self._spec.id

    @property
    def blind(self) -> str | None:
        return self.instance.blind

    def open(self) -> AsyncSandbox:
        self._sandbox = InstanceSandbox(self._backend, self._spec, self.instance, self._phases)
        return self._sandbox

    async def files(self) -> Files:
        changes = without_ours(await self.instance.changes(), self._sandbox)
        paths = list(changes)
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(path: str) -> str:
            if changes[path] == "deleted":
                return GONE
            async with turn:
                return await describe(self.instance, path)

        lines = dict(zip(paths, await asyncio.gather(*map(one, paths)), strict=True))
        return {**lines, **await self.instance.own_files()}

    async def programs(self) -> Counter[str]:
        return Counter(await self.instance.programs())

    async def stats(self) -> Stats | None:
        counted = "stats" in self._backend.capabilities()
        return await self._current.stats() if counted else None

    async def wait(self) -> Exit:
        while True:
            current = self._current
            how = await current.wait()
            if (
                current is self._current
            ):  # and not another one in its place, that a snapshot was restored in
                return how

    @property
    def _current(self) -> Instance:
        return self.instance if self._sandbox is None else self._sandbox.instance

    async def destroy(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()
        for name in {self._current.id, self._spec.id}:
            await self._backend.destroy(name, grace=0)
