from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import megaflow
from megaflow import InvalidArgument, SessionLost, Unavailable
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.server import Gateway, private_folder
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.worker.in_process import run


def settings(folder: Path, *modules: str) -> GatewaySettings:
    return GatewaySettings(
        folder=folder,
        listen=[f"unix:{folder / 'gateway.sock'}"],
        max_workers=1,
        warm_workers=1,
        modules=modules,
    )


async def test_a_killed_worker_is_lost_and_replaced() -> None:
    backend = FakeBackend(run)
    async with private_folder() as folder, Gateway(settings(folder), backend) as gateway:
        await gateway.ready()
        (instance,) = await backend.list({})

        def play() -> megaflow.RemoteEnv:
            env = megaflow.RemoteEnv("CartPole-v1", gateway.addresses[0])
            env.reset(seed=0)
            env.step(0)
            return env

        env = await asyncio.to_thread(play)
        await backend.kill(instance.id)
        with pytest.raises(SessionLost, match="SIGKILL"):
            await asyncio.to_thread(env.step, 0)
        await asyncio.to_thread(env.reset, seed=0)
        await asyncio.to_thread(env.close)


async def test_a_module_that_exits_fails_the_worker_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_exits.py").write_text("import sys\nsys.exit('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    async with (
        private_folder() as folder,
        Gateway(settings(folder, "module_that_exits"), FakeBackend(run)) as gateway,
    ):
        with pytest.raises(InvalidArgument, match="it raised SystemExit: not today"):
            await gateway.ready()
        (log,) = (folder / "log").glob("worker-*.log")
        assert "Traceback (most recent call last)" in log.read_text()
        with pytest.raises(
            Unavailable, match=r"cannot do what this server was told to: import='mod"
        ):
            await asyncio.to_thread(megaflow.make, "CartPole-v1", server=gateway.addresses[0])
