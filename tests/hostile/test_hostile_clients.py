"""Hostile clients of a running server: each is refused with an error of ours, and nobody else notices."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import grpc
import pytest

from attacks import bits, http2, live
from attacks.cases import chances
from attacks.http2 import Connection
from attacks.victim import MIB, Victim
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.options import CLIENT, MAX_MESSAGE_BYTES
from megaflow_server.gateway.authentication import FIRST_MESSAGE_TIMEOUT

STREAMS, CALLS, OWNERS = 800, 1500, 150
OPEN = "/megaflow.v1.Gateway/OpenSession"
HELLO = "/megaflow.v1.Gateway/Hello"
# A connection of its own, where gRPC would share one.
LOCAL_POOL = (*CLIENT, ("grpc.use_local_subchannel_pool", 1))
CHECK = "/grpc.health.v1.Health/Check"


def repeated(case: Callable[[random.Random], int], name: str, count: int) -> None:
    for label, chance in islice(chances(name), count):
        try:
            case(chance)
        except BaseException as error:
            error.add_note(label)
            raise


@pytest.mark.long
def test_streams_of_strangers(victim: Victim) -> None:
    ids = [victim.shard.shard_id]
    repeated(lambda chance: live.strangers(victim.worker, chance, ids), "strangers", STREAMS)


def test_calls_of_the_gateway(victim: Victim) -> None:
    repeated(lambda chance: live.gateway_calls(victim.gateway, chance), "gateway_calls", CALLS)


def test_control_of_a_worker_by_strangers(victim: Victim) -> None:
    repeated(lambda chance: live.control_calls(victim.worker, chance), "control_calls", 300)


def honest(victim: Victim, shard: pb.Shard, generation: int) -> None:
    """The session lives, and has applied nothing of what was said."""
    attach = pb.Attach(
        shard_id=shard.shard_id,
        token=shard.token,
        protocol_version=PROTOCOL_VERSION,
        generation=generation,
    )
    reset = pb.Request(sequence=1, reset=pb.Reset())
    frames = [pb.ClientFrame(attach=attach), pb.ClientFrame(request=reset)]
    method: Any = victim.worker.stream_stream(live.ATTACH)
    sent = threading.Event()

    def outgoing() -> Any:
        yield from (frame.SerializeToString() for frame in frames)
        sent.wait(live.PATIENCE)

    call = method(outgoing(), timeout=live.PATIENCE)
    attached, reply = (pb.ServerFrame.FromString(next(call)) for _ in range(2))
    sent.set()
    call.cancel()
    assert attached.attached.received == 0
    assert reply.reply.transition.observation


def test_owners_who_lie_after_attaching(victim: Victim) -> None:
    shard, session = victim.open()
    for generation, (_, chance) in enumerate(islice(chances("owners"), OWNERS), start=1):
        live.owners(victim.worker, chance, shard, generation)
    honest(victim, shard, OWNERS + 1)
    victim.close(session)


def test_a_storm_of_attaching(victim: Victim) -> None:
    """Generations that come all at once, older ones after newer: the last one wins, and works."""
    shard, session = victim.open()
    order = list(range(1, 201))
    random.Random(1).shuffle(order)

    def attach(generations: list[int]) -> None:
        for generation in generations:
            attach = pb.Attach(
                shard_id=shard.shard_id,
                token=shard.token,
                protocol_version=PROTOCOL_VERSION,
                generation=generation,
            )
            live.settle(victim.worker, [pb.ClientFrame(attach=attach).SerializeToString()])

    threads = [threading.Thread(target=attach, args=[order[i::4]]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    honest(victim, shard, 1000)
    victim.close(session)


def test_a_very_large_request_keeps_nobody_waiting(victim: Victim) -> None:
    """Its fields are counted for seconds, and others are answered meanwhile."""
    large = threading.Thread(
        target=live.call, args=[victim.gateway, OPEN, b"\x12\x04\x1a\x00\x1a\x00" * (4 * MIB)]
    )
    large.start()
    slowest = 0.0
    with grpc.insecure_channel(victim.unix, options=LOCAL_POOL) as channel:
        while large.is_alive():
            began = time.monotonic()
            live.call(channel, HELLO, b"")
            slowest = max(slowest, time.monotonic() - began)
    large.join()
    assert slowest < 2.0


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_refused_as_they_are(
    victim: Victim, compression: grpc.Compression
) -> None:
    bomb = bytes(63 * MIB)
    for channel, process, method in (
        (victim.gateway, "gateway", OPEN),
        (victim.worker, "worker", live.ATTACH),
    ):
        call: Any = channel.stream_stream(method)
        with victim.processes[process].within(100_000):
            with pytest.raises(grpc.RpcError) as refused:
                list(call(iter([bomb]), compression=compression, timeout=live.PATIENCE))
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


BOMBS: dict[str, tuple[str, bytes]] = {
    "empty makers": (OPEN, bits.field(2, b"\x0a\x00" * (2 * MIB))),
    "empty specs": (OPEN, b"\x12\x00\x1a\x00" * MIB),
    "empty ids": ("/megaflow.v1.Gateway/RenewLeases", b"\x0a\x00" * (2 * MIB)),
    "lost ids": ("/megaflow.v1.Gateway/RenewLeases", b"\x0a\x04abcd" * 100_000),
    "too many ids": ("/megaflow.v1.Gateway/RenewLeases", b"\x0a\x04abcd" * (MIB // 2)),
    "unknown fields": (HELLO, b"\xfa\x01\x00" * MIB),
    "groups": (HELLO, b"\x7b" * (4 * MIB)),
    "kwargs of elements": (
        OPEN,
        pb.OpenSessionRequest(
            environment=pb.EnvironmentSpec(
                makers=[pb.Maker(id="CartPole-v1", kwargs=b"\xdd\0\x40\0\0" + b"\x90" * (4 * MIB))]
            )
        ).SerializeToString(),
    ),
    "one long name": (
        OPEN,
        pb.OpenSessionRequest(
            environment=pb.EnvironmentSpec(makers=[pb.Maker(id="a" * 4 * MIB)])
        ).SerializeToString(),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_the_gateway_no_more_than_promised(victim: Victim, name: str) -> None:
    method, data = BOMBS[name]
    live.call(victim.gateway, method, data)  # what the first of them loads is no part of its price
    gateway, worker = victim.processes["gateway"], victim.processes["worker"]
    with gateway.within(len(data)), worker.within(len(data)), gateway.in_time(len(data)):
        given = live.call(victim.gateway, method, data)
    assert isinstance(given, Exception) or name == "lost ids"


FRAMES: dict[str, bytes] = {
    "bodies by turns": b"\x0a\x00\x12\x00" * MIB,
    "verbs by turns": bits.field(2, b"\x1a\x00\x22\x00\x2a\x00" * (MIB // 2)),
    "indices": bits.field(2, bits.field(4, bits.field(2, b"\x01" * (4 * MIB)))),
    "empty arrays": pb.ClientFrame(
        request=pb.Request(sequence=1, step=pb.Step(action=b"\xdd\0\x40\0\0" + b"\x90" * (4 * MIB)))
    ).SerializeToString(),
}


@pytest.mark.parametrize("name", FRAMES)
def test_bombs_cost_the_worker_no_more_than_promised(victim: Victim, name: str) -> None:
    """First of a stranger, who may not say so much; then of the session's owner."""
    data = FRAMES[name]
    with victim.processes["worker"].within(len(data)):
        assert isinstance(live.stream(victim.worker, [data]), InvalidArgument)
    shard, session = victim.open()
    attach = pb.Attach(
        shard_id=shard.shard_id,
        token=shard.token,
        protocol_version=PROTOCOL_VERSION,
        generation=1,
    )
    worker = victim.processes["worker"]
    with worker.within(len(data)), worker.in_time(len(data)):
        live.settle(
            victim.worker, [pb.ClientFrame(attach=attach).SerializeToString(), data], replies=2
        )
    victim.close(session)


