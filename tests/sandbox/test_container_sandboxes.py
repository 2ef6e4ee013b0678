"""The shipped conformance suite over sandboxes that are containers of a real engine, with busybox in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from docker_rig import docker_backend, idle, new_scope
from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    ResourceExhausted,
)
from megaflow.sandbox import Sandbox
from megaflow.sandbox_proxy import SandboxProxy
from megaflow.testing.sandboxes import SandboxContract
from megaflow_server.backends import Limits
from megaflow_server.sandbox import machine
from megaflow_server.sandbox.instances import InstanceSandbox
from sandbox_host import SandboxHost

pytestmark = pytest.mark.requires("docker")


@pytest.fixture(scope="module")
def host() -> Iterator[SandboxHost]:
    host = SandboxHost()
    yield host
    host.close()


@pytest.fixture(scope="module")
def usual(host: SandboxHost) -> Iterator[list[SandboxProxy]]:
    """The container of most tests, which leave it as it was, or dead."""
    usual: list[SandboxProxy] = []
    yield usual
    for sandbox in usual:
        host.destroy(sandbox)


class TestContainer(SandboxContract):
    snapshots = True

    @pytest.fixture
    def sandbox(self, host: SandboxHost, usual: list[SandboxProxy]) -> Iterator[SandboxProxy]:
        self.host = host
        if not usual:
            usual.append(host.make("container", scope=new_scope(), profile="standard"))
        (sandbox,) = usual
        yield sandbox
        try:
            sandbox.exec("true", timeout=10)
        except MegaflowError:
            usual.remove(sandbox)
            host.destroy(sandbox)

    def kill(self, sandbox: Sandbox) -> None:
        self.host.kill(sandbox)


MIB = 1 << 20


async def test_what_a_snapshot_holds_counts_against_the_disk_of_what_is_made_of_it(
    tmp_path: Path,
) -> None:
    async with docker_backend() as backend:
        spec = idle(tmp_path, profile="strict", limits=Limits(disk=20 * MIB))
        sandbox = await InstanceSandbox.start(backend, spec)
        await sandbox.exec("head -c 12m /dev/zero >/tmp/a")
        first = await sandbox.snapshot()
        await sandbox.restore(first)
        assert (await sandbox.exec("ls /tmp")).stdout == b"a\n"
        # The rest of it, in one file or in several.
        assert (await sandbox.exec("head -c 9m /dev/zero >/tmp/b")).exit_code != 0
        instance = sandbox.instance
        await sandbox.exec("rm /tmp/b; for i in 1 2; do head -c 5m /dev/zero >/tmp/c$i; done")
        async with asyncio.timeout(30):
            assert "more than its 20.0 MiB of disk" in str((await instance.wait()).reason)
        await sandbox.destroy()


async def test_the_snapshots_of_a_sandbox_hold_no_more_than_it_may_write(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        spec = idle(tmp_path, profile="strict", limits=Limits(disk=20 * MIB))
        sandbox = await InstanceSandbox.start(backend, spec)
        await sandbox.exec("head -c 8m /dev/zero >/tmp/a")
        kept = {await sandbox.snapshot(), await sandbox.snapshot()}
        with pytest.raises(ResourceExhausted, match=r"24\.0 MiB, and may hold the 20\.0 MiB"):
            await sandbox.snapshot()
        assert sandbox.images() == kept
        assert {one.id for one in await backend.images({})} == kept
        await sandbox.restore(min(kept))
        await sandbox.destroy()


async def test_there_is_a_most_of_snapshots_of_one_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow_server.sandbox.instances._MOST", 2)
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path))
        for _ in range(2):
            await sandbox.snapshot()
        with pytest.raises(ResourceExhausted, match="2 snapshots of this sandbox are kept"):
            await sandbox.snapshot()
        await sandbox.destroy()


async def test_what_is_given_up_makes_room_once_nothing_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow_server.sandbox.instances._MOST", 2)
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path))
        first, second = [await sandbox.snapshot() for _ in range(2)]
        sandbox.give_up(first)
        assert sandbox.images() == {second}
        await backend.remove(first)  # as the reaper does with what nobody needs
        await sandbox.restore(second)
        third = await sandbox.snapshot()
        sandbox.give_up(second)
        sandbox.give_up("another's")
        # It is in an instance of the second, which the third came of, too.
        assert sandbox.images() == {second, third}
        with pytest.raises(FailedPrecondition):
            await backend.remove(second)
        await sandbox.restore(third)
        assert sandbox.images() == {second, third}
        with pytest.raises(ResourceExhausted):
            await sandbox.snapshot()
        await sandbox.destroy()
        assert await backend.images({}) == []


async def test_a_command_costs_a_tenth_of_an_exec(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile="standard"))
        shell = await sandbox.shell()

        async def execute() -> None:
            stream = await sandbox.instance.open_stream(("sh", "-c", "true"))
            while await stream.read():
                pass
            await stream.close()

        # Turn by turn, and the cheapest of each: what it costs, without what else the machine does.
        costs: dict[str, list[float]] = {"exec": [], "sandbox": [], "shell": []}
        for _ in range(25):
            costs["exec"].append(await _seconds(execute()))
            costs["sandbox"].append(await _seconds(sandbox.exec("true")))
            costs["shell"].append(await _seconds(shell.run("true")))
        cheapest = {name: min(seconds) for name, seconds in costs.items()}
        assert cheapest["sandbox"] * 10 <= cheapest["exec"], cheapest
        assert cheapest["shell"] * 10 <= cheapest["exec"], cheapest
        await sandbox.destroy()


async def test_after_many_commands_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "BEAT_EVERY", 0.5)
    # Process ids in a container are as small as the numbers of commands.
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path))
        for _ in range(60):
            await sandbox.exec("true")
        result = await sandbox.exec("sleep 1.5; echo end")
        assert result.stdout == b"end\n"
        await sandbox.destroy()


async def test_users_have_streams_of_their_own(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile="standard"))
        assert (await sandbox.exec("id -u")).stdout == b"0\n"
        assert (await sandbox.exec("id -u", user="user")).stdout == b"1000\n"
        await sandbox.write_block("/home/user/file", b"1", append=False, user="user")
        assert (await sandbox.exec("stat -c %U /home/user/file")).stdout == b"user\n"
        with pytest.raises(FailedPrecondition, match="cannot be written"):
            await sandbox.write_block("/root/file", b"1", append=False, user="user")
        with pytest.raises(InvalidArgument):
            await sandbox.exec("true", user="nobody-here")
        await sandbox.destroy()


async def _seconds(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began
