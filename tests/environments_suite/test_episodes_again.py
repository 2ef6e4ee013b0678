"""A later episode begins with what the first one began with, whatever the agent was able to write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from docker_rig import clear, docker_backend, new_scope
from megaflow.errors import FailedPrecondition
from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.starts import start_of
from sandbox_host import SandboxHost


@pytest.fixture
def strict(host: SandboxHost) -> Iterator[SandboxProxy]:
    """A container whose user may write to little of it."""
    scope = new_scope()
    sandbox = host.make("container", scope=scope, profile="strict")
    yield sandbox
    host.destroy(sandbox)

    async def clean() -> None:
        async with docker_backend(scope) as backend:
            await clear(backend)

    asyncio.run(clean())


@pytest.mark.requires("docker")
def test_files_that_were_there_are_there_again_in_a_container(strict: SandboxProxy) -> None:
    strict.exec("echo original >/tmp/code")
    start = start_of(strict, restartable=True)
    start.keep()
    strict.exec("echo mine >/tmp/code; echo more >/tmp/more")
    assert start.go_back()
    assert strict.exec("cat /tmp/code; ls /tmp").stdout.text == "original\ncode\n"


@pytest.mark.requires("namespaces")
def test_files_that_were_there_and_were_changed_are_told_where_nothing_brings_them_back(
    sandbox: SandboxProxy,
) -> None:
    sandbox.exec("echo original >/tmp/code")
    start = start_of(sandbox, restartable=True)
    start.keep()
    sandbox.exec("echo more >/tmp/more")
    assert not start.go_back()
    assert sandbox.exec("cat /tmp/code; ls /tmp").stdout.text == "original\ncode\n"
    sandbox.exec("echo altered >/tmp/code")  # as long as it was
    with pytest.raises(FailedPrecondition, match="other contents"):
        start.go_back()
