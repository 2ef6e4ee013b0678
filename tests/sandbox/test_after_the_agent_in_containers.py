"""Entering the verifier's phase ends all that runs in a container, whatever that does to what serves the sandbox."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from docker_rig import docker_backend, idle
from megaflow.errors import FailedPrecondition, SessionLost
from megaflow_server.backends.base import Profile
from megaflow_server.backends.docker.instance import DockerInstance
from megaflow_server.sandbox.instances import InstanceSandbox

pytestmark = pytest.mark.requires("docker")

# Stops all that serves the sandbox, and itself last: nothing that is asked for through it comes to anything.
_HOSTILE = "(setsid sleep 987 >/dev/null 2>&1 &); (setsid sh -c 'sleep 1; kill -STOP -1' >/dev/null 2>&1 &)"


@pytest.mark.parametrize("profile", ["strict", "standard"])
async def test_what_stops_all_is_ended_and_a_new_stream_answers(
    tmp_path: Path, profile: Profile
) -> None:
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile=profile))
        await sandbox.enter("agent")
        await sandbox.exec(_HOSTILE)
        await asyncio.sleep(1.5)
        old, instance = sandbox.folders(), sandbox.instance
        await sandbox.enter("verifier")
        assert len(await instance.programs()) == 2
        assert (await sandbox.exec("exit 7")).exit_code == 7
        assert sandbox.instance is instance
        assert not old & sandbox.folders()
        await sandbox.destroy()


async def test_what_other_users_left_is_ended_too(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile="strict"))
        await sandbox.enter("agent")
        for user in (None, "1234"):
            await sandbox.exec("(setsid sleep 987 >/dev/null 2>&1 &)", user=user)
        await sandbox.end_processes()
        assert len(await sandbox.instance.programs()) == 2
        await sandbox.destroy()


@pytest.mark.long
async def test_an_agent_that_ends_its_stream_alone_has_lost_nothing(tmp_path: Path) -> None:
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile="standard"))
        await sandbox.enter("agent")
        with pytest.raises(SessionLost):
            await sandbox.exec(
                "echo kept >/file; cd /dev/shm/.megaflow-*; for f in loop.*; do kill -9 ${f#loop.}; done; sleep 60"
            )
        assert await sandbox.recover()
        assert (await sandbox.exec("cat /file")).stdout == b"kept\n"
        await backend.destroy(sandbox.instance.id, grace=0)
        with pytest.raises((SessionLost, FailedPrecondition)):
            await sandbox.exec("true")
        assert not await sandbox.recover()
        await sandbox.destroy()


async def test_what_cannot_be_ended_goes_with_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(self: DockerInstance) -> bool:
        return False

    monkeypatch.setattr(DockerInstance, "end_programs", cannot)
    async with docker_backend() as backend:
        sandbox = await InstanceSandbox.start(backend, idle(tmp_path, profile="standard"))
        await sandbox.enter("agent")
        await sandbox.exec("echo kept >/file; (setsid sleep 987 >/dev/null 2>&1 &)")
        await sandbox.enter("verifier")
        assert not any("987" in line for line in await sandbox.instance.programs())
        assert (await sandbox.exec("cat /file")).stdout == b"kept\n"
        assert sandbox.was_kept  # nobody else may have it
        await sandbox.destroy()
