"""An instance of the fake backend, with files and programs where the backend has these, and its images."""

from __future__ import annotations

import asyncio
import io
import itertools
import posixpath
import socket
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import IO, Literal, Protocol

from megaflow.errors import FailedPrecondition, NotFound, ResourceExhausted
from megaflow_server.backends.base import (
    Change,
    Exit,
    Image,
    InstanceSpec,
    InstanceState,
    Network,
    Stats,
    Terminal,
    TerminalKind,
    lacks,
)
from megaflow_server.backends.fake_stream import FakeStream, Program
from megaflow_server.backends.instance import unseen

__all__ = ["Body", "FakeImages", "FakeInstance", "Verb"]

Verb = Literal[
    "create", "destroy", "list", "prepare", "remove", "stream", "copy", "commit", "inspect", "reach"
]


class Body(Protocol):
    """What a fake instance runs; `close` may be a coroutine function, and is called once."""

    def close(self) -> Awaitable[None] | None: ...


class FakeImages:
    """What was committed: files by path, under an id each."""

    def __init__(self) -> None:
        self._files: dict[str, Mapping[str, bytes]] = {}
        self._images: dict[str, Image] = {}
        self._ids = itertools.count(1)

    def __contains__(self, image: str) -> bool:
        return image in self._images

    def add(self, files: Mapping[str, bytes], labels: Mapping[str, str]) -> Image:
        image = Image(f"fake:{next(self._ids)}", dict(labels))
        self._images[image.id] = image
        self._files[image.id] = dict(files)
        return image

    def files(self, image: str | None) -> dict[str, bytes]:
        return dict(self._files.get(image or "", {}))

    def select(self, labels: Mapping[str, str]) -> Sequence[Image]:
        return [one for one in self._images.values() if labels.items() <= one.labels.items()]

    def remove(self, image: str) -> None:
        self._images.pop(image, None)
        self._files.pop(image, None)


class FakeInstance:
    """An instance that is nothing but its record, and its body where it has one.

    Attributes:
        files: what was put into it, by absolute path; every folder is there.
        streams: the streams that were opened, in order.
        running: what `programs` says beside its main process.
        used: what `stats` says; may be replaced at any time.
        network: what it reaches.
    """

    pid = None

    def __init__(
        self,
        spec: InstanceSpec,
        body: Body | None,
        capabilities: frozenset[str],
        program: Program,
        images: FakeImages,
        fail: Callable[[Verb], None],
        volumes: Sequence[str],
    ) -> None:
        self.spec = spec
        self.volumes = volumes
        self.body = body
        self.exit: Exit | None = None
        self.closed = asyncio.Event()
        self.files = images.files(spec.image)
        self.streams: list[FakeStream] = []
        self.running: list[str] = []
        self.used = Stats(cpu_seconds=0.0, memory=0, pids=1)
        self.network = spec.network
        self._capabilities = capabilities
        self._program = program
        self._images = images
        self._fail = fail
        self._exited = asyncio.Event()

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def labels(self) -> Mapping[str, str]:
        return self.spec.labels

    @property
    def disk_limit(self) -> int | None:
        return self.spec.limits.disk

    @property
    def blind(self) -> str | None:
        return unseen(self.volumes)

    @property
    def state(self) -> InstanceState:
        return InstanceState.RUNNING if self.exit is None else InstanceState.EXITED

    async def wait(self) -> Exit:
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    async def end(self, how: Exit) -> None:
        self.exit = how
        for stream in self.streams:
            await stream.kill()
        self._exited.set()

    async def open_stream(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> FakeStream:
        self._use("streams", "stream")
        self._running()
        stream = FakeStream(self._program, argv, user)
        self.streams.append(stream)
        return stream

    async def open_terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> Terminal:
        lacks("fake", "terminals")

    async def end_programs(self) -> bool:
        lacks("fake", "ending")

    async def put(self, directory: str, tar: IO[bytes]) -> None:
        self._use("copy", "copy")
        with tarfile.open(fileobj=tar, mode="r|*") as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    self.files[posixpath.join(directory, member.name)] = content.read()

    async def get(self, path: str, tar: IO[bytes], *, most: int) -> None:
        self._use("copy", "copy")
        found = {
            name: data
            for name, data in self.files.items()
            if name == path or name.startswith(path.rstrip("/") + "/")
        }
        if not found:
            raise NotFound(f"instance {self.id} has no {path!r}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in found.items():
                member = tarfile.TarInfo(posixpath.relpath(name, posixpath.dirname(path)))
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        if buffer.tell() > most:
            raise ResourceExhausted(
                f"the tar of {path!r} of instance {self.id} passes {most} bytes"
            )
        tar.write(buffer.getvalue())

    async def commit(self, labels: Mapping[str, str]) -> Image:
        self._use("commit", "commit")
        return self._images.add(self.files, labels)

    async def changes(self) -> Mapping[str, Change]:
        self._use("inspect", "inspect")
        before = self._images.files(self.spec.image)
        changes: dict[str, Change] = dict.fromkeys(before.keys() - self.files.keys(), "deleted")
        for path, content in self.files.items():
            if path not in before:
                changes[path] = "added"
            elif content != before[path]:
                changes[path] = "changed"
        return changes

    async def own_files(self) -> Mapping[str, str]:
        self._use("inspect", "inspect")
        return {}

    async def attributes(self, path: str) -> str:
        self._use("inspect", "inspect")
        return ""

    async def programs(self) -> Sequence[str]:
        self._use("inspect", "inspect")
        self._running()
        return [" ".join(self.spec.argv), *self.running]

    async def reach(self, network: Network) -> None:
        self._use("reach", "reach")
        self._running()
        self.network = network

    async def listen(self, port: int) -> socket.socket:
        lacks("fake", "listen")

    async def stats(self) -> Stats:
        if "stats" not in self._capabilities:
            lacks("fake", "stats")
        self._running()
        return self.used

    def _use(self, capability: str, verb: Verb) -> None:
        if capability not in self._capabilities:
            lacks("fake", capability)
        self._fail(verb)

    def _running(self) -> None:
        if self.exit is not None:
            raise FailedPrecondition(f"instance {self.id} has ended: {self.exit}")
