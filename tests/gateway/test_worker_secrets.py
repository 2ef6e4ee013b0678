"""What a gateway and its workers know of each other, and nobody else may see."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc.aio
import pytest

from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.backends import get_backend
from megaflow_server.gateway.data_host import DataHost
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.launch import DataListener
from worker_rig import maker

PATIENCE = 60.0


async def test_workers_secrets_and_keys_are_in_nothing_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys: list[str] = []
    listener = DataHost.listener

    def remembered(self: DataHost, server_name: str) -> DataListener:
        made = listener(self, server_name)
        keys.append(made.key.splitlines()[1])
        return made

    monkeypatch.setattr(DataHost, "listener", remembered)
    settings = GatewaySettings(
        folder=tmp_path,
        listen=[f"unix:{tmp_path / 'g.sock'}"],
        data_host="127.0.0.1",
        max_workers=1,
        warm_workers=1,
    )
    async with Gateway(settings, get_backend("process")) as gateway:
        async with grpc.aio.insecure_channel(gateway.addresses[0]) as channel:
            spec = pb.EnvironmentSpec(makers=[maker("CartPole-v1")])
            request = pb.OpenSessionRequest(request_id="r", environment=spec)
            stub = pb_grpc.GatewayStub(channel)
            opened = await stub.OpenSession(request, timeout=PATIENCE)
        (worker,) = gateway.supervisor.workers
        assert worker.pid is not None
        secrets = [worker._secret, *keys, opened.shards[0].token.hex()]
        process = Path(f"/proc/{worker.pid}")
        seen = [repr(worker), repr(worker.spec())]
        seen += [(process / name).read_text() for name in ("cmdline", "environ")]
        files = contents(tmp_path)
        assert files
        seen += files
    seen.append(caplog.text)
    assert len(keys) >= 1
    assert [secret for secret in secrets for text in seen if secret in text] == []


def contents(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
