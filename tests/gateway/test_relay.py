"""The gateway's relay: frames pass as bytes, a break passes at once, and a slow side holds up the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from megaflow import errors
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.credentials import Target
from megaflow.transport.grpc_stream import GrpcShardChannel
from megaflow.transport.options import CLIENT, MAX_MESSAGE_BYTES, SERVER
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.authentication import AuthenticationInterceptor, Authenticator
from megaflow_server.gateway.relay import SHARD_KEY, Relay
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.tokens import Tokens, new_token
from megaflow_server.worker import in_process
from worker_rig import PATIENCE, single

METHOD = "/megaflow.v1.Sessions/Attach"
MIB = 2**20

Behaviour = Callable[[AsyncIterator[bytes], Any], Any]


@asynccontextmanager
async def serving(
    address: str, *handlers: grpc.GenericRpcHandler, **options: Any
) -> AsyncIterator[Any]:
    server = grpc.aio.server(options=SERVER, **options)
    server.add_generic_rpc_handlers(handlers)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


class Bench:
    """A relay between a client and a worker that behaves as a test says."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._worker = f"unix:{folder / 'w.sock'}"
        self.address = f"unix:{folder / 'g.sock'}"
        self._stack = stack
        token, self.token = new_token("other")
        narrow, self.narrow = new_token("narrow", {"read"})
        self._authenticator = Authenticator(Tokens([token, narrow]), way_out="…")
        self.relay = Relay(self._route)

    def _route(self, shard_id: str, owner: str) -> str:
        if shard_id != "a":
            raise errors.NotFound(f"there is no shard {shard_id!r}")
        if owner != "local":
            raise errors.PermissionDenied("it belongs to another principal")
        return self._worker

    async def start(self, behaviour: Behaviour) -> None:
        method: grpc.RpcMethodHandler[bytes, bytes]
        method = grpc.stream_stream_rpc_method_handler(behaviour)
        service = grpc.method_handlers_generic_handler("megaflow.v1.Sessions", {"Attach": method})
        self.worker = await self._stack.enter_async_context(serving(self._worker, service))
        interceptor = AuthenticationInterceptor(self._authenticator, lambda *call: asyncio.sleep(0))
        await self._stack.enter_async_context(
            serving(self.address, self.relay.handler(), interceptors=[interceptor])
        )
        self.channel = await self._stack.enter_async_context(
            grpc.aio.insecure_channel(self.address, options=CLIENT)
        )

    def attach(self, *metadata: tuple[str, str], shard: str | None = "a") -> Any:
        if shard is not None:
            metadata = ((SHARD_KEY, shard), *metadata)
        return self.channel.stream_stream(METHOD)(metadata=metadata, timeout=PATIENCE)

    async def quiet(self) -> None:
        """Waits until the relay has no connection to the worker any more."""
        async with asyncio.timeout(PATIENCE):
            while self.relay._lines:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(tmp_path, stack)


async def echo(frames: AsyncIterator[bytes], context: Any) -> None:
    async for frame in frames:
        await context.write(frame)


async def failure(call: Any) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return failures.from_rpc_error(caught.value, "gateway")


async def unavailable(call: Any) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_frames_pass_as_bytes_in_order(bench: Bench) -> None:
    await bench.start(echo)
    call = bench.attach()
    # No protobuf: whatever decoded it on the way would fail.
    for number in range(100):
        frame = bytes([255, number]) * (number * 1000)
        await call.write(frame)
        assert await call.read() == frame
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await bench.quiet()


async def test_the_largest_frame_passes(bench: Bench) -> None:
    await bench.start(echo)
    call = bench.attach()
    frame = b"\xff" * MAX_MESSAGE_BYTES
    await call.write(frame)
    assert await call.read() == frame


async def test_the_workers_answer_passes_with_its_metadata(bench: Bench) -> None:
    message = failures.to_message(errors.NotFound("gone fishing"))

    async def refuse(frames: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"last words")
        await context.abort(failures.status_of(message), "gone", failures.to_metadata(message))

    await bench.start(refuse)
    call = bench.attach()
    assert await call.read() == b"last words"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "gone"
    known = failures.from_rpc_error(caught.value, "gateway")
    assert isinstance(known, errors.NotFound)
    assert known.message == "gone fishing"


async def test_the_workers_answer_passes_also_while_the_client_sends(bench: Bench) -> None:
    message = failures.to_message(errors.FailedPrecondition("a gap"))

    async def refuse(frames: AsyncIterator[bytes], context: Any) -> None:
        await anext(frames)
        await context.abort(failures.status_of(message), "gap", failures.to_metadata(message))

    await bench.start(refuse)
    for _ in range(50):
        # A client of this process's gRPC, but not of its asyncio: that has the same flaw.
        error = await asyncio.to_thread(flood, bench.address)
        assert isinstance(error, errors.FailedPrecondition), error


def flood(address: str) -> Exception | None:
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(METHOD)
        try:
            for _ in method((bytes(1000) for _ in range(200)), metadata=((SHARD_KEY, "a"),)):
                pass
        except grpc.RpcError as error:
            return failures.from_rpc_error(error, address)
    return None


