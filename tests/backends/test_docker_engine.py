"""Containers outlive servers, engines end and begin again: what the docker backend makes of that."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import docker_engine
import docker_images
from docker_rig import busybox, clear, docker_backend, engine, idle, new_scope, run, shell
from megaflow.errors import FailedPrecondition, InvalidArgument, Unavailable
from megaflow_server.backends import Event, Exit, InstanceState

if TYPE_CHECKING:
    from megaflow_server.backends.docker.backend import DockerBackend

pytestmark = pytest.mark.requires("docker")


@pytest.fixture
async def backend() -> AsyncIterator[DockerBackend]:
    async with docker_backend() as backend:
        yield backend


async def test_the_next_server_finds_what_the_last_one_left(tmp_path: Path) -> None:
    from megaflow_server.backends.docker.backend import DockerBackend
    from megaflow_server.backends.docker.options import DockerOptions

    scope = new_scope()
    first = DockerBackend(DockerOptions(scope=scope))
    await first.create(idle(tmp_path, labels={"run": "1", "owner": "x"}))
    await first.close()
    async with docker_backend(scope) as second:
        (found,) = await second.list({"run": "1"})
        assert (found.id, dict(found.labels)) == ("a", {"run": "1", "owner": "x"})
        assert found.state is InstanceState.RUNNING
        assert (await run(found, "echo here"))[1] == "here\n"
        events = second.events()
        await second.destroy("a", grace=0)
        assert await anext(events) == Event("a", "exited", Exit(signal=9))
        assert await second.list({}) == []


async def test_an_end_that_nobody_saw_is_known_to_the_next_server(tmp_path: Path) -> None:
    scope = new_scope()
    async with docker_backend(scope) as first, docker_backend(scope) as second:
        instance = await first.create(shell(busybox(), tmp_path, "a", "exit 4"))
        await instance.wait()
        assert (await second.create(idle(tmp_path))).state is InstanceState.EXITED
        (found,) = await second.list({})
        assert await found.wait() == Exit(code=4)


async def test_two_servers_that_create_one_id_at_once_make_one(tmp_path: Path) -> None:
    scope = new_scope()
    async with docker_backend(scope) as first, docker_backend(scope) as second:
        made = await asyncio.gather(
            *(one.create(idle(tmp_path)) for one in (first, second) for _ in range(3))
        )
        assert len({instance.container for instance in made}) == 1
        assert all(instance.state is InstanceState.RUNNING for instance in made)


async def test_what_was_made_and_never_started_is_listed_and_is_started_by_a_create(
    backend: DockerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server leaves it that is killed between the two."""
    made = await backend._creation.make(idle(tmp_path))
    assert made is not None
    monkeypatch.setattr("megaflow_server.backends.docker.creation._START_SECONDS", 0.3)
    async with docker_backend(backend.scope) as other:
        (found,) = await other.list({})
        assert found.id == "a"
        instance = await backend.create(idle(tmp_path))
        assert instance.container == made["Id"]
        assert (await run(instance, "echo here"))[1] == "here\n"


async def test_servers_of_other_scopes_are_left_alone(
    backend: DockerBackend, tmp_path: Path
) -> None:
    await backend.create(idle(tmp_path))
    async with docker_backend() as other:
        assert await other.list({}) == []
        await other.destroy("a", grace=0)
        await other.create(idle(tmp_path))
        assert len(await other.list({})) == 1
    assert len(await backend.list({})) == 1


async def test_a_container_of_that_name_that_is_no_instance_is_refused(
    backend: DockerBackend, tmp_path: Path
) -> None:
    client = engine()
    stranger = client.containers.create(busybox(), "true", name=f"{backend.scope}-a")
    try:
        with pytest.raises(FailedPrecondition, match=f"{backend.scope}-a.*is not this server's"):
            await backend.create(idle(tmp_path))
        await backend.destroy("a", grace=0)
        assert stranger.id in {one.id for one in client.containers.list(all=True)}
    finally:
        stranger.remove()
        client.close()


