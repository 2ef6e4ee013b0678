"""A worker's sessions over its own wire: who gets in, what is refused, and what survives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from megaflow import errors
from megaflow.protocol import failures, values
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.launch import SECRET_KEY
from worker_rig import ODD, PATIENCE, SECRET, OddEnv, RawStream, Rig, maker, single, vector

GARBAGE = b"\xc1 no value"
STEP = pb.Step(action=values.encode(1))


def closed() -> str:
    return OddEnv.closed.get(timeout=PATIENCE)


def error_of(reply: pb.Reply) -> Exception:
    assert reply.last
    return failures.from_message(reply.error)


@pytest.mark.parametrize("secret", [None, "", SECRET[:-1], SECRET + "0"])
def test_control_is_for_who_knows_the_secret(rig: Rig, secret: str | None) -> None:
    with pytest.raises(errors.PermissionDenied, match="only the gateway"):
        rig.open(single(), secret=secret)
    metadata = ((SECRET_KEY, secret),) if secret is not None else ()
    calls: tuple[Callable[[], Any], ...] = (
        lambda: rig.control.CloseShard(pb.CloseShardRequest(), metadata=metadata),
        lambda: rig.control.ListEnvironments(pb.ListEnvironmentsRequest(), metadata=metadata),
        lambda: next(rig.control.Watch(pb.WatchRequest(), metadata=metadata)),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("token", [b"", b"another token ..", b"a token of 16 b"])
def test_a_session_is_for_who_knows_its_token(rig: Rig, token: bytes) -> None:
    rig.open(single())
    with pytest.raises(errors.PermissionDenied, match="does not open session a"):
        rig.attach(token=token)
    assert rig.attach().ask(reset=pb.Reset()).HasField("transition")


def test_the_newest_connection_counts(rig: Rig) -> None:
    rig.open(single())
    first = rig.attach()
    assert first.ask(reset=pb.Reset()).HasField("transition")
    second = rig.attach(generation=2, after=first)
    assert second.ask(step=STEP).HasField("transition")
    with pytest.raises((errors.Unavailable, StopIteration)):
        first.receive()
    for generation in (0, 1, 2):
        with pytest.raises(errors.Superseded, match="after connection 2"):
            rig.attach(generation=generation)
    assert second.ask(step=STEP).HasField("transition")


def test_an_unknown_session_and_an_unknown_version(rig: Rig) -> None:
    rig.open(single())
    with pytest.raises(errors.NotFound, match="no session 'b'"):
        rig.attach("b")
    with pytest.raises(errors.InvalidArgument, match="protocol_version=99"):
        rig.attach(version=99)


def test_a_stream_begins_with_attach(rig: Rig) -> None:
    stream = rig.stream()
    stream.send(pb.ClientFrame(request=pb.Request(sequence=1, reset=pb.Reset())))
    with pytest.raises(errors.InvalidArgument, match="first frame"):
        stream.receive()
    empty = rig.stream()
    empty.end()
    with pytest.raises(errors.InvalidArgument, match="first frame"):
        empty.receive()


def test_a_shard_id_is_used_once_at_a_time(rig: Rig) -> None:
    rig.open(single())
    with pytest.raises(errors.InvalidArgument, match="'a' is open already"):
        rig.open(single())


def test_an_opening_that_its_close_has_overtaken_makes_nothing(rig: Rig) -> None:
    rig.control.CloseShard(
        pb.CloseShardRequest(shard_id="a"), metadata=((SECRET_KEY, SECRET),), timeout=PATIENCE
    )
    with pytest.raises(errors.FailedPrecondition, match="closed before it was opened"):
        rig.open(single())
    assert not rig.table._sessions


def frame(sequence: int, acknowledged: int = 0) -> pb.ClientFrame:
    request = pb.Request(sequence=sequence, acknowledged=acknowledged, step=STEP)
    return pb.ClientFrame(request=request)


def read_to_the_end(stream: RawStream) -> None:
    while True:
        stream.receive()


WRONG: dict[str, tuple[list[pb.ClientFrame], type[errors.MegaflowError], str]] = {
    "a gap": ([frame(3)], errors.FailedPrecondition, "received request 1, so 3 cannot be next"),
    "more than was sent": ([frame(2, 2)], errors.FailedPrecondition, "acknowledged=2"),
    "beyond the window": (
        [frame(sequence) for sequence in range(2, 7)],
        errors.FailedPrecondition,
        "its whole window",
    ),
    "a second attach": (
        [pb.ClientFrame(attach=pb.Attach())],
        errors.InvalidArgument,
        "a second `attach`",
    ),
    "an empty piece": (
        [pb.ClientFrame(chunk=pb.Chunk(last=True))],
        errors.InvalidArgument,
        "piece of a frame is empty",
    ),
    "pieces of nothing": (
        [pb.ClientFrame(chunk=pb.Chunk(data=b"\xff\xff\xff", last=True))],
        errors.InvalidArgument,
        "in pieces: not a",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_next_request_ends_the_stream_and_not_the_session(rig: Rig, kind: str) -> None:
    frames, error, match = WRONG[kind]
    rig.open(single())
    stream = rig.attach()
    stream.ask(reset=pb.Reset())
    for one in frames:
        stream.send(one)
    with pytest.raises(error, match=match):
        read_to_the_end(stream)
    again = rig.attach(generation=2, after=stream)
    assert again.ask(step=STEP).HasField("transition")


MALFORMED: dict[str, dict[str, object]] = {
    "no verb": {},
    "reset.seed": {"reset": pb.Reset(seed=GARBAGE)},
    "reset.options": {"reset": pb.Reset(options=GARBAGE)},
    "step.action": {"step": pb.Step(action=GARBAGE)},
    "step without action": {"step": pb.Step()},
    "step.indices": {"step": pb.Step(action=values.encode(1), indices=[0])},
    "call.args": {"call": pb.Call(name="answer", args=GARBAGE)},
    "call.args: no tuple": {"call": pb.Call(name="answer", args=values.encode(3))},
    "call.kwargs": {"call": pb.Call(name="answer", kwargs=GARBAGE)},
    "call.kwargs: no dict": {"call": pb.Call(name="answer", kwargs=values.encode([1]))},
    "call.kwargs: other keys": {"call": pb.Call(name="answer", kwargs=values.encode({1: 2}))},
    "call.indices: no such": {"call": pb.Call(name="answer", indices=[2])},
    "call.indices: twice": {"call": pb.Call(name="answer", indices=[1, 1])},
    "set_attr.indices": {
        "set_attr": pb.SetAttr(name="x", values=values.encode([1]), indices=[2**32 - 1])
    },
    "set_attr.values": {"set_attr": pb.SetAttr(name="x", values=GARBAGE)},
    "set_attr.values: too many": {"set_attr": pb.SetAttr(name="x", values=values.encode([1] * 3))},
    "set_attr.values: no list": {"set_attr": pb.SetAttr(name="x", values=values.encode(1))},
}


@pytest.mark.parametrize("num_envs", [0, 2])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_and_the_session_lives_on(
    rig: Rig, case: str, num_envs: int
) -> None:
    rig.open(vector(num_envs) if num_envs else single())
    stream = rig.attach()
    error = error_of(stream.ask(**MALFORMED[case]))
    assert type(error) is errors.InvalidArgument
    assert stream.ask(reset=pb.Reset()).HasField("transition")


def test_a_malformed_mask_is_refused_and_the_session_lives_on(rig: Rig) -> None:
    rig.open(vector(2))
    stream = rig.attach()
    assert type(error_of(stream.ask(reset=pb.Reset(mask=GARBAGE)))) is errors.InvalidArgument
    assert stream.ask(reset=pb.Reset()).HasField("transition")


@pytest.mark.parametrize("kind", ["ValueError", "Custom", "Unencodable"])
def test_an_exception_keeps_the_session_alive(rig: Rig, kind: str) -> None:
    rig.open(single("zoo/Raising-v0", kind=kind, at=1))
    stream = rig.attach()
    stream.ask(reset=pb.Reset())
    reply = stream.ask(step=STEP)
    assert reply.error.kind == "EnvironmentFailed"
    assert "in _raise" in reply.error.traceback
    assert stream.ask(step=STEP).HasField("transition")


def test_sys_exit_in_an_environment_ends_neither_session_nor_worker(rig: Rig) -> None:
    rig.open(single(exit_at="step"))
    stream = rig.attach()
    stream.ask(reset=pb.Reset())
    error = error_of(stream.ask(step=STEP))
    assert type(error) is errors.EnvironmentFailed
    assert error.exception_type == "builtins.SystemExit"
    assert stream.ask(reset=pb.Reset()).HasField("transition")


def test_sys_exit_in_a_constructor_is_an_answer(rig: Rig) -> None:
    with pytest.raises(errors.EnvironmentFailed, match="SystemExit: 3"):
        rig.open(single(exit_at="init"))
    rig.open(single())


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_exception_whose_text_cannot_be_made_keeps_the_session_alive(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: OddEnv) -> None:
        error = Mute("\udcff")
        error.add_note("a note \udcff")
        raise error

    monkeypatch.setattr(OddEnv, "answer", answer)
    rig.open(single())
    stream = rig.attach()
    error = error_of(stream.ask(call=pb.Call(name="answer")))
    assert isinstance(error, errors.EnvironmentFailed)
    assert error.__notes__ == ["a note \\udcff"]
    assert stream.ask(reset=pb.Reset()).HasField("transition")


def test_an_environment_that_cannot_be_described_is_closed(rig: Rig) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"metadata\['odd'\]"):
        rig.open(single(name="odd metadata", odd_metadata=True))
    assert closed() == "odd metadata"
    rig.open(single())


def test_those_made_before_one_that_fails_are_closed(rig: Rig) -> None:
    spec = vector(3)
    del spec.makers[:]
    spec.makers.extend([maker(name="0"), maker(name="1"), maker(exit_at="init")])
    with pytest.raises(errors.EnvironmentFailed, match="SystemExit"):
        rig.open(spec)
    assert {closed(), closed()} == {"0", "1"}


def test_keyword_arguments_that_json_lacks_are_no_obstacle(rig: Rig) -> None:
    description = rig.open(single(name=np.zeros(2)))
    assert description.env_spec == ""


def test_the_catalogue_is_the_registry_without_the_door_to_servers(rig: Rig) -> None:
    answer = rig.control.ListEnvironments(
        pb.ListEnvironmentsRequest(), metadata=((SECRET_KEY, SECRET),)
    )
    ids = {info.id for info in answer.environments}
    assert {"CartPole-v1", ODD} <= ids
    assert "megaflow/Remote-v0" not in ids
    assert "megaflow/Terminal-v0" in ids