async def test_a_client_that_goes_is_gone_for_the_worker_at_once(bench: Bench) -> None:
    gone = asyncio.Event()

    async def wait(frames: AsyncIterator[bytes], context: Any) -> None:
        await context.write(await anext(frames))
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            gone.set()

    await bench.start(wait)
    call = bench.attach()
    await call.write(b"x")
    assert await call.read() == b"x"
    call.cancel()
    async with asyncio.timeout(2):
        await gone.wait()
    await bench.quiet()


async def test_a_worker_that_dies_breaks_the_clients_stream_at_once(bench: Bench) -> None:
    await bench.start(echo)
    call = bench.attach()
    await call.write(b"x")
    assert await call.read() == b"x"
    await bench.worker.stop(None)
    async with asyncio.timeout(2):
        assert await unavailable(call)
    await bench.quiet()


async def test_a_worker_that_is_not_there(bench: Bench) -> None:
    await bench.start(echo)
    await bench.worker.stop(None)
    assert await unavailable(bench.attach())
    await bench.quiet()


async def test_who_does_not_read_holds_up_the_worker(bench: Bench) -> None:
    sent = 0

    async def flood(frames: AsyncIterator[bytes], context: Any) -> None:
        nonlocal sent
        while True:
            await context.write(bytes(MIB))
            sent += 1

    await bench.start(flood)
    call = bench.attach()
    assert len(await call.read()) == MIB
    await settled(lambda: sent)
    assert sent <= 16
    before = sent
    for _ in range(20):
        await call.read()
    async with asyncio.timeout(PATIENCE):
        while sent - before < 10:  # noqa: ASYNC110  # it is the worker's own count
            await asyncio.sleep(0.01)


async def test_a_worker_that_does_not_read_holds_up_the_client(bench: Bench) -> None:
    go = asyncio.Event()

    async def slow(frames: AsyncIterator[bytes], context: Any) -> None:
        await go.wait()
        async for frame in frames:
            await context.write(frame[:1])

    await bench.start(slow)
    call = bench.attach()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(40):
            await call.write(bytes(MIB))
            sent += 1
        await call.done_writing()

    flooding = asyncio.create_task(flood())
    await settled(lambda: sent)
    assert sent <= 16
    go.set()
    assert [await call.read() for _ in range(40)] == [b"\0"] * 40
    await flooding


async def settled(value: Callable[[], int]) -> None:
    """Waits until a number does not grow any more."""
    last = -1
    while value() != last:
        last = value()
        await asyncio.sleep(0.3)


async def test_streams_share_a_connection_and_do_not_hold_up_each_other(bench: Bench) -> None:
    await bench.start(echo)
    stuck, free = bench.attach(), bench.attach()
    await stuck.write(bytes(32 * MIB))
    await free.write(b"x")
    assert await free.read() == b"x"
    assert len(bench.relay._lines) == 1


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("shard", "kind", "says"),
    [(None, errors.InvalidArgument, "megaflow-shard"), ("b", errors.NotFound, "no shard 'b'")],
)
async def test_a_stream_needs_its_shard(
    bench: Bench, shard: str | None, kind: type[Exception], says: str
) -> None:
    await bench.start(echo)
    error = await failure(bench.attach(shard=shard))
    assert isinstance(error, kind)
    assert says in str(error)


async def test_another_principals_shard(bench: Bench) -> None:
    await bench.start(echo)
    error = await failure(bench.attach(("authorization", f"Bearer {bench.token}")))
    assert isinstance(error, errors.PermissionDenied)


async def test_a_token_without_the_scope(bench: Bench) -> None:
    await bench.start(echo)
    error = await failure(bench.attach(("authorization", f"Bearer {bench.narrow}")))
    assert isinstance(error, errors.PermissionDenied)
    assert "scope sessions" in str(error)


# ---------------------------------------------------------------- a whole session


async def test_a_session_through_the_relay_outlives_its_connection(tmp_path: Path) -> None:
    settings = GatewaySettings(
        folder=tmp_path, listen=[f"unix:{tmp_path / 'g.sock'}"], max_workers=1, warm_workers=1
    )
    async with Gateway(settings, FakeBackend(in_process.run)) as gateway:
        (address,) = gateway.addresses
        async with grpc.aio.insecure_channel(address) as channel:
            opened = await channel.unary_unary(
                "/megaflow.v1.Gateway/OpenSession",
                pb.OpenSessionRequest.SerializeToString,
                pb.OpenSessionResponse.FromString,
            )(pb.OpenSessionRequest(request_id="r", environment=single()), timeout=PATIENCE)
        await asyncio.to_thread(play_through_a_cut, address, opened.shards[0])


def play_through_a_cut(address: str, shard: pb.Shard) -> None:
    channel = GrpcShardChannel(
        Target(address),
        shard.shard_id,
        shard.token,
        attach_timeout=PATIENCE,
        metadata=((SHARD_KEY, shard.shard_id),),
        verdict=lambda broken: None,
    )
    try:
        for _ in range(3):
            assert channel.wait(channel.send(pb.Reset()), PATIENCE).HasField("transition")
            channel._connection.call.cancel()
    finally:
        channel.close()