def test_a_frame_in_pieces_costs_no_more_than_promised(victim: Victim) -> None:
    shard, session = victim.open()
    attach = pb.Attach(
        shard_id=shard.shard_id,
        token=shard.token,
        protocol_version=PROTOCOL_VERSION,
        generation=1,
    )
    piece = pb.ClientFrame(chunk=pb.Chunk(data=bytes(MIB))).SerializeToString()
    last = pb.ClientFrame(chunk=pb.Chunk(data=b"\xff", last=True)).SerializeToString()
    first = pb.ClientFrame(attach=attach).SerializeToString()
    with victim.processes["worker"].within(32 * MIB):
        given = live.stream(victim.worker, [first, *[piece] * 32, last])
    assert isinstance(given, InvalidArgument)
    assert isinstance(live.stream(victim.worker, [piece] * 4), InvalidArgument)
    victim.close(session)


def test_messages_that_are_too_long(victim: Victim) -> None:
    for channel, method in ((victim.gateway, OPEN), (victim.worker, live.ATTACH)):
        call: Any = channel.stream_stream(method)
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([bytes(MAX_MESSAGE_BYTES + 1)]), timeout=live.PATIENCE))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_huge_metadata(victim: Victim) -> None:
    for channel, method in ((victim.gateway, HELLO), (victim.worker, live.ATTACH)):
        call: Any = channel.stream_stream(method)
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([b""]), metadata=(("x", "a" * MIB),), timeout=live.PATIENCE))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_again_and_again(victim: Victim) -> None:
    shard, session = victim.open()
    attach = pb.Attach(
        shard_id=shard.shard_id,
        token=shard.token,
        protocol_version=PROTOCOL_VERSION,
        generation=1,
    )
    reset = pb.ClientFrame(request=pb.Request(sequence=1, reset=pb.Reset())).SerializeToString()
    frames = [pb.ClientFrame(attach=attach).SerializeToString(), *[reset] * 2000]
    assert isinstance(live.stream(victim.worker, frames), FailedPrecondition)
    victim.close(session)


