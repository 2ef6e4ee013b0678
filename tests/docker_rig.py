"""Containers for tests: a backend of a scope of its own, which leaves nothing, and what runs in it."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker_images
from megaflow.errors import FailedPrecondition
from megaflow_server.backends import IDLE, Exit, Instance, InstanceSpec

if TYPE_CHECKING:
    from megaflow_server.backends.docker.backend import DockerBackend

busybox = functools.cache(docker_images.busybox)


@asynccontextmanager
async def docker_backend(scope: str = "", **options: Any) -> AsyncIterator[DockerBackend]:
    """A backend, and the removal of all that is in its scope."""
    from megaflow_server.backends.docker.backend import DockerBackend
    from megaflow_server.backends.docker.options import DockerOptions

    backend = DockerBackend(DockerOptions(scope=scope or new_scope(), **options))
    try:
        yield backend
    finally:
        try:
            await clear(backend)
        finally:
            await backend.close()


async def clear(backend: DockerBackend) -> None:
    """Remove everything that a backend sees."""
    for instance in await backend.list({}):
        await backend.destroy(instance.id, grace=0)
    while images := await backend.images({}):
        for image in images:
            with contextlib.suppress(FailedPrecondition):  # others come of it, which go first
                await backend.remove(image.id)


def new_scope() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


def shell(image: str, folder: Path, instance_id: str, script: str) -> InstanceSpec:
    """An instance that runs a line of shell, and logs to `<id>.log` in a folder."""
    log = folder / f"{instance_id}.log"
    return InstanceSpec(instance_id, ("sh", "-c", script), log, image=image)


def idle(folder: Path, instance_id: str = "a", **fields: Any) -> InstanceSpec:
    """An instance that waits for programs to be run in it."""
    plain = InstanceSpec(instance_id, IDLE, folder / f"{instance_id}.log", image=busybox())
    return replace(plain, **fields)


async def run(instance: Instance, script: str, *, user: str | None = None) -> tuple[Exit, str, str]:
    """How a line of shell ended in an instance, what it said and what it complained of."""
    return await run_program(instance, ("sh", "-c", script), user=user)


async def run_program(
    instance: Instance, argv: Sequence[str], *, user: str | None = None
) -> tuple[Exit, str, str]:
    """The same of any program."""
    stream = await instance.open_stream(argv, user=user)
    output = b""
    while data := await stream.read():
        output += data
    how = await stream.wait()
    errors = stream.errors
    await stream.close()
    return how, output.decode(), errors.decode()


def engine() -> Any:
    """The SDK's own client, for looking at what the backend did."""
    import docker

    return docker.DockerClient(base_url=os.environ.get("DOCKER_HOST"), timeout=60)
