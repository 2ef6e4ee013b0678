"""What a sandbox reaches and who runs its commands, phase by phase."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docker_rig import busybox, docker_backend, engine, idle
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.pool.pools import Pools
from megaflow_server.sandbox.instances import InstanceSandbox
from megaflow_server.sandbox.phases import Phases, check_phases
from megaflow_server.sandbox.process import ProcessSandbox, Room
from megaflow_server.sandbox.sandbox import AsyncSandbox
from megaflow_server.templates import Reaches, Template, Users

ALL = frozenset({"images", "streams", "copy", "commit", "inspect", "reach", "stats"})
CLOSED_WHILE_THE_AGENT_WORKS = Phases(Reaches("public", "none", "public"))


@contextmanager
def listening() -> Iterator[int]:
    """A port of this host, at each of its addresses, that says "here"."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"here\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def networks(scope: str) -> list[str]:
    """Those of a scope that an engine has."""
    client = engine()
    found = client.networks.list(filters={"label": f"megaflow-scope={scope}"})
    client.close()
    return [one.name for one in found]


async def reached(sandbox: AsyncSandbox, port: int) -> bytes:
    """What a port of the host says to a sandbox that knows the way there."""
    command = "nc -w 2 $(ip route | awk '/^default/ {print $3}') " + str(port)
    return bytes((await sandbox.exec(command)).stdout)


@pytest.mark.requires("docker")
async def test_a_running_container_reaches_what_its_phase_says(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        with listening() as port:
            spec = idle(tmp_path, profile="standard", network="public")
            sandbox = await InstanceSandbox.start(backend, spec, CLOSED_WHILE_THE_AGENT_WORKS)
            assert await reached(sandbox, port) == b"here\n"
            shell = await sandbox.shell()
            await sandbox.enter("agent")
            assert await reached(sandbox, port) == b""
            assert (await shell.run("ip -o addr | grep -v ' lo '")).stdout == b""
            kept = await sandbox.snapshot()
            await sandbox.restore(kept)
            assert await reached(sandbox, port) == b""
            await sandbox.enter("verifier")
            assert await reached(sandbox, port) == b"here\n"
            await sandbox.destroy()


@pytest.mark.requires("docker")
async def test_commands_are_run_by_the_user_of_their_phase(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        phases = Phases(user=Users(agent="user", verifier="0"))
        spec = idle(tmp_path, profile="standard")
        sandbox = await InstanceSandbox.start(backend, spec, phases)
        said = [bytes((await sandbox.exec("id -u")).stdout)]
        await sandbox.enter("agent")
        said.append(bytes((await sandbox.exec("id -u")).stdout))
        said.append(bytes((await (await sandbox.shell()).run("id -u")).stdout))
        said.append(bytes((await sandbox.exec("id -u", user="1234")).stdout))
        await sandbox.write_block("/tmp/of-the-agent", b"", append=False)
        await sandbox.enter("verifier")
        said.append(bytes((await sandbox.exec("id -u; stat -c %U /tmp/of-the-agent")).stdout))
        assert said == [b"0\n", b"1000\n", b"1000\n", b"1234\n", b"0\nuser\n"]
        await sandbox.destroy()


@pytest.mark.requires("docker")
async def test_an_instance_that_is_used_again_begins_with_its_set_up(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        template = Template(
            "phases",
            "docker",
            busybox(),
            profile="standard",
            mode="persistent",
            network=Reaches("none", "none", "public"),
        )
        pools = Pools(lambda name: backend, run="phases", folder=tmp_path / "pools")
        try:
            first = await pools.lease(template, owner="local", session="1")
            await first.sandbox.enter("verifier")
            await first.release(dirty=False)
            second = await pools.lease(template, owner="local", session="2")
            assert second.id == first.id
            assert (await second.sandbox.exec("ip -o addr | grep -v ' lo '")).stdout == b""
        finally:
            await pools.stop()
        assert await backend.list({}) == []
        assert networks(backend.scope) == [f"{backend.scope}-public"]
    assert networks(backend.scope) == []


@pytest.mark.requires("docker")
async def test_a_network_that_something_is_on_outlives_a_server(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        await backend.create(idle(tmp_path, profile="standard", network="public"))
        async with docker_backend() as other:
            assert networks(other.scope) == []
        from megaflow_server.backends.docker.backend import DockerBackend

        second = DockerBackend(DockerOptions(scope=backend.scope))
        await second.close()
        assert networks(backend.scope) == [f"{backend.scope}-public"]
    assert networks(backend.scope) == []


@pytest.mark.requires("docker")
async def test_a_strict_container_reaches_nothing_whoever_asks(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        instance = await backend.create(idle(tmp_path))
        with pytest.raises(FailedPrecondition, match=r"network='public' conflicts with.*strict"):
            await instance.reach("public")


async def test_a_sandbox_made_of_processes_has_phases_that_are_alike(tmp_path: Path) -> None:
    backend = ProcessBackend()
    sandbox = await ProcessSandbox.start(backend, "room", tmp_path / "room", Room())
    try:
        await sandbox.enter("agent")
        assert (await sandbox.exec("echo 1")).stdout == b"1\n"
        with pytest.raises(InvalidArgument, match="phase='scoring'"):
            await sandbox.enter("scoring")  # type: ignore[arg-type]
    finally:
        await sandbox.destroy()


@pytest.mark.parametrize(
    ("fields", "capabilities", "message"),
    [
        (
            {"network": Reaches(agent=("packages.example",))},
            ALL,
            r"network\.agent=\['packages\.example'\]",
        ),
        (
            {"network": Reaches(agent=("packages.example",)), "profile": "standard"},
            ALL,
            r"network\.agent=\['packages\.example'\]: fake gives lists of hosts only to a server that may enter",
        ),
        (
            {"network": Reaches(agent=("http://packages.example",)), "profile": "standard"},
            ALL | {"listen"},
            r"'http://packages\.example' is no host",
        ),
        ({"network": Reaches(setup="public")}, ALL, r"network\.setup='public'.*'strict'"),
        ({"user": Users(verifier="root")}, ALL, r"user\.verifier='root'.*'strict'"),
        ({"user": Users(agent="1000:0")}, ALL, r"user\.agent='1000:0'.*'strict'"),
        (
            {"network": Reaches(setup="public"), "profile": "standard"},
            ALL - {"reach"},
            "one network for all phases",
        ),
    ],
)
async def test_what_a_backend_or_a_profile_cannot_give_is_refused_before_anything_starts(
    tmp_path: Path, fields: dict[str, Any], capabilities: frozenset[str], message: str
) -> None:
    backend = FakeBackend(capabilities=capabilities)
    template = Template("one", "fake", "image:1", **fields)
    pools = Pools(
        lambda name: backend, run="run", folder=tmp_path / "pools", templates={"one": template}
    )
    with pytest.raises(FailedPrecondition, match=f"template one: .*{message}"):
        await pools.start()
    with pytest.raises(FailedPrecondition, match=message):
        await pools.lease(template, owner="local", session="1")
    assert await backend.list({}) == []
    await pools.stop()


def test_what_can_be_given_is() -> None:
    template = Template(
        "one",
        "fake",
        "image:1",
        profile="standard",
        network=Reaches("public", "none", "public"),
        user=Users("root", "agent", "root"),
    )
    phases = check_phases(template, FakeBackend(capabilities=ALL))
    assert (phases.network, phases.user) == (template.network, template.user)
    strict = Template("one", "fake", "image:1", user=Users(agent="1000", verifier="1001:1001"))
    assert check_phases(strict, FakeBackend(capabilities=ALL)).user.agent == "1000"