async def test_what_carries_our_labels_and_is_not_ours_is_passed_over_and_told_of_once(
    backend: DockerBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = {"run": "1"}
    ours = await backend.create(idle(tmp_path, labels=run))
    image = await ours.commit(run)
    client = engine()
    scope = {"megaflow-scope": backend.scope, "megaflow.run": "1"}
    whole = client.containers.get(ours.container).labels
    of_images = {**whole, "megaflow-image": "commit"}
    containers = [client.containers.create(busybox(), "true", labels=one) for one in (scope, whole)]
    images = [
        containers[0].commit(conf={"Labels": labels})
        for labels in ({**scope, "megaflow-image": "commit"}, of_images)
    ]
    try:
        for _ in range(2):
            assert [one.id for one in await backend.list(run)] == ["a"]
            assert [one.id for one in await backend.images(run)] == [image.id]
        assert len([one for one in caplog.records if "left alone" in one.getMessage()]) == 4
        with pytest.raises(InvalidArgument, match="not committed here"):
            await backend.remove(images[1].id)
    finally:
        for container in containers:
            container.remove()
        for one in images:
            client.images.remove(one.id)
        client.close()


async def test_a_create_that_nobody_waits_for_any_more_is_whole(
    backend: DockerBackend, tmp_path: Path
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await backend.create(idle(tmp_path))
    await backend.destroy("a", grace=0)
    assert await backend.list({}) == []
    assert (await backend.create(idle(tmp_path))).state is InstanceState.RUNNING


async def test_output_is_whole_in_the_log_when_the_end_is_known(
    backend: DockerBackend, tmp_path: Path
) -> None:
    script = "echo err >&2; sleep 0.2; seq 100000; cat"
    spec = shell(busybox(), tmp_path / "new folder", "a", script)
    await (await backend.create(spec)).wait()
    lines = (tmp_path / "new folder" / "a.log").read_text().splitlines()
    assert lines[0] == "err"
    assert lines[1:] == [str(number) for number in range(1, 100_001)]


async def test_what_is_not_read_makes_its_program_wait(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path))
    stream = await instance.open_stream(("sh", "-c", "yes | tee /tmp/copy"))
    await stream.read()
    sizes = []
    for _ in range(2):
        await asyncio.sleep(0.7)
        sizes.append(int((await run(instance, "stat -c %s /tmp/copy"))[1]))
    assert sizes[0] == sizes[1] < 4 << 20
    await stream.close()


async def test_a_snapshot_carries_no_label_of_what_it_was_made_of(
    backend: DockerBackend, tmp_path: Path
) -> None:
    first = await backend.create(idle(tmp_path, labels={"run": "1"}))
    image = await first.commit({"owner": "x"})
    second = await backend.create(idle(tmp_path, "b", image=image.id, labels={"run": "2"}))
    third = await second.commit({})
    assert [one.id for one in await backend.list({"run": "1"})] == ["a"]
    assert [one.id for one in await backend.images({"owner": "x"})] == [image.id]
    assert {one.id for one in await backend.images({})} == {image.id, third.id}
    with pytest.raises(InvalidArgument, match="was not committed here"):
        await backend.remove(busybox())


@pytest.fixture
def own_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker_engine.Engine]:
    """An engine that a test may kill."""
    with docker_engine.running() as one:
        monkeypatch.setenv("DOCKER_HOST", one.address)
        yield one


# The SDK leaves a socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
async def test_an_engine_that_is_killed_is_awaited_and_what_it_took_along_is_known(
    own_engine: docker_engine.Engine, tmp_path: Path
) -> None:
    image = docker_images.busybox()
    async with docker_backend() as backend:
        instance = await backend.create(idle(tmp_path, image=image))
        stream = await instance.open_stream(("cat",))
        events = backend.events()
        own_engine.kill()
        with pytest.raises(Unavailable, match="broke off"):
            await stream.read()
        with pytest.raises(Unavailable):
            await backend.destroy("a", grace=0)
        with pytest.raises(Unavailable):
            await instance.stats()
        own_engine.start()
        async with asyncio.timeout(20):
            ended = await anext(events)
        assert (ended.instance, ended.kind) == ("a", "exited")
        assert instance.state is InstanceState.EXITED
        await backend.destroy("a", grace=0)
        assert (await backend.create(idle(tmp_path, "b", image=image))).pid is not None
        await clear(backend)
        assert await backend.list({}) == []
    gc.collect()  # while the warning is expected
