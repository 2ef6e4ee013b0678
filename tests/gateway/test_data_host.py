"""Workers that clients on other machines can reach: TLS from the gateway's own authority, and nothing but streams."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from megaflow import errors
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.channels import Channel
from megaflow.transport.credentials import Target, Tls
from megaflow.transport.grpc_stream import GrpcShardChannel
from megaflow.transport.resume import StreamBroken
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.authority import Authority
from megaflow_server.gateway.data_host import DataHost, check_data_host
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.launch import WorkerConfig
from megaflow_server.worker import in_process
from worker_rig import PATIENCE, single


@asynccontextmanager
async def gateway(folder: Path, data_host: str | None = "127.0.0.1") -> AsyncIterator[pb.Shard]:
    """A gateway with one worker: a shard on it."""
    settings = GatewaySettings(
        folder=folder,
        listen=[f"unix:{folder / 'g.sock'}"],
        data_host=data_host,
        max_workers=1,
        warm_workers=1,
    )
    async with Gateway(settings, FakeBackend(in_process.run)) as running:
        async with grpc.aio.insecure_channel(running.addresses[0]) as channel:
            request = pb.OpenSessionRequest(request_id="r", environment=single())
            opened = await pb_grpc.GatewayStub(channel).OpenSession(request, timeout=PATIENCE)
        (shard,) = opened.shards
        yield shard


def target(shard: pb.Shard, tls: Tls | None = None) -> Target:
    endpoint = shard.endpoint
    return Target(endpoint.address, tls or Tls(endpoint.authority, endpoint.server_name))


def attach(shard: pb.Shard, where: Target, token: bytes | None = None) -> GrpcShardChannel:
    return GrpcShardChannel(
        where,
        shard.shard_id,
        shard.token if token is None else token,
        attach_timeout=PATIENCE,
        verdict=lambda broken: errors.SessionLost(str(broken)),
    )


def play(shard: pb.Shard) -> None:
    channel = attach(shard, target(shard))
    try:
        assert channel.wait(channel.send(pb.Reset()), PATIENCE).HasField("transition")
    finally:
        channel.close()


async def test_a_client_plays_over_the_workers_own_address(tmp_path: Path) -> None:
    async with gateway(tmp_path) as shard:
        assert shard.endpoint.address.startswith("127.0.0.1:")
        assert b"PRIVATE" not in shard.SerializeToString()
        await asyncio.to_thread(play, shard)


async def test_without_it_workers_are_reached_by_unix_sockets_alone(tmp_path: Path) -> None:
    async with gateway(tmp_path, None) as shard:
        assert (shard.endpoint.address, shard.endpoint.authority) == ("", b"")
        assert shard.endpoint.unix_path


async def test_another_authority_another_name_and_no_tls_are_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path) as shard:
        endpoint = shard.endpoint
        for tls in (
            Tls(Authority("another").certificate, endpoint.server_name),
            Tls(endpoint.authority, "another"),
            Tls(endpoint.authority),
            None,
        ):
            with pytest.raises(StreamBroken):
                await asyncio.to_thread(attach, shard, Target(endpoint.address, tls))


async def test_the_shards_token_is_needed_there_too(tmp_path: Path) -> None:
    async with gateway(tmp_path) as shard:
        with pytest.raises(errors.PermissionDenied):
            await asyncio.to_thread(attach, shard, target(shard), b"another of 16 by")


async def test_a_worker_cannot_be_controlled_there(tmp_path: Path) -> None:
    async with gateway(tmp_path) as shard:
        channel = Channel(target(shard))
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(
                pb_grpc.WorkerStub(channel.grpc).ListEnvironments,
                pb.ListEnvironmentsRequest(),
                timeout=PATIENCE,
            )
        channel.close()
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("gpu-1.cluster", "gpu-1.cluster"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_host_is_a_name_or_an_address(host: str, bound: str) -> None:
    assert check_data_host(host) == bound


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]", "a:1", "[::1]:2", "a b", "unix:/x"])
def test_what_is_no_host_of_one_machine_is_refused(host: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="data_host="):
        check_data_host(host)


def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "megaflow_server.gateway.authority")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(
        errors.FailedPrecondition, match=r'cryptography.*pip install "megaflow\[server\]"'
    ):
        DataHost("127.0.0.1", "id")


def test_keys_and_secrets_are_in_no_repr(tmp_path: Path) -> None:
    listener = DataHost("127.0.0.1", "id").listener("worker")
    assert "PRIVATE" in listener.key
    config = WorkerConfig(
        name="worker-0",
        socket=tmp_path / "worker.sock",
        log=tmp_path / "worker.log",
        secret="hush",
        parent=1,
        import_paths=["elsewhere"],
        data=listener,
    )
    assert "worker-0" in repr(config)
    assert "PRIVATE" not in repr(config)
    assert "hush" not in repr(config)
    assert WorkerConfig.load(json.loads(config.dump())).dump() == config.dump()