# ---------------------------------------------------------------- connections


def addresses(victim: Victim) -> dict[str, tuple[str, str]]:
    """Where to connect, and a method there."""
    return {
        "gateway": (victim.unix, HELLO),
        "tcp": (victim.tcp, HELLO),
        "worker": (victim.socket, live.ATTACH),
        "health": (victim.tcp, CHECK),
    }


# What breaks the protocol: the server ends the connection, or at least the stream.
BROKEN: dict[str, Callable[[str], list[bytes]]] = {
    "garbage": lambda _: [b"\0" * 1000],
    "another protocol": lambda _: [b"GET / HTTP/1.1\r\n\r\n"],
    "a frame of 16 MiB": lambda _: [http2.PREFACE, b"\xff\xff\xff\0\0\0\0\0\1"],
    "settings cut off": lambda _: [http2.PREFACE, http2.frame(http2.SETTINGS, payload=b"abc")],
    "headers that are none": lambda _: [
        http2.PREFACE,
        http2.frame(http2.SETTINGS),
        http2.frame(http2.HEADERS, 1, b"\xff" * 100, http2.END_HEADERS),
    ],
    "continuation of nothing": lambda _: [
        http2.PREFACE,
        http2.frame(http2.SETTINGS),
        http2.frame(http2.CONTINUATION, 1, b"abc"),
    ],
}


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http2_ends_the_connection(victim: Victim, place: str, name: str) -> None:
    address, method = addresses(victim)[place]
    with Connection(address, greet=False) as connection:
        connection.send(*BROKEN[name](method))
        assert connection.ended(1)


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker"])
def test_rapid_resets(victim: Victim, place: str) -> None:
    """Thousands of calls, each cancelled at once, over one connection after the other."""
    address, method = addresses(victim)[place]
    begun = 0
    while begun < 3000:
        with Connection(address) as connection:
            for stream in range(1, 2001, 2):
                begun += 1
                reset = http2.frame(http2.RST_STREAM, stream, b"\0\0\0\x08")
                if not (connection.open(stream, method) and connection.send(reset)):
                    break  # enough, says the server


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker", "health"])
@pytest.mark.parametrize("said", ["nothing", "half a message", "a length"])
def test_calls_that_never_finish(victim: Victim, place: str, said: str) -> None:
    """Without a deadline and without their request: they hold little, and nothing once the connection ends."""
    address, method = addresses(victim)[place]
    lie = {
        "nothing": b"",
        "half a message": http2.message(b"abc", length=1000),
        "a length": http2.message(b"", length=MAX_MESSAGE_BYTES - 1),
    }[said]
    name = "worker" if place == "worker" else "gateway"
    # 64 KiB for each call: its thread, where it has one, and gRPC's own books.
    with victim.processes[name].within(100 * 8192), Connection(address) as connection:
        for stream in range(1, 201, 2):
            connection.open(stream, method)
            if lie:
                connection.send(http2.frame(http2.DATA, stream, lie))
        time.sleep(0.2)


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker"])
@pytest.mark.parametrize("length", [MAX_MESSAGE_BYTES + 1, 2**32 - 1])
def test_lengths_beyond_the_limit_are_refused(victim: Victim, place: str, length: int) -> None:
    """By gRPC at once; its oldest version waits for such a message, and the server does not for long."""
    address, method = addresses(victim)[place]
    with Connection(address) as connection:
        connection.open(1, method)
        connection.send(http2.frame(http2.DATA, 1, http2.message(b"", length=length)))
        assert connection.ended(1, within=FIRST_MESSAGE_TIMEOUT + 5)


