"""The session state machine, against a model that keeps the same rules in the plainest way."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.machine import DEFAULT_WINDOW, ShardMachine, Verb

VERBS: list[Verb] = [pb.Reset(), pb.Step(), pb.Call(), pb.SetAttr(), pb.Close()]


class Conversation(RuleBasedStateMachine):
    """Requests, and replies to them in parts and in any order.

    `coming` are the parts that the server still owes to each request, `here` the ones that came and were
    not taken, `abandoned` the requests whose replies nobody wants.
    """

    def __init__(self) -> None:
        super().__init__()
        self.machine = ShardMachine("shard", b"token")
        self.window = DEFAULT_WINDOW
        self.sent = 0
        self.coming: dict[int, int] = {}
        self.here: dict[int, list[pb.Reply]] = {}
        self.abandoned: set[int] = set()
        self.parts: dict[int, int] = {}

    @property
    def outstanding(self) -> set[int]:
        return set(self.coming) | {sequence for sequence, parts in self.here.items() if parts}

    @rule(window=st.integers(0, 6))
    def attached(self, window: int) -> None:
        self.machine.receive(pb.ServerFrame(attached=pb.Attached(generation=1, window=window)))
        self.window = window or DEFAULT_WINDOW
        assert self.machine.attached

    @rule(verb=st.sampled_from(VERBS), parts=st.integers(1, 3))
    def request(self, verb: Verb, parts: int) -> None:
        if len(self.outstanding) >= self.window and not isinstance(verb, pb.Close):
            with pytest.raises(FailedPrecondition, match="whole window"):
                self.machine.request(verb)
            return
        acknowledged = min(self.outstanding, default=self.sent + 1) - 1
        sequence, frame = self.machine.request(verb)
        self.sent += 1
        assert sequence == frame.request.sequence == self.sent
        assert frame.request.acknowledged == acknowledged
        assert frame.request.WhichOneof("verb") is not None
        self.coming[sequence], self.here[sequence], self.parts[sequence] = parts, [], 0

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.coming)))
        self.coming[sequence] -= 1
        last = self.coming[sequence] == 0
        if last:
            del self.coming[sequence]
        reply = pb.Reply(sequence=sequence, part=self.parts[sequence], last=last)
        self.parts[sequence] += 1
        self.machine.receive(pb.ServerFrame(reply=reply))
        if sequence not in self.abandoned:
            self.here[sequence].append(reply)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(1, self.sent))
        expected = self.here[sequence].pop(0) if self.here[sequence] else None
        assert self.machine.take(sequence) == expected

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(1, self.sent))
        self.machine.abandon(sequence)
        self.here[sequence] = []
        self.abandoned.add(sequence)

    @rule(data=st.data())
    def reply_to_nothing(self, data: st.DataObject) -> None:
        free = sorted(set(range(self.sent + 3)) - self.outstanding)
        sequence = data.draw(st.sampled_from(free))
        with pytest.raises(InvalidArgument, match=f"request {sequence}"):
            self.machine.receive(pb.ServerFrame(reply=pb.Reply(sequence=sequence, last=True)))

    @invariant()
    def nothing_is_outstanding_that_was_answered(self) -> None:
        # The one thing that the outside sees of it: the next request is taken or refused.
        if not self.outstanding:
            assert all(self.machine.take(sequence) is None for sequence in range(1, self.sent + 1))


TestConversation = Conversation.TestCase


def test_the_first_frame_names_session_token_and_version() -> None:
    attach = ShardMachine("shard", b"token").attach(generation=3).attach
    assert attach == pb.Attach(
        shard_id="shard", token=b"token", protocol_version=PROTOCOL_VERSION, generation=3
    )


def test_nothing_comes_after_the_last_part() -> None:
    machine = ShardMachine("shard", b"token")
    sequence, _ = machine.request(pb.Step())
    last = pb.ServerFrame(reply=pb.Reply(sequence=sequence, last=True))
    machine.receive(last)
    with pytest.raises(InvalidArgument, match="after its last part"):
        machine.receive(last)


@pytest.mark.parametrize("frame", [pb.ServerFrame(), pb.ServerFrame(chunk=pb.Chunk(data=b"x"))])
def test_other_frames_are_refused(frame: pb.ServerFrame) -> None:
    with pytest.raises(InvalidArgument, match="neither attached nor reply"):
        ShardMachine("shard", b"token").receive(frame)
