"""What a session's stream does, whatever carries it: over a real worker, and servers that break the rules."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from carriers import CARRIERS, Carrier, alive
from megaflow import errors
from megaflow.aio_network import AioNetwork
from megaflow.network import BlockingNetwork
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.transport import chunks
from megaflow.transport.io import ShardIO
from megaflow.transport.resume import StreamBroken
from megaflow.transport.stream import ReplyTimeout
from worker_rig import PATIENCE, OddEnv, Rig, single

STEP = pb.Step(action=values.encode(1))


def attached(frame: pb.ClientFrame) -> pb.ServerFrame:
    """A worker's answer to the first frame of a connection."""
    return pb.ServerFrame(attached=pb.Attached(generation=frame.attach.generation))


pytestmark = pytest.mark.parametrize("carrier", CARRIERS, ids=str)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as rig:
        yield rig
    OddEnv.forget()


def steps(reply: pb.Reply) -> int:
    return int(values.decode(reply.transition.observation)[1])


async def ask(stream: ShardIO, verb: pb.Reset | pb.Step | pb.Call | pb.Close) -> pb.Reply:
    return await stream.wait(await stream.send(verb), PATIENCE)


async def entered() -> str:
    return await asyncio.to_thread(OddEnv.entered.get, timeout=PATIENCE)


