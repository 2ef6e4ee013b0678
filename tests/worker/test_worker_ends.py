"""How a worker's sessions end, over its own wire, and what a client that has gone leaves to the next."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megaflow import errors
from megaflow.protocol import failures, values
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.launch import SECRET_KEY
from megaflow_server.worker import streams
from megaflow_server.worker.machine import SessionMachine
from megaflow_server.worker.streams import MAX_UNSENT
from raw_socket import RawSocket, framed
from worker_rig import PATIENCE, SECRET, TOKEN, OddEnv, Rig, single, vector

STEP = pb.Step(action=values.encode(1))
# Of each of 20 sub-environments, so that a reply is 1 MB: the kernel and gRPC keep some of these for who does not read.
BIG_ANSWER = values.encode((bytes(50_000),))
FEW = MAX_UNSENT + 8


def closed() -> str:
    return OddEnv.closed.get(timeout=PATIENCE)


def eventually(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def error_of(reply: pb.Reply) -> Exception:
    assert reply.last
    return failures.from_message(reply.error)


def frame(sequence: int, acknowledged: int = 0) -> pb.ClientFrame:
    request = pb.Request(sequence=sequence, acknowledged=acknowledged, step=STEP)
    return pb.ClientFrame(request=request)


def test_closing_answers_and_ends_the_stream(rig: Rig) -> None:
    events = rig.watch()
    rig.open(single())
    stream = rig.attach()
    assert not stream.ask(close=pb.Close()).HasField("error")
    assert closed() == "odd"
    with pytest.raises(StopIteration):
        stream.receive()
    assert next(events).closed_shard_id == "a"
    rig.open(single())


def test_an_exception_while_closing_is_told_and_ends_the_session(rig: Rig) -> None:
    rig.open(single(exit_at="close"))
    stream = rig.attach()
    error = error_of(stream.ask(close=pb.Close()))
    assert isinstance(error, errors.EnvironmentFailed)
    with pytest.raises(StopIteration):
        stream.receive()


@pytest.mark.parametrize("exit_at", ["", "close"])
def test_a_client_that_vanishes_leaves_the_session_to_the_gateway(rig: Rig, exit_at: str) -> None:
    events = rig.watch()
    rig.open(vector(1, name="left", exit_at=exit_at))
    rig.attach().vanish()
    rig.close()
    assert closed() == "left"
    assert next(events).closed_shard_id == "a"


def test_a_reply_waits_for_the_next_connection(rig: Rig) -> None:
    gate = OddEnv.gates["vanish"] = threading.Event()
    rig.open(single(name="stepping", gate="vanish"))
    stream = rig.attach()
    stream.ask(reset=pb.Reset())
    stream.send(frame(2, 1))
    assert OddEnv.entered.get(timeout=PATIENCE) == "stepping"
    stream.vanish()
    during = rig.attach(generation=2, after=stream)
    during.vanish()
    gate.set()
    again = rig.attach(generation=3, after=stream)
    assert again.receive().reply.sequence == 2
    again.send(frame(2, 1))  # it came, so it is answered, and not applied
    assert again.receive().reply.part == 2
    again.sequence = again.parts = 2
    observation = again.ask(step=STEP).transition.observation
    assert values.decode(observation)[1] == 2  # steps, of which the first was sent twice


def test_closing_ends_a_session_whose_step_runs(rig: Rig) -> None:
    gate = OddEnv.gates["closing"] = threading.Event()
    rig.open(single(name="stepping", gate="closing"))
    stream = rig.attach()
    stream.ask(reset=pb.Reset())
    stream.send(frame(2, 1))
    stream.send(frame(3, 1))  # never applied
    assert OddEnv.entered.get(timeout=PATIENCE) == "stepping"
    rig.close()
    gate.set()
    assert closed() == "stepping"
    assert OddEnv.entered.empty()


@pytest.mark.parametrize("ends", ["by the gateway", "by the client", "its stream, by the client"])
def test_a_client_that_takes_no_replies_keeps_neither_session_nor_threads(
    rig: Rig, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow_server.worker.session._LAST_REPLY", 0.3)
    rig.open(single(name="unread"))
    session = rig.table.get("a")
    stream = rig.attach()
    # A reply beyond what flow control lets through unread.
    big = pb.Call(name="answer", args=values.encode((bytes(16 << 20),)))
    stream.send(pb.ClientFrame(request=pb.Request(sequence=1, call=big)))
    eventually(lambda: session._machine.kept_bytes > 0)
    if ends == "by the gateway":
        rig.close()
    elif ends == "by the client":
        stream.send(pb.ClientFrame(request=pb.Request(sequence=2, close=pb.Close())))
    else:
        stream.end()
        eventually(lambda: session._attached is None)
        rig.close()
    assert OddEnv.closed.get(timeout=PATIENCE / 2) == "unread"
    session.thread.join(PATIENCE / 2)
    assert not session.thread.is_alive()
    eventually(lambda: "call" not in [one.name for one in threading.enumerate()], PATIENCE / 2)


@pytest.mark.parametrize("sockets", [False, True])
def test_a_client_that_does_not_read_has_few_replies_made(
    rig: Rig, tmp_path: Path, sockets: bool
) -> None:
    """However wide its window is, what waits for it stays bounded."""
    rig.open(vector(20))
    session = rig.table.get("a")
    asked = [
        pb.ClientFrame(
            request=pb.Request(sequence=number, call=pb.Call(name="answer", args=BIG_ANSWER))
        )
        for number in range(1, 21)
    ]
    if sockets:
        with RawSocket(tmp_path / "worker.sock.frames") as raw:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
            assert raw.attach("a", TOKEN).window >= 20
            for frame in asked:
                raw.send(framed(frame))
            assert _settled(session) <= FEW
            for number in range(1, 21):
                received = raw.receive()
                assert received is not None
                assert received.reply.sequence == number
    else:
        stream = rig.attach()
        for frame in asked:
            stream.send(frame)
        assert _settled(session) <= FEW
        for number in range(1, 21):
            assert stream.receive().reply.sequence == number


@pytest.mark.long
@pytest.mark.parametrize("ends", [False, True])
def test_replies_of_the_sessions_own_thread_hold_up_neither_a_newer_connection_nor_the_end(
    rig: Rig, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until gRPC has taken one, and of a client that does not read gRPC takes no more at some point."""
    monkeypatch.setattr(streams, "MAX_SENT_HERE", 2**30)
    rig.open(vector(20, name="unread"))
    session = rig.table.get("a")
    stalled = rig.attach()
    call = pb.Call(name="answer", args=BIG_ANSWER)
    while stalled.post(call=call) == _settled(session):
        assert stalled.sequence < 20
    attached: Any = session._attached
    assert session.thread.ident == attached._reader
    if ends:
        rig.close()
        session.thread.join(PATIENCE / 2)
        assert not session.thread.is_alive()
    else:
        newer = rig.attach(generation=2)
        for number in range(1, stalled.sequence):
            assert newer.receive().reply.sequence == number
        assert newer.ask(reset=pb.Reset()).sequence == stalled.sequence


