"""Openings that are refused before their request is read, and those that are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

import megaflow
from gateway_rig import Bench
from megaflow import errors
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.hello import REQUEST_KEY
from megaflow_server.gateway import answers
from megaflow_server.gateway.limits import Quota
from megaflow_server.gateway.service import GatewayService
from megaflow_server.gateway.session_settings import SessionSettings
from worker_rig import PATIENCE, single

OPEN_SESSION = "/megaflow.v1.Gateway/OpenSession"


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def ask_without_a_request(bench: Bench, *shown: tuple[str, str]) -> Exception:
    """What an opening ends with that shows this metadata, and whose request does not come."""
    async with grpc.aio.insecure_channel(bench.address) as channel:
        call: Any = channel.stream_unary(OPEN_SESSION)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(never(), timeout=PATIENCE, metadata=shown)
    message = failures.message_of(caught.value)
    assert message is not None, caught.value
    return failures.from_message(message)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are not kept for whoever may ask for them again."""
    monkeypatch.setattr(answers, "_KEPT", 0.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (SessionSettings(max_sessions=1), "max_sessions=1"),
        (SessionSettings(quotas={"local": Quota(sessions=1)}), "quota sessions=1"),
        (SessionSettings(quotas={"local": Quota(sessions_per_minute=1)}), "sessions_per_minute=1"),
    ],
)
async def test_what_is_certain_to_be_refused_is_not_read(
    bench: Bench, forgetful: None, settings: SessionSettings, named: str
) -> None:
    await bench.start(sessions=settings)
    await bench.open(single())
    error = await ask_without_a_request(bench)
    assert isinstance(error, errors.ResourceExhausted)
    assert named in error.message
    assert error.retry_after


async def test_a_server_that_ends_reads_no_openings(bench: Bench) -> None:
    await bench.start()
    bench.gateway.sessions.refuse("draining")
    error = await ask_without_a_request(bench)
    assert isinstance(error, errors.Unavailable)
    assert error.message == "draining"


async def test_who_asks_again_gets_its_answer_from_a_full_server(bench: Bench) -> None:
    await bench.start(sessions=SessionSettings(max_sessions=1))
    opened = await bench.open(single(), "first")
    assert await bench.open(single(), "first") == opened
    with pytest.raises(errors.ResourceExhausted):
        await bench.open(single(), "second")
    bench.gateway.sessions.refuse("draining")
    assert await bench.open(single(), "first") == opened


async def test_who_shows_a_new_request_is_not_kept_from_its_answers_and_is_not_read(
    bench: Bench,
) -> None:
    await bench.start(sessions=SessionSettings(max_sessions=1))
    opened = await bench.open(single(), "first")
    error = await ask_without_a_request(bench, (REQUEST_KEY, "second"))
    assert isinstance(error, errors.ResourceExhausted)
    request = pb.OpenSessionRequest(request_id="first", environment=single())
    for shown in ((REQUEST_KEY, "first"),), ():
        again = bench.stub.OpenSession(request, timeout=PATIENCE, metadata=shown)
        assert await again == opened
    lying = bench.stub.OpenSession(
        pb.OpenSessionRequest(request_id="second", environment=single()),
        timeout=PATIENCE,
        metadata=((REQUEST_KEY, "first"),),
    )
    with pytest.raises(errors.ResourceExhausted):
        await bench.call(lying)


async def test_the_sdk_shows_its_requests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    open_session = GatewayService.OpenSession

    async def recorded(
        self: GatewayService, request: pb.OpenSessionRequest, context: Any
    ) -> pb.OpenSessionResponse:
        read.append(request.request_id)
        return await open_session(self, request, context)

    def blocking() -> None:
        with megaflow.Client(bench.address) as client, pytest.raises(errors.ResourceExhausted):
            client.make("CartPole-v1")

    monkeypatch.setattr(GatewayService, "OpenSession", recorded)
    await bench.start(sessions=SessionSettings(max_sessions=1))
    await bench.open(single(), "first")
    async with megaflow.AsyncClient(bench.address) as client:
        with pytest.raises(errors.ResourceExhausted):
            await client.make("CartPole-v1")
    await asyncio.to_thread(blocking)
    assert read == ["first"]


async def test_other_calls_are_answered_by_a_full_server(bench: Bench, forgetful: None) -> None:
    await bench.start(sessions=SessionSettings(max_sessions=1))
    opened = await bench.open(single())
    await bench.call(bench.stub.Hello(pb.HelloRequest(), timeout=PATIENCE))
    assert await bench.renew(opened.session_id) == {}
    await bench.kill(opened.shards[0])
    await bench.reopen(opened.session_id, opened.shards[0].shard_id)
