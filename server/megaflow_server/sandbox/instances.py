"""A sandbox that is an instance of a backend with streams, and keeps snapshots where that has commits."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO

from megaflow.errors import FailedPrecondition, NotFound, ResourceExhausted
from megaflow_server.backends.base import (
    Backend,
    Instance,
    InstanceSpec,
    Network,
    Stream,
    Terminal,
    TerminalKind,
)
from megaflow_server.quantities import shown
from megaflow_server.sandbox.link import ARGV
from megaflow_server.sandbox.phases import ALIKE, Phases
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["InstanceSandbox"]


# Snapshots of one sandbox that are kept.
_MOST = 100


class InstanceSandbox(AsyncSandbox):
    """A sandbox in an instance of its own.

    A snapshot is an image; going back to one makes a new instance, of the same specification but for its
    image, and destroys the old one. `destroy` removes the snapshots too.
    """

    def __init__(
        self, backend: Backend, spec: InstanceSpec, instance: Instance, phases: Phases = ALIKE
    ) -> None:
        commits = "commit" in backend.capabilities()
        kept = _Kept(self) if commits else None
        terminal = self._terminal if "terminals" in backend.capabilities() else None
        end_all = self._end_programs if "ending" in backend.capabilities() else None
        put = self._put if "copy" in backend.capabilities() else None
        super().__init__(
            self._stream, kept, phases, self._set_network, self._listening, terminal, end_all, put
        )
        self._backend = backend
        self._spec = spec
        self._instance = instance
        self._numbers = itertools.count(1)
        self._images: dict[str, int] = {}  # and their bytes
        self._given_up: set[str] = set()
        # What each of them came of, and what it is in: one of them, one of another's, or none.
        self._parents: dict[str, str | None] = {}
        self._parent: str | None = None
        self._adopted: set[str] = set()
        self._turn = asyncio.Lock()

    @classmethod
    async def start(
        cls, backend: Backend, spec: InstanceSpec, phases: Phases = ALIKE
    ) -> InstanceSandbox:
        """Create the instance of a specification, which idles, and take it as a sandbox."""
        return cls(backend, spec, await backend.create(spec), phases)

    @property
    def instance(self) -> Instance:
        """What it is in at the moment."""
        return self._instance

    async def destroy(self) -> None:
        """End it with everything in it, and remove its snapshots."""
        await self.close()
        await self._backend.destroy(self._instance.id, grace=0)
        for image in reversed(self._images):  # none before what came of it
            await self._backend.remove(image)
        self._images.clear()

    @property
    def kept_images(self) -> frozenset[str]:
        """What it can go back to, and what that came of."""
        return frozenset({*self._needed(), *self._adopted})

    def adopt(self, snapshot: str) -> None:
        """Take an image that another sandbox has kept, and removes, for what it can go back to, too."""
        self._adopted.add(snapshot)

    def bytes_of(self, snapshot: str) -> int:
        return self._images[snapshot]

    def give_up(self, snapshot: str) -> None:
        """Nobody goes back to one of its own any more: it goes as soon as nothing that came of it is left."""
        if snapshot in self._images:
            self._given_up.add(snapshot)

    def _needed(self) -> set[str]:
        needed: set[str] = set()
        for image in [self._parent, *(self._images.keys() - self._given_up)]:
            while image in self._images and image not in needed:
                needed.add(image)
                image = self._parents[image]
        return needed

    async def _stream(self, user: str | None) -> Stream:
        return await self._instance.open_stream(ARGV, user=user)

    async def _terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        user: str | None,
        environ: Mapping[str, str],
        directory: str | None,
    ) -> Terminal:
        return await self._instance.open_terminal(
            argv, kind, user=user, environ=environ, directory=directory
        )

    async def _end_programs(self) -> None:
        if await self._instance.end_programs():
            return
        if self._snapshots is None or self._instance.volumes:
            raise FailedPrecondition("processes of the sandbox are still there after SIGKILL")
        # What cannot be ended goes with its instance; another one has the files.
        self.was_kept = True
        await self.go_back(await self.keep(self._instance.labels))
        await self._shut()

    async def _listening(self, port: int) -> socket.socket:
        return await self._instance.listen(port)

    async def _put(self, tar: IO[bytes]) -> None:
        await self._instance.put("/", tar)

    async def _set_network(self, network: Network) -> None:
        async with self._turn:
            await self._instance.reach(network)
            self._spec = replace(self._spec, network=network)

    async def keep(self, labels: Mapping[str, str]) -> str:
        """An image of it as it is now.

        Raises:
            FailedPrecondition: it has volumes, which no image of it would hold.
            ResourceExhausted: it has kept too many, or they would hold more than it may write.
        """
        async with self._turn:
            if volumes := self._instance.volumes:
                raise FailedPrecondition(
                    f"no snapshot of this sandbox would hold what is in {', '.join(volumes)}, which its image "
                    "declares a VOLUME: build the image without, by a Dockerfile of FROM scratch and "
                    "COPY --from=IMAGE / /"
                )
            needed = self._needed()
            if len(needed) >= _MOST:
                raise ResourceExhausted(
                    f"{_MOST} snapshots of this sandbox are kept, and there may be no more: drop some with "
                    "client.drop_snapshot(id), or go on from one in another session, by client.fork"
                )
            image = await self._instance.commit(labels)
            held = image.size + sum(self._images[one] for one in needed)
            limit = self._instance.disk_limit
            if limit is not None and held > limit:
                await self._backend.remove(image.id)
                raise ResourceExhausted(
                    f"the snapshots of this sandbox would hold {shown(held)}, and may hold the {shown(limit)} that it "
                    "may write: raise limits.disk of its template, drop some with client.drop_snapshot(id), or go on "
                    "from one in another session, by client.fork"
                )
            self._images[image.id] = image.size
            self._parents[image.id] = self._parent
            return image.id

    async def go_back(self, snapshot: str) -> None:
        """Be an instance of a snapshot, in place of what it is in."""
        async with self._turn:
            if snapshot not in self.kept_images:
                raise NotFound(f"snapshot={snapshot!r}: this sandbox has no such snapshot")
            # A new name, so that a creation that is repeated finds this one and not the old one.
            name = f"{self._spec.id[:56]}-{next(self._numbers)}"
            spec = replace(self._spec, id=name, image=snapshot)
            old, self._instance = self._instance, await self._backend.create(spec)
            self._parent = snapshot
            await self._backend.destroy(old.id, grace=0)


class _Kept:
    """Its snapshots: see `Snapshots`."""

    def __init__(self, sandbox: InstanceSandbox) -> None:
        self._sandbox = sandbox

    async def snapshot(self) -> str:
        return await self._sandbox.keep(self._sandbox.instance.labels)

    async def restore(self, snapshot: str) -> None:
        await self._sandbox.go_back(snapshot)

    def adopt(self, snapshot: str) -> None:
        self._sandbox.adopt(snapshot)

    def size_of(self, snapshot: str) -> int:
        return self._sandbox.bytes_of(snapshot)

    def give_up(self, snapshot: str) -> None:
        self._sandbox.give_up(snapshot)

    def images(self) -> frozenset[str]:
        return self._sandbox.kept_images