def _settled(session: Any) -> int:
    """How many parts of replies a session has made, once it makes no more."""
    before, parts = -1, session._machine._parts
    while parts == 0 or parts != before:
        time.sleep(0.3)
        before, parts = parts, session._machine._parts
    return int(parts)


def test_a_fault_of_ours_closes_the_environments(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(self: SessionMachine, reply: pb.Reply) -> pb.ServerFrame:
        raise MemoryError("no room for a reply")

    monkeypatch.setattr(SessionMachine, "reply", reply)
    events = rig.watch()
    rig.open(single(name="left"))
    rig.attach().send(pb.ClientFrame(request=pb.Request(sequence=1, reset=pb.Reset())))
    assert closed() == "left"
    assert next(events).closed_shard_id == "a"
    assert "no room for a reply" in caplog.text


def test_closing_by_the_gateway_ends_attached_and_waiting_sessions(rig: Rig) -> None:
    events = rig.watch()
    rig.open(single(name="waiting"), "a")
    rig.open(single(name="attached"), "b")
    stream = rig.attach("b")
    for shard_id in ("a", "b", "none"):
        rig.control.CloseShard(
            pb.CloseShardRequest(shard_id=shard_id), metadata=((SECRET_KEY, SECRET),)
        )
    assert {closed(), closed()} == {"waiting", "attached"}
    # That there is no such session is told at once; those that there are end in threads of their own.
    assert {next(events).closed_shard_id for _ in range(3)} == {"a", "b", "none"}
    with pytest.raises(StopIteration):
        stream.receive()
