"""What a backend may have beyond the rest, as tests: programs in instances, files, images, figures.

A part of `megaflow_server.testing.backends.BackendContract`. A backend that lacks one is asked to say so.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

import pytest

from megaflow.errors import FailedPrecondition, NotFound, ResourceExhausted
from megaflow_server.backends.base import (
    Backend,
    Exit,
    Instance,
    InstanceSpec,
    Stream,
    TerminalKind,
)

__all__ = ["PATIENCE", "ExtrasContract", "soon"]

# Far beyond what anything here takes on a busy machine, and short of a test's own time limit.
PATIENCE = 20.0

T = TypeVar("T")


class ExtrasContract(ABC):
    """Subclasses name a few programs, and a folder that instances have.

    Attributes:
        echo: a program that says what it is told, until the end of its input.
        inside: a folder in an instance, which its user may write to.
    """

    echo: ClassVar[Sequence[str]] = ("cat",)
    inside: ClassVar[str] = "/tmp"

    @abstractmethod
    def spec(
        self, instance_id: str, *, labels: Mapping[str, str] | None = None, config: bytes = b""
    ) -> InstanceSpec:
        """An instance that reads its configuration and then runs until SIGTERM, which ends it."""

    @abstractmethod
    async def received(self, backend: Backend, instance: Instance) -> bytes:
        """What it read on its standard input, up to end-of-file."""

    def exiting(self, code: int) -> Sequence[str]:
        """A program that complains of "this" and ends with an exit code."""
        return ("sh", "-c", f"echo this >&2; exit {code}")

    def image(self) -> str:
        """The name of an image that is at hand."""
        raise NotImplementedError

    async def started(self, backend: Backend, capability: str, instance_id: str = "a") -> Instance:
        """A new instance; the test is skipped where the backend lacks what it is about."""
        if capability not in backend.capabilities():
            pytest.skip(f"this backend has no {capability}")
        return await backend.create(self.spec(instance_id))

    @pytest.mark.parametrize(
        "capability",
        [
            *("images", "streams", "terminals", "ending", "copy", "commit", "inspect", "reach"),
            *("listen", "stats"),
        ],
    )
    async def test_a_missing_capability_is_a_failed_precondition(
        self, backend: Backend, capability: str
    ) -> None:
        if capability in backend.capabilities():
            pytest.skip(f"this backend has {capability}")
        instance = await backend.create(self.spec("a"))
        for call in self._calls(backend, instance)[capability]:
            with pytest.raises(FailedPrecondition, match=f"has no '{capability}'"):
                await call()

    def _calls(
        self, backend: Backend, instance: Instance
    ) -> Mapping[str, Sequence[Callable[[], Awaitable[object]]]]:
        return {
            "images": [lambda: backend.prepare("python:3.11")],
            "streams": [lambda: instance.open_stream(self.echo)],
            "terminals": [lambda: instance.open_terminal(self.echo, TerminalKind())],
            "ending": [instance.end_programs],
            "copy": [
                lambda: instance.put("/", io.BytesIO()),
                lambda: instance.get("/tmp", io.BytesIO(), most=1),
            ],
            "commit": [
                lambda: instance.commit({}),
                lambda: backend.images({}),
                lambda: backend.remove("sha256:0"),
            ],
            "inspect": [instance.changes, instance.programs],
            "reach": [lambda: instance.reach("none")],
            "listen": [lambda: instance.listen(0)],
            "stats": [lambda: instance.stats()],
        }

    async def test_a_stream_says_what_its_program_says(self, backend: Backend) -> None:
        stream = await (await self.started(backend, "streams")).open_stream(self.echo)
        data = bytes(range(256)) * 4096  # more than any buffer on the way holds
        stream.write(data[:1000])
        assert await _exactly(stream, 1000) == data[:1000]
        stream.write(data)
        assert await _exactly(stream, len(data)) == data
        await stream.close()
        assert await soon(stream.wait()) == Exit(code=0)
        assert await stream.read() == b""
        await stream.close()

    async def test_streams_are_kept_apart(self, backend: Backend) -> None:
        instance = await self.started(backend, "streams")
        streams = [await instance.open_stream(self.echo) for _ in range(3)]
        for number, stream in enumerate(streams):
            stream.write(b"%d" % number)
        assert [await _exactly(stream, 1) for stream in streams] == [b"0", b"1", b"2"]
        for stream in streams:
            await stream.close()

    async def test_a_program_ends_with_its_exit_code_and_what_it_complained_of(
        self, backend: Backend
    ) -> None:
        instance = await self.started(backend, "streams")
        for code in (0, 3):
            stream = await instance.open_stream(self.exiting(code))
            assert await soon(stream.read()) == b""
            assert await soon(stream.wait()) == Exit(code=code)
            assert stream.errors == b"this\n"
            await stream.close()

    async def test_a_program_ends_with_its_instance(self, backend: Backend) -> None:
        instance = await self.started(backend, "streams")
        stream = await instance.open_stream(self.echo)
        reading = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0)
        await backend.destroy("a", grace=0)
        assert await soon(reading) == b""
        assert (await soon(stream.wait())).code is None

    async def test_what_ended_takes_no_program(self, backend: Backend) -> None:
        instance = await self.started(backend, "streams")
        await backend.destroy("a", grace=0)
        with pytest.raises((FailedPrecondition, NotFound), match="a "):
            await instance.open_stream(self.echo)

    async def test_files_come_back_as_they_went(self, backend: Backend) -> None:
        instance = await self.started(backend, "copy")
        content = bytes(range(256)) * 5000
        await instance.put(self.inside, _tar({"one/a": content, "one/b": b""}))
        packed = io.BytesIO()
        await instance.get(f"{self.inside}/one", packed, most=len(content) + 20480)
        assert _files(packed) == {"one/a": content, "one/b": b""}

    async def test_a_tar_that_is_too_large_is_refused(self, backend: Backend) -> None:
        instance = await self.started(backend, "copy")
        await instance.put(self.inside, _tar({"a": bytes(100_000)}))
        with pytest.raises(ResourceExhausted, match="passes 99999 bytes"):
            await instance.get(f"{self.inside}/a", io.BytesIO(), most=99_999)

    async def test_what_is_not_there_is_not_found(self, backend: Backend) -> None:
        instance = await self.started(backend, "copy")
        with pytest.raises(NotFound, match="absent"):
            await instance.get(f"{self.inside}/absent", io.BytesIO(), most=1)

    async def test_an_instance_of_a_commit_has_the_files_of_then(self, backend: Backend) -> None:
        if "copy" not in backend.capabilities():
            pytest.skip("this backend has no copy")
        instance = await self.started(backend, "commit")
        await instance.put(self.inside, _tar({"a": b"then"}))
        image = await instance.commit({"run": "1", "kind": "x"})
        try:
            await instance.put(self.inside, _tar({"a": b"later"}))
            other = await backend.create(_of(self.spec("b"), image.id))
            packed = io.BytesIO()
            await other.get(f"{self.inside}/a", packed, most=1 << 20)
            assert _files(packed) == {"a": b"then"}
            assert dict(other.labels) == {}
            with pytest.raises(FailedPrecondition):
                await backend.remove(image.id)
            await backend.destroy("b", grace=0)
        finally:
            await backend.destroy("b", grace=0)
            await backend.remove(image.id)

    async def test_commits_are_listed_by_their_labels_until_they_are_removed(
        self, backend: Backend
    ) -> None:
        instance = await self.started(backend, "commit")
        first = await instance.commit({"run": "1", "kind": "x"})
        second = await instance.commit({"run": "2"})
        try:
            assert list(await backend.images({"run": "1"})) == [first]
            assert {image.id for image in await backend.images({})} == {first.id, second.id}
        finally:
            for image in (first, second):
                await backend.remove(image.id)
                await backend.remove(image.id)
        assert list(await backend.images({})) == []

    async def test_what_was_changed_in_an_instance_is_told(self, backend: Backend) -> None:
        if "copy" not in backend.capabilities():
            pytest.skip("this backend has no copy")
        instance = await self.started(backend, "inspect")
        await self.received(backend, instance)  # from then on it writes nothing by itself
        before = await instance.changes()
        await instance.put(self.inside, _tar({"left/a": b"behind"}))
        after = await instance.changes()
        assert after[f"{self.inside}/left/a"] == "added"
        assert f"{self.inside}/left/a" not in before
        assert before.keys() <= after.keys()

    async def test_what_runs_in_an_instance_is_told(self, backend: Backend) -> None:
        instance = await self.started(backend, "inspect")
        running = await instance.programs()
        assert running
        await backend.destroy("a", grace=0)
        with pytest.raises((FailedPrecondition, NotFound)):
            await instance.programs()

    async def test_an_instance_that_runs_has_figures(self, backend: Backend) -> None:
        instance = await self.started(backend, "stats")
        used = await instance.stats()
        assert used.cpu_seconds >= 0
        assert used.memory >= 0
        assert used.pids >= 1
        await backend.destroy("a", grace=0)
        with pytest.raises((FailedPrecondition, NotFound)):
            await instance.stats()

    async def test_an_image_that_is_not_at_hand_is_refused_before_anything_starts(
        self, backend: Backend
    ) -> None:
        if "images" not in backend.capabilities():
            pytest.skip("this backend has no images")
        with pytest.raises(FailedPrecondition, match=r"absent:1.*prepare"):
            await backend.create(_of(self.spec("a"), "absent:1"))
        assert list(await backend.list({})) == []

    async def test_what_an_instance_reaches_can_be_taken_from_it(self, backend: Backend) -> None:
        instance = await self.started(backend, "reach")
        await instance.reach("none")
        await instance.reach("none")
        await backend.destroy("a", grace=0)
        with pytest.raises((FailedPrecondition, NotFound)):
            await instance.reach("none")

    async def test_an_image_that_is_at_hand_is_prepared_at_once(self, backend: Backend) -> None:
        if "images" not in backend.capabilities():
            pytest.skip("this backend has no images")
        said: list[str] = []
        await backend.prepare(self.image(), lambda what, done, total: said.append(what))
        assert said == []


async def soon(awaitable: Awaitable[T]) -> T:
    """What comes of it, within the suite's patience."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


def _of(spec: InstanceSpec, image: str) -> InstanceSpec:
    return InstanceSpec(spec.id, spec.argv, spec.log, image=image, environ=spec.environ)


async def _exactly(stream: Stream, count: int) -> bytes:
    """As many bytes of a stream, read while what was written goes out."""
    data = b""
    draining = asyncio.ensure_future(stream.drain())
    async with asyncio.timeout(PATIENCE):
        while len(data) < count:
            part = await stream.read()
            assert part, f"the stream ended after {len(data)} bytes"
            data += part
        await draining
    return data


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed.seek(0)
    return packed


def _files(packed: io.BytesIO) -> dict[str, bytes]:
    packed.seek(0)
    found = {}
    with tarfile.open(fileobj=packed) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                found[member.name] = content.read()
    return found