# What gRPC takes, however often: it must not keep it.
FLOODS = {
    "settings": http2.frame(http2.SETTINGS, payload=b"\x00\x03\x00\x00\x00\x64"),
    "pings": http2.frame(http2.PING, payload=bytes(8)),
    "empty data": http2.frame(http2.DATA, 1, b""),
    "data of nobody": http2.frame(http2.DATA, 0, b"abc"),
    "priorities": http2.frame(http2.PRIORITY, 1, b"\0\0\0\3\x10"),
    "unknown frames": http2.frame(0x77, 0, b"abc"),
    "windows": http2.frame(http2.WINDOW, 0, b"\x7f\xff\xff\xff"),
}


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker"])
def test_floods_of_what_means_nothing(victim: Victim, place: str) -> None:
    address, method = addresses(victim)[place]
    name = "worker" if place == "worker" else "gateway"
    for flood in FLOODS.values():
        with victim.processes[name].within(len(flood) * 2000), Connection(address) as connection:
            connection.open(1, method)
            _pour(connection, flood)


@pytest.mark.parametrize("place", ["gateway", "tcp", "worker"])
def test_headers_without_an_end(victim: Victim, place: str) -> None:
    address, method = addresses(victim)[place]
    more = http2.frame(http2.CONTINUATION, 1, http2.headers([("x", "a" * 16_000)]))
    name = "worker" if place == "worker" else "gateway"
    with victim.processes[name].within(len(more) * 2000), Connection(address) as connection:
        connection.send(http2.frame(http2.HEADERS, 1, http2.request(method)))
        _pour(connection, more)


def _pour(connection: Connection, flood: bytes) -> None:
    for _ in range(20):
        if not connection.send(flood * 100):
            return  # the server has had enough


def test_connections_that_say_nothing(victim: Victim) -> None:
    for address, _ in addresses(victim).values():
        silent = [Connection(address, greet=False) for _ in range(50)]
        for connection in silent:
            connection.socket.close()