async def test_requests_are_answered_in_whatever_order_they_are_awaited(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    rig.open(single())
    async with carrier.attached(tmp_path) as stream:
        sequences = [await stream.send(verb) for verb in (pb.Reset(), STEP, STEP, STEP)]
        replies = {one: await stream.wait(one, PATIENCE) for one in reversed(sequences)}
        assert [steps(replies[one]) for one in sequences] == [0, 1, 2, 3]
        assert not (await ask(stream, pb.Close())).HasField("error")


async def test_many_sessions_side_by_side(carrier: Carrier, rig: Rig, tmp_path: Path) -> None:
    names = [f"s{index}" for index in range(20)]
    for name in names:
        rig.open(single(), name)

    async def live(name: str) -> int:
        async with carrier.attached(tmp_path, name) as stream:
            await ask(stream, pb.Reset())
            replies = [await ask(stream, STEP) for _ in range(20)]
        return steps(replies[-1])

    assert await asyncio.gather(*map(live, names)) == [20] * 20


async def test_a_reply_may_be_awaited_later(carrier: Carrier, rig: Rig, tmp_path: Path) -> None:
    gate = OddEnv.gates["late"] = threading.Event()
    rig.open(single(gate="late"))
    async with carrier.attached(tmp_path) as stream:
        await ask(stream, pb.Reset())
        late = await stream.send(STEP)
        with pytest.raises(ReplyTimeout, match=r"0\.01 s"):
            await stream.wait(late, 0.01)
        assert stream.poll(late) is None
        gate.set()
        assert steps(await stream.wait(late, PATIENCE)) == 1
        assert steps(await ask(stream, pb.Reset())) == 0


async def test_the_first_of_several_is_waited_for(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    gates = {name: threading.Event() for name in "ab"}
    OddEnv.gates.update(gates)
    for name in gates:
        rig.open(single(gate=name), name)
    network = AioNetwork() if carrier.awaits else BlockingNetwork()
    async with carrier.attached(tmp_path, "a") as a, carrier.attached(tmp_path, "b") as b:
        for stream in (a, b):
            await ask(stream, pb.Reset())
        steps_of = [(a, await a.send(STEP)), (b, await b.send(STEP))]
        with pytest.raises(ReplyTimeout, match=r"within 0\.05 s"):
            await network.wait_any(steps_of, 0.05)
        threading.Timer(0.05, gates["b"].set).start()
        await network.wait_any(steps_of, PATIENCE)
        assert a.poll(steps_of[0][1]) is None
        assert b.poll(steps_of[1][1]) is not None
        carrier.cut_soon(a)
        # Whatever breaks is something to say, too.
        await network.wait_any(steps_of[:1], PATIENCE)
        with pytest.raises(StreamBroken):
            a.poll(steps_of[0][1])
        gates["a"].set()


async def test_the_window_is_the_servers(carrier: Carrier, rig: Rig, tmp_path: Path) -> None:
    gate = OddEnv.gates["window"] = threading.Event()
    rig.open(single(gate="window"))
    async with carrier.attached(tmp_path) as stream:
        await ask(stream, pb.Reset())

        async def flood() -> None:
            for _ in range(100):
                await stream.send(STEP)

        with pytest.raises(errors.FailedPrecondition, match="whole window"):
            await flood()
        gate.set()


async def test_large_frames(
    carrier: Carrier, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks.split, "__kwdefaults__", {"chunk_bytes": 10_000})
    rig.open(single())
    payload = os.urandom(3_000_000)
    async with carrier.attached(tmp_path) as stream:
        verb = pb.Call(name="answer", args=values.encode((payload,)))
        # Both directions at once are more than any buffer between the two holds.
        sequences = [await stream.send(verb) for _ in range(4)]
        for sequence in sequences:
            reply = await stream.wait(sequence, PATIENCE)
            assert values.decode(reply.value) == [[payload], {}]


async def test_a_refused_attach_is_the_workers_own_error(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    rig.open(single())
    with pytest.raises(errors.PermissionDenied, match="token"):
        async with carrier.attached(tmp_path, token=b"x"):
            pass
    with pytest.raises(errors.NotFound, match="no session 'b'"):
        async with carrier.attached(tmp_path, "b"):
            pass


async def test_a_worker_that_is_not_there(carrier: Carrier, tmp_path: Path) -> None:
    with pytest.raises((StreamBroken, errors.DeadlineExceeded), match=r"UNAVAILABLE|No such file"):
        async with carrier.attached(tmp_path):
            pass


async def test_a_worker_that_ends_breaks_the_stream_for_whoever_waits(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    gate = OddEnv.gates["ends"] = threading.Event()
    rig.open(single(gate="ends"))
    async with carrier.attached(tmp_path) as stream:
        await ask(stream, pb.Reset())
        waiting = await stream.send(STEP)
        rig.worker.stop()
        with pytest.raises(StreamBroken):
            await stream.wait(waiting, PATIENCE)
        with pytest.raises(StreamBroken):
            await stream.send(STEP)
        gate.set()


async def test_a_closed_stream_answers_nothing(carrier: Carrier, rig: Rig, tmp_path: Path) -> None:
    rig.open(single(name="left"))
    async with carrier.attached(tmp_path) as stream:
        await stream.close()
        await stream.close()
        with pytest.raises(StreamBroken, match="the session is closed"):
            await stream.send(pb.Reset())
        with pytest.raises(StreamBroken, match="the session is closed"):
            stream.poll(1)
    assert OddEnv.closed.empty()  # its gateway ends it, or its lease


async def test_a_session_is_taken_up_again(carrier: Carrier, rig: Rig, tmp_path: Path) -> None:
    gate = OddEnv.gates["cut"] = threading.Event()
    rig.open(single(gate="cut"))
    verdicts: list[str] = []

    def alive(broken: StreamBroken) -> None:
        verdicts.append(str(broken))

    async with carrier.attached(tmp_path, verdict=alive) as stream:
        await ask(stream, pb.Reset())
        waiting = await stream.send(STEP)
        await entered()
        carrier.cut(stream)
        later = await stream.send(STEP)
        gate.set()
        assert [steps(await stream.wait(one, PATIENCE)) for one in (waiting, later)] == [1, 2]
        for count in range(3, 6):
            carrier.cut(stream)
            assert steps(await ask(stream, STEP)) == count
    assert len(verdicts) == 4


async def test_a_session_that_has_gone_meanwhile_is_lost(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    rig.open(single())
    async with carrier.attached(tmp_path, verdict=alive) as stream:
        await ask(stream, pb.Reset())
        await asyncio.to_thread(rig.close)
        with pytest.raises(StreamBroken, match=r"no session 'a'|session a has ended") as caught:
            await ask(stream, STEP)
        assert isinstance(caught.value.loss, errors.SessionLost)


async def test_a_session_that_its_server_ends_says_why(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    gate = OddEnv.gates["told"] = threading.Event()
    rig.open(single(gate="told"))
    async with carrier.attached(tmp_path) as stream:
        await ask(stream, pb.Reset())
        # At once, also where a step is under way.
        sequence = await stream.send(STEP)
        await entered()
        await asyncio.to_thread(rig.close, reason="its lease is over")
        with pytest.raises(StreamBroken, match=r"^its lease is over$") as broken:
            await stream.wait(sequence, PATIENCE)
        assert isinstance(broken.value.loss, errors.SessionLost)
        gate.set()


async def test_a_newer_connection_elsewhere_is_told(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    rig.open(single())
    async with carrier.attached(tmp_path, verdict=alive) as stream:
        await asyncio.to_thread(rig.attach, generation=2**60)
        with pytest.raises(
            StreamBroken, match=r"Superseded: .* after connection 1152921504606846976"
        ) as caught:
            await ask(stream, STEP)
        assert isinstance(caught.value.loss, errors.SessionLost)


async def test_one_that_was_attached_unnoticed_is_followed_by_another(
    carrier: Carrier, rig: Rig, tmp_path: Path
) -> None:
    """Whoever gave up attaching, though the worker had attached it, tries again with a new channel."""
    rig.open(single())
    async with carrier.attached(tmp_path), carrier.attached(tmp_path) as second:
        await ask(second, pb.Reset())


# ---------------------------------------------------------------- servers that break the rules


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (pb.ServerFrame(), "neither attached nor reply"),
        (pb.ServerFrame(reply=pb.Reply(sequence=9, part=1, last=True)), "answered request 9"),
        (None, "the server attached connection"),  # a second time
    ],
)
async def test_a_server_that_makes_no_sense_is_an_error_and_no_hang(
    carrier: Carrier, frame: pb.ServerFrame | None, match: str, tmp_path: Path
) -> None:
    def answer(requests: Iterator[pb.ClientFrame]) -> Iterator[pb.ServerFrame]:
        first = attached(next(requests))
        yield first
        next(requests)
        yield first if frame is None else frame
        next(requests, None)  # until the client ends the stream

    with carrier.serving(tmp_path, answer) as ended:
        async with carrier.attached(tmp_path) as stream:
            sequence = await stream.send(pb.Reset())
            with pytest.raises(StreamBroken, match=match):
                await stream.wait(sequence, PATIENCE)
        assert await asyncio.to_thread(ended.wait, PATIENCE)


async def test_a_server_that_ends_the_stream_in_peace(carrier: Carrier, tmp_path: Path) -> None:
    def answer(requests: Iterator[pb.ClientFrame]) -> Iterator[pb.ServerFrame]:
        yield attached(next(requests))

    with carrier.serving(tmp_path, answer):
        async with carrier.attached(tmp_path) as stream:
            with pytest.raises(StreamBroken, match="the worker ended the stream"):
                await stream.wait(1, PATIENCE)


async def test_a_server_that_does_not_attach(carrier: Carrier, tmp_path: Path) -> None:
    done = threading.Event()

    def answer(requests: Iterator[pb.ClientFrame]) -> Iterator[pb.ServerFrame]:
        done.wait(PATIENCE)
        yield attached(next(requests))

    with carrier.serving(tmp_path, answer):
        with pytest.raises(errors.DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            async with carrier.attached(tmp_path, timeout=0.05):
                pass
        done.set()
