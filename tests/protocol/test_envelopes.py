"""Messages are counted before they are decoded: honest ones pass, whatever their size, and bombs do not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.message import Message

from attacks import bits
from megaflow.errors import InvalidArgument
from megaflow.protocol import envelopes
from megaflow.protocol import megaflow_pb2 as pb

MIB = 2**20

_HONEST: dict[str, Message] = {
    "nothing": pb.Reset(),
    "a large action": pb.ClientFrame(
        request=pb.Request(sequence=2**40, acknowledged=3, step=pb.Step(action=bytes(4 * MIB)))
    ),
    "100,000 makers": pb.OpenSessionRequest(
        environment=pb.EnvironmentSpec(
            makers=[pb.Maker(id="CartPole-v1", kwargs=b"\x81\xa1a\x01")] * 100_000
        )
    ),
    "100,000 sessions": pb.RenewLeasesRequest(session_ids=["0123456789abcdef"] * 100_000),
    "a million indices": pb.Step(indices=range(1_000_000)),
    "numbers of all kinds": pb.HelloRequest(protocol_version=2**32 - 1, features=["a" * 300] * 100),
    "a double": pb.OpenSessionRequest(env_start_timeout_s=1.5, client_id="a" * 20_000),
}


@pytest.mark.parametrize("name", _HONEST)
def test_honest_messages_pass(name: str) -> None:
    message = _HONEST[name]
    parsed = envelopes.parse(type(message), message.SerializeToString(), what="it")
    assert parsed == message


_BOMBS: dict[str, tuple[type[Message], bytes]] = {
    "empty makers": (pb.OpenSessionRequest, bits.field(2, b"\x0a\x00" * (2 * MIB))),
    "empty specs": (pb.OpenSessionRequest, b"\x12\x00\x1a\x00" * MIB),
    "bodies by turns": (pb.ClientFrame, b"\x0a\x00\x12\x00" * MIB),
    "verbs by turns": (pb.ClientFrame, bits.field(2, b"\x1a\x00\x22\x00\x2a\x00" * MIB)),
    "empty strings": (pb.RenewLeasesRequest, b"\x0a\x00" * (2 * MIB)),
    "numbers": (pb.Step, bits.field(2, b"\x01" * (4 * MIB))),
    "unpacked numbers": (pb.Step, b"\x10\x01" * (2 * MIB)),
    "unknown fields": (pb.ClientFrame, b"\x7a\x00" * (2 * MIB)),
    "unknown numbers": (pb.ClientFrame, b"\x78\x00" * (2 * MIB)),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_bombs_are_refused_in_time(name: str) -> None:
    """Time of the processor; three times the promise, for slow and busy machines."""
    kind, data = _BOMBS[name]
    began = time.process_time()
    with pytest.raises(InvalidArgument, match="send fewer at once"):
        envelopes.parse(kind, data, what="it")
    assert time.process_time() - began < 0.3 * len(data) / MIB


@pytest.mark.parametrize(
    "end", [b"\x0a", b"\x80", b"\x0a\x05abc", b"\x78" + b"\xff" * 11, b"\x7b", b"\x7c", b"\x79ab"]
)
def test_what_is_cut_off_is_no_message(end: bytes) -> None:
    """Found while counting, or else by protobuf itself."""
    honest = pb.HelloRequest(megaflow_version="a" * 20_000).SerializeToString()
    for data in (honest + end, end):
        with pytest.raises(InvalidArgument, match=r"^it: not a megaflow\.v1\.HelloRequest"):
            envelopes.parse(pb.HelloRequest, data, what="it")


def test_what_is_counted_is_what_protobuf_reads() -> None:
    """No message of the wire has fields that are passed over: each is a body, a text, or a number."""
    kinds: Any = pb.DESCRIPTOR.message_types_by_name.values()
    for kind in kinds:
        plan = envelopes._plan(kind)
        messages = {one.number for one in kind.fields if one.message_type is not None}
        assert set(plan.messages) == messages
        assert not messages & (plan.strings | plan.packed)


def test_every_request_can_be_counted() -> None:
    # A message that holds its own kind could not.
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            with pytest.raises(InvalidArgument, match="not a "):
                envelopes.check(method.input_type, b"\x07" * (envelopes.FREE_BYTES + 1), what="it")
