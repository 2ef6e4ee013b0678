"""The shipped conformance suite over containers of a real engine."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from docker_rig import busybox, docker_backend, shell
from megaflow_server.backends import IDLE, Backend, Instance, InstanceSpec
from megaflow_server.testing.backends import BackendContract
from process_scripts import appears

pytestmark = pytest.mark.requires("docker")


class TestDocker(BackendContract):
    @pytest.fixture(autouse=True)
    def _set(self, tmp_path: Path) -> None:
        self._folder = tmp_path
        self._image = busybox()

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        async with docker_backend() as backend:
            yield backend

    def image(self) -> str:
        return self._image

    def spec(
        self, instance_id: str, *, labels: Mapping[str, str] | None = None, config: bytes = b""
    ) -> InstanceSpec:
        script = f"cat >/tmp/part; mv /tmp/part /tmp/config; exec {' '.join(IDLE)}"
        plain = shell(self._image, self._folder, instance_id, script)
        return replace(plain, labels=labels or {}, config=config)

    async def create_stubborn(self, backend: Backend, instance_id: str) -> Instance:
        script = "trap '' TERM; echo ready; while :; do sleep 100; done"
        instance = await backend.create(shell(self._image, self._folder, instance_id, script))
        await appears(self._folder / f"{instance_id}.log", "ready")
        return instance

    async def create_ending(self, backend: Backend, instance_id: str, code: int) -> Instance:
        return await backend.create(shell(self._image, self._folder, instance_id, f"exit {code}"))

    async def kill(self, backend: Backend, instance: Instance) -> None:
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)

    async def received(self, backend: Backend, instance: Instance) -> bytes:
        stream = await instance.open_stream(
            ("sh", "-c", "while ! test -e /tmp/config; do sleep 0.01; done")
        )
        await stream.wait()
        await stream.close()
        packed = io.BytesIO()
        await instance.get("/tmp/config", packed, most=1 << 24)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            content = archive.extractfile("config")
            assert content is not None
            return content.read()
