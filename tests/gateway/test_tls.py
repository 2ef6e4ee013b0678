"""The gateway with a certificate: who gets in, and what those are told who do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from certificates import Files, make
from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.channels import Channel, aio_channel
from megaflow.transport.credentials import AUTHORITY_VARIABLE, Target, Tls, resolve
from megaflow.transport.handshake import explain
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.tls import Certificate
from megaflow_server.gateway.token_file import TokenFile
from worker_rig import PATIENCE


@pytest.fixture
def token_file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens")


@asynccontextmanager
async def serving(folder: Path, access: Access, *listen: str) -> AsyncIterator[list[str]]:
    (folder / "gateway").mkdir()
    settings = GatewaySettings(
        folder=folder / "gateway",
        listen=listen or ["127.0.0.1:0"],
        access=access,
        max_workers=1,
        warm_workers=0,
    )
    async with Gateway(settings, FakeBackend()) as gateway:
        yield gateway.addresses


async def hello(target: Target) -> pb.HelloResponse:
    async with aio_channel(target) as channel:
        answer: pb.HelloResponse = await pb_grpc.GatewayStub(channel).Hello(
            pb.HelloRequest(), metadata=target.metadata, timeout=PATIENCE
        )
        return answer


def blocking_hello(target: Target) -> pb.HelloResponse:
    channel = Channel(target)
    try:
        answer: pb.HelloResponse = pb_grpc.GatewayStub(channel.grpc).Hello(
            pb.HelloRequest(), metadata=target.metadata, timeout=PATIENCE
        )
        return answer
    finally:
        channel.close()


def access(files: Files, token_file: TokenFile) -> Access:
    return Access(token_file.path, Certificate(files.certificate, files.key))


async def test_a_client_that_knows_the_authority_gets_in(
    tmp_path: Path, token_file: TokenFile
) -> None:
    files = make(tmp_path, "127.0.0.1", "localhost")
    _, token = token_file.create("team")
    async with serving(tmp_path, access(files, token_file), "0.0.0.0:0") as (address,):
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            target = resolve(f"{host}:{port}", token, files.authority)
            assert (await hello(target)).server_id
            assert (await asyncio.to_thread(blocking_hello, target)).server_id
            assert explain(target) is None


async def test_a_unix_socket_beside_it_does_without(tmp_path: Path, token_file: TokenFile) -> None:
    files = make(tmp_path, "127.0.0.1")
    token_file.create("team")
    unix = f"unix:{tmp_path / 'g.sock'}"
    async with serving(tmp_path, access(files, token_file), unix, "127.0.0.1:0"):
        assert (await hello(Target(unix))).server_id


async def test_the_variable_names_the_authority(
    tmp_path: Path, token_file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path, "127.0.0.1")
    _, token = token_file.create("team")
    monkeypatch.setenv(AUTHORITY_VARIABLE, str(files.authority))
    async with serving(tmp_path, access(files, token_file)) as (address,):
        assert (await hello(resolve(address, token, True))).server_id


async def refused(target: Target) -> str:
    """What is said of a connection that does not come about."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hello(target)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    said = await asyncio.to_thread(explain, target)
    assert said is not None
    assert target.address in said
    return said


async def test_another_authority_is_refused_and_named(
    tmp_path: Path, token_file: TokenFile
) -> None:
    files, other = make(tmp_path, "127.0.0.1"), make(tmp_path, "127.0.0.1", prefix="other")
    _, token = token_file.create("team")
    async with serving(tmp_path, access(files, token_file)) as (address,):
        said = await refused(resolve(address, token, other.authority))
        assert "is not accepted" in said
        assert "the authorities of tls=" in said
        assert "$MEGAFLOW_TLS_CA" in said
        assert "this system's authorities" in await refused(resolve(address, token, True))


async def test_another_name_is_refused_and_named(tmp_path: Path, token_file: TokenFile) -> None:
    files = make(tmp_path, "gpu.example.org", "10.0.0.5")
    _, token = token_file.create("team")
    authority = files.authority.read_bytes()
    async with serving(tmp_path, access(files, token_file)) as (address,):
        said = await refused(resolve(address, token, files.authority))
        assert "is not for '127.0.0.1' but for gpu.example.org, 10.0.0.5" in said
        by_name = Target(address, Tls(authority, "gpu.example.org"), token)
        assert (await hello(by_name)).server_id


async def test_an_expired_certificate_is_refused_and_named(
    tmp_path: Path, token_file: TokenFile
) -> None:
    files = make(tmp_path, "127.0.0.1", expired=True)
    _, token = token_file.create("team")
    async with serving(tmp_path, access(files, token_file)) as (address,):
        assert "expired" in await refused(resolve(address, token, files.authority))


async def test_a_client_without_tls_is_told_so(tmp_path: Path, token_file: TokenFile) -> None:
    files = make(tmp_path, "127.0.0.1")
    _, token = token_file.create("team")
    async with serving(tmp_path, access(files, token_file)) as (address,):
        assert "speaks TLS" in await refused(resolve(address, token, None))


async def test_a_server_without_tls_is_told_of(tmp_path: Path, token_file: TokenFile) -> None:
    _, token = token_file.create("team")
    async with serving(tmp_path, Access(token_file.path)) as (address,):
        assert "does not speak TLS" in await refused(resolve(address, token, True))
        assert explain(resolve(address, token, None)) is None


def test_nothing_is_said_where_nothing_answers(tmp_path: Path) -> None:
    assert explain(Target("127.0.0.1:1", Tls())) is None
    assert explain(Target("127.0.0.1:1")) is None
    assert explain(Target(f"unix:{tmp_path}/none", Tls())) is None


# ---------------------------------------------------------------- the files


def fault(certificate: Path, key: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        Certificate(certificate, key).credentials()
    return caught.value.message


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    files = make(tmp_path, "localhost")
    absent = tmp_path / "absent"
    assert f"--tls-cert {absent}: cannot be read: No such file" in fault(absent, files.key)
    assert f"--tls-key {absent}: cannot be read: No such file" in fault(files.certificate, absent)


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    files, other = make(tmp_path, "localhost"), make(tmp_path, "localhost", prefix="other")
    for certificate, key in (
        (files.certificate, other.key),
        (files.key, files.key),
        (files.certificate, files.certificate),
    ):
        said = fault(certificate, key)
        assert f"--tls-cert {certificate} and --tls-key {key}" in said
        assert "PRIVATE" not in said


def test_an_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    files = make(tmp_path, "localhost", password="secret")
    assert f"--tls-key {files.key} is encrypted" in fault(files.certificate, files.key)


def test_a_certificate_for_nobody_is_refused(tmp_path: Path) -> None:
    files = make(tmp_path, "localhost")
    access = Access.of(None, files.certificate, files.key, False)
    with pytest.raises(InvalidArgument, match="would serve nobody"):
        access.check(["unix:/x"])
    access.check(["unix:/x", "localhost:1"])
