"""Workers in containers: sessions as everywhere else, in a process that sees nothing of its server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import docker_images
import megaflow
from docker_rig import docker_backend
from megaflow.errors import FailedPrecondition, SessionLost
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.bench.environments import Pixels
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.workers import WorkerHandle
from process_scripts import read
from worker_settings import settings_of

if TYPE_CHECKING:
    from megaflow_server.backends.docker.backend import DockerBackend


def settings(folder: Path, **fields: object) -> GatewaySettings:
    chosen: dict[str, object] = {"max_workers": 1, "warm_workers": 1, **fields}
    return GatewaySettings(folder=folder, listen=[f"unix:{folder / 'g.sock'}"], **chosen)  # type: ignore[arg-type]


@pytest.fixture
async def backend() -> AsyncIterator[DockerBackend]:
    async with docker_backend() as backend:
        yield backend


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_an_environment_in_a_container_is_the_one_that_runs_here(
    backend: DockerBackend, tmp_path: Path
) -> None:
    image = docker_images.worker()
    async with Gateway(settings(tmp_path, worker_image=image), backend) as gateway:
        await gateway.ready()
        (worker,) = gateway.supervisor.workers
        found = read(f"/proc/{worker.pid}/status").decode()
        assert "NoNewPrivs:\t1" in found
        assert "CapBnd:\t0000000000000000" in found
        address = gateway.addresses[0]

        def play() -> tuple[list[float], list[float]]:
            remote = megaflow.make("CartPole-v1", server=address)
            local = gymnasium.make("CartPole-v1")
            numbers = rollout(remote), rollout(local)
            remote.close()
            local.close()
            return numbers

        far, near = await asyncio.to_thread(play)
        assert far == near
    assert await backend.list({}) == []
    assert [name for name in os.listdir(tmp_path) if name.startswith("worker-")] == []


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_large_observations_go_through_memory_that_a_client_lends_to_a_container(
    backend: DockerBackend, tmp_path: Path
) -> None:
    image = docker_images.worker()
    wanted = settings(tmp_path, worker_image=image, code_policy=pb.CODE_POLICY_IMPORT)
    async with Gateway(wanted, backend) as gateway:
        await gateway.ready()
        (worker,) = gateway.supervisor.workers
        address = gateway.addresses[0]

        def play() -> list[str]:
            envs = megaflow.make_vec(f"{Pixels.__module__}:{Pixels.__name__}", 8, server=address)
            near = SyncVectorEnv([Pixels] * 8)
            seen = [(one.reset(seed=3)[0], one.step(np.zeros(8, int))[0]) for one in (envs, near)]
            for far, here in zip(*seen, strict=True):
                assert np.array_equal(far, here)
            lent = _maps_in_the_container_of(worker.pid)
            envs.close()
            return lent

        assert any("memfd:megaflow-slots" in line for line in await asyncio.to_thread(play))


def _maps_in_the_container_of(pid: int | None) -> list[str]:
    """What the processes map that share the process ids of one."""
    lines: list[str] = []
    for one in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{one}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid"):
                lines += Path(f"/proc/{one}/maps").read_text().splitlines()
    return lines


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_the_death_of_a_container_is_the_loss_of_its_sessions_and_another_takes_its_place(
    backend: DockerBackend, tmp_path: Path
) -> None:
    image = docker_images.worker()
    async with Gateway(settings(tmp_path, worker_image=image), backend) as gateway:
        await gateway.ready()
        (worker,) = gateway.supervisor.workers
        pid, address = worker.pid, gateway.addresses[0]
        assert pid is not None

        def play() -> None:
            env = megaflow.make("CartPole-v1", server=address)
            env.reset(seed=1)
            os.kill(pid, signal.SIGKILL)
            while os.path.exists(f"/proc/{pid}"):
                time.sleep(0.01)
            with pytest.raises(SessionLost, match="SIGKILL"):
                env.step(0)
            env.close()
            again = megaflow.make("CartPole-v1", server=address)
            again.reset(seed=1)
            again.close()

        await asyncio.to_thread(play)


async def test_a_container_has_no_port_for_other_machines(tmp_path: Path) -> None:
    wanted = settings(tmp_path, worker_image="image", data_host="127.0.0.1")
    with pytest.raises(FailedPrecondition, match=r"data_host=.*worker_image='image'"):
        async with Gateway(wanted, FakeBackend(capabilities=frozenset({"images"}))):
            raise AssertionError


async def test_an_image_that_no_registry_has_keeps_a_server_from_starting(tmp_path: Path) -> None:
    backend = FakeBackend(capabilities=frozenset({"images"}))
    backend.unknown.add("absent:1")
    with pytest.raises(megaflow.NotFound, match="absent:1"):
        async with Gateway(settings(tmp_path, worker_image="absent:1"), backend):
            raise AssertionError


async def test_a_backend_without_images_takes_no_image_for_workers(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="images"):
        async with Gateway(settings(tmp_path, worker_image="image"), FakeBackend()):
            raise AssertionError


async def test_a_container_gets_its_limit_its_folder_and_nothing_of_the_environment(
    tmp_path: Path,
) -> None:
    plain = settings_of(tmp_path)
    wanted = replace(plain, image="image:1", memory_limit=1 << 28, environ={"SECRET": "x"})
    worker = WorkerHandle(3, 1, wanted)
    spec = worker.spec()
    assert (spec.image, spec.profile, spec.network) == ("image:1", "strict", "none")
    assert (spec.limits.memory, spec.read_only) == (1 << 28, True)
    assert [(str(one.source), one.target) for one in spec.mounts] == [
        (str(worker.socket.parent), str(worker.socket.parent))
    ]
    assert worker.socket.parent == tmp_path / "worker-3-1"
    assert "SECRET" not in spec.environ


def rollout(env: gymnasium.Env[np.ndarray, int]) -> list[float]:
    """All numbers of an episode under a fixed policy."""
    observation, _ = env.reset(seed=7)
    seen = [float(value) for value in observation]
    for step in range(30):
        observation, reward, terminated, truncated, _ = env.step(step % 2)
        seen += [*map(float, observation), float(reward)]
        if terminated or truncated:
            observation, _ = env.reset()
    return seen
