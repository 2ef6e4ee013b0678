"""Images that declare volumes, on a real engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rig import busybox, docker_backend, engine, idle, new_scope, run
from megaflow.errors import FailedPrecondition
from megaflow_server.backends import Exit, Limits
from megaflow_server.sandbox.instances import InstanceSandbox

pytestmark = pytest.mark.requires("docker")

MIB = 1 << 20


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """One whose volume its user may write to."""
    client = engine()
    dockerfile = f"FROM {busybox()}\nVOLUME /home/user\nUSER 1000\n"
    made, _ = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), rm=True)
    yield made.id
    client.images.remove(made.id, force=True)
    client.close()


async def test_what_lies_in_volumes_counts_as_disk_and_goes_with_the_instance(
    tmp_path: Path, image: str
) -> None:
    client, scope = engine(), new_scope()
    before = {one.id for one in client.volumes.list()}
    async with docker_backend(scope) as backend:
        instance = await backend.create(idle(tmp_path, image=image, limits=Limits(disk=8 * MIB)))
        assert instance.volumes == ["/home/user"]
        (volume,) = instance.volume_names
        await run(instance, "head -c 6000000 /dev/zero >/home/user/a")
        async with asyncio.timeout(30):
            while (instance.disk or 0) < 6_000_000:  # noqa: ASYNC110  # nobody says when it was looked at
                await asyncio.sleep(0.05)
            assert (await instance.stats()).disk == instance.disk
            await run(instance, "head -c 6000000 /dev/zero >/home/user/b")
            ended = await instance.wait()
        assert ended == Exit(signal=9, reason="it wrote more than its 8.0 MiB of disk")
        # As the next server would that finds what one that was killed has left.
        async with docker_backend(scope) as other:
            (found,) = await other.list({})
            assert found.volumes == ["/home/user"]
            await other.destroy(found.id, grace=0)
    assert volume not in before
    assert volume not in {one.id for one in client.volumes.list()}
    client.close()


async def test_what_has_volumes_has_no_snapshots(
    tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(self: object) -> bool:
        return False

    monkeypatch.setattr(
        "megaflow_server.backends.docker.instance.DockerInstance.end_programs", cannot
    )
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, image=image))
        await sandbox.exec("echo kept >/home/user/a")
        with pytest.raises(FailedPrecondition, match="hold what is in /home/user"):
            await sandbox.snapshot()
        # Nor can what is in them be brought away from what cannot be ended.
        with pytest.raises(FailedPrecondition, match="still there after SIGKILL"):
            await sandbox.end_processes()
        assert await backend.images({}) == []
        await sandbox.destroy()
