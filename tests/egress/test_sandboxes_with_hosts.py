"""Sandboxes of processes and of containers that reach the hosts that are named, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from megaflow_server.egress import can_listen, proxy
from megaflow_server.pool import Leased
from megaflow_server.templates import PoolSize, Reaches
from pool_rig import Scene, scene

pytestmark = pytest.mark.skipif(
    not can_listen(), reason="takes CAP_SYS_ADMIN, to enter the networks of sandboxes"
)

KINDS = [
    pytest.param("process", marks=pytest.mark.requires("namespaces")),
    pytest.param("docker", marks=pytest.mark.requires("docker")),
]


@dataclass
class World:
    """Pools, and a host whose names are one.test and two.test."""

    here: Scene
    port: int

    async def get(self, leased: Leased, url: str, before: str = "") -> tuple[int, str]:
        """The exit code of a download in a sandbox, and what it said."""
        done = await leased.sandbox.exec(
            f"{before}busybox wget -qO- http://{url}:{self.port}/x 2>&1", timeout=20
        )
        return done.exit_code, bytes(done.stdout).decode()


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    if request.param == "process" and shutil.which("busybox") is None:
        pytest.skip("busybox is missing")

    async def look_up(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(proxy, "_look_up", look_up)
    monkeypatch.setattr(proxy, "is_forbidden", lambda address: False)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nserved")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reaches = Reaches("none", (f"one.test:{port}",), (f"two.test:{port}",))
    fields = {"profile": "standard"} if request.param == "docker" else {}
    async with scene(
        request.param, tmp_path, network=reaches, pool=PoolSize(max=2), **fields
    ) as here:
        yield World(here, port)
    server.close()


async def test_each_phase_reaches_its_hosts_and_nothing_else(world: World) -> None:
    leased = await world.here.lease()
    sandbox = leased.sandbox
    assert (await world.get(leased, "one.test"))[0] != 0
    await sandbox.enter("agent")
    assert await world.get(leased, "one.test") == (0, "served")
    code, said = await world.get(leased, "two.test")
    assert code != 0
    assert "403" in said
    # Without the proxy there is no way out, and no name is known.
    no_proxy = "unset http_proxy; "
    for host in ("one.test", "169.254.169.254", "172.17.0.1", "10.0.0.1"):
        assert (await world.get(leased, host, no_proxy))[0] != 0
    addresses = bytes((await sandbox.exec("cat /proc/net/route /proc/net/dev")).stdout).decode()
    assert "eth" not in addresses
    await sandbox.enter("verifier")
    assert "403" in (await world.get(leased, "one.test"))[1]
    assert await world.get(leased, "two.test") == (0, "served")
    await leased.release(dirty=True)


async def test_a_network_that_an_earlier_phase_had_is_gone(world: World) -> None:
    if world.here.backend.name != "docker":
        pytest.skip("it has one network for all phases")
    reaches = replace(world.here.template.network, setup="public")
    leased = await world.here.lease(world.here.having(network=reaches))
    routes = "cat /proc/net/route"
    assert b"eth" in bytes((await leased.sandbox.exec(routes)).stdout)
    await leased.sandbox.enter("agent")
    assert b"eth" not in bytes((await leased.sandbox.exec(routes)).stdout)
    assert await world.get(leased, "one.test") == (0, "served")
    assert "403" in (await world.get(leased, "two.test"))[1]
    await leased.release(dirty=True)


async def test_one_that_reached_hosts_is_used_again(world: World) -> None:
    leased = await world.here.lease()
    await leased.sandbox.enter("agent")
    assert await world.get(leased, "one.test") == (0, "served")
    await leased.release(dirty=False)
    status = await world.here.settled()
    assert (status.reused, status.fault) == (1, None)
    again = await world.here.lease()
    assert again.id == leased.id
    assert (await world.get(again, "one.test"))[0] != 0  # it begins with its set-up
    await again.sandbox.enter("agent")
    assert await world.get(again, "one.test") == (0, "served")


async def test_a_shell_and_a_command_of_ones_own_find_it(world: World) -> None:
    leased = await world.here.lease()
    await leased.sandbox.enter("agent")
    shell = await leased.sandbox.shell(env={"A": "b"})
    url = f"http://one.test:{world.port}/x"
    assert (await shell.run(f"busybox wget -qO- {url}")).stdout == b"served"
    done = await leased.sandbox.exec("echo $https_proxy", env={"https_proxy": "mine"})
    assert done.stdout == b"mine\n"


async def test_it_is_there_before_anybody_else_can_be(world: World) -> None:
    leased = await world.here.lease()
    done = await leased.sandbox.exec("cat /proc/net/tcp")
    assert b"0100007F:0C38" in bytes(done.stdout)  # 127.0.0.1:3128, from the beginning on
    await leased.release(dirty=True)


async def test_what_was_restored_reaches_its_hosts_too(world: World) -> None:
    if world.here.backend.name != "docker":
        pytest.skip("it keeps no snapshots")
    leased = await world.here.lease()
    await leased.sandbox.enter("agent")
    snapshot = await leased.sandbox.snapshot()
    await leased.sandbox.restore(snapshot)
    assert await world.get(leased, "one.test") == (0, "served")
    assert "403" in (await world.get(leased, "two.test"))[1]
    await leased.release(dirty=True)
