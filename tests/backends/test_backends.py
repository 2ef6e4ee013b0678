"""The shipped conformance suite over the fake and over processes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument
from megaflow_server.backends import Backend, Exit, Instance, InstanceSpec, get_backend
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.backends.fake_stream import ProgramEnd, cat
from megaflow_server.testing.backends import BackendContract
from process_scripts import appears, script

STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); signal.pause()"
)


async def program(end: ProgramEnd) -> int:
    """What runs in the fake: `cat`, or the end with an exit code and a complaint."""
    if end.argv[0] == "exit":
        end.complain(b"this\n")
        return int(end.argv[1])
    return await cat(end)


class TestFake(BackendContract):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()

    def exiting(self, code: int) -> Sequence[str]:
        return ("exit", str(code))

    def spec(
        self, instance_id: str, *, labels: Mapping[str, str] | None = None, config: bytes = b""
    ) -> InstanceSpec:
        return InstanceSpec(
            instance_id, ("worker",), Path("unused.log"), config=config, labels=labels or {}
        )

    async def create_stubborn(self, backend: Backend, instance_id: str) -> Instance:
        assert isinstance(backend, FakeBackend)
        backend.stubborn.add(instance_id)
        return await backend.create(self.spec(instance_id))

    async def create_ending(self, backend: Backend, instance_id: str, code: int) -> Instance:
        assert isinstance(backend, FakeBackend)
        instance = await backend.create(self.spec(instance_id))
        await backend.finish(instance_id, code)
        return instance

    async def kill(self, backend: Backend, instance: Instance) -> None:
        assert isinstance(backend, FakeBackend)
        await backend.kill(instance.id)

    async def received(self, backend: Backend, instance: Instance) -> bytes:
        assert isinstance(backend, FakeBackend)
        (found,) = await backend.list({})
        return found.spec.config


class TestFakeWithEverything(TestFake):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        everything = frozenset({"images", "streams", "copy", "commit", "inspect", "stats"})
        backend = FakeBackend(capabilities=everything, program=program)
        backend.prepared.append(self.image())
        return backend

    def image(self) -> str:
        return "image:1"


class TestProcess(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        backend = get_backend("process")
        yield backend
        for instance in await backend.list({}):
            await backend.destroy(instance.id, grace=0)

    def spec(
        self, instance_id: str, *, labels: Mapping[str, str] | None = None, config: bytes = b""
    ) -> InstanceSpec:
        copy = self.folder / f"{instance_id}.config"
        code = (
            "import os, signal, sys; data = sys.stdin.buffer.read(); "
            f"open('{copy}.part', 'wb').write(data); os.rename('{copy}.part', '{copy}'); "
            "signal.pause()"
        )
        return script(self.folder, instance_id, code, labels=labels, config=config)

    async def create_stubborn(self, backend: Backend, instance_id: str) -> Instance:
        instance = await backend.create(script(self.folder, instance_id, STUBBORN))
        await appears(self.folder / f"{instance_id}.log", "ready")
        return instance

    async def create_ending(self, backend: Backend, instance_id: str, code: int) -> Instance:
        return await backend.create(script(self.folder, instance_id, f"raise SystemExit({code})"))

    async def kill(self, backend: Backend, instance: Instance) -> None:
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)

    async def received(self, backend: Backend, instance: Instance) -> bytes:
        copy = self.folder / f"{instance.id}.config"
        await appears(copy)
        return copy.read_bytes()


def test_a_backend_is_found_by_its_name() -> None:
    assert get_backend("fake").name == "fake"
    assert get_backend("process").name == "process"


def test_an_unknown_backend_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'process'"):
        get_backend("proces")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (Exit(code=3), "exit code 3"),
        (Exit(signal=9), "signal 9 (SIGKILL)"),
        (Exit(signal=40), "signal 40"),
        (Exit(), "exit status unknown"),
    ],
)
def test_an_exit_reads_well(how: Exit, text: str) -> None:
    assert str(how) == text


@pytest.mark.parametrize("instance_id", ["", "-a", "a/b", "a b", "a" * 64, "a\n"])
def test_an_id_that_some_backend_could_not_use_is_refused(instance_id: str) -> None:
    with pytest.raises(InvalidArgument, match="id="):
        InstanceSpec(instance_id, ("true",), Path("log"))


def test_a_spec_shows_no_secret() -> None:
    spec = InstanceSpec("a", ("true",), Path("log"), config=b"hidden", environ={"KEY": "hidden"})
    assert "hidden" not in repr(spec)
