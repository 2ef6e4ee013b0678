"""The client's side of a shard session, without any I/O.

It numbers requests, matches replies to them, acknowledges what came, and takes a session up again over
another connection; every transport drives this one machine, so that all of them keep the same rules. The
worker's side is `megaflow_server.worker.machine`.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb

Verb: TypeAlias = pb.Reset | pb.Step | pb.Call | pb.SetAttr | pb.Close | pb.Snapshot | pb.Restore

# Requests that may be outstanding until the server says otherwise.
DEFAULT_WINDOW = 4


class ShardMachine:
    """Sequence numbers, window, acknowledgements and connection generations of one shard session.

    A transport sends what `outgoing` gives after every call that changes something, and hands `receive` each
    frame that comes. For each connection, the first included, it calls `connect` first. What comes off an
    older connection must not reach the machine any more.

    A request is *outstanding* from `request` until its last reply part was taken, or until it was
    abandoned and its last part arrived.

    Args:
        after: of earlier machines of this session, whose connections may still be on their way, the newest generation.
    """

    def __init__(self, shard_id: str, token: bytes, after: int = 0) -> None:
        self._shard_id = shard_id
        self._token = token
        self._window = DEFAULT_WINDOW
        self._generation = after
        self._sequence = 0
        # Reply parts that came, over all connections.
        self._parts = 0
        # What another connection would have to carry again: requests whose last part has not come.
        self._unanswered: dict[int, pb.ClientFrame] = {}
        self._outstanding: set[int] = set()
        self._abandoned: set[int] = set()
        self._replies: dict[int, list[pb.Reply]] = {}
        self._outgoing: deque[pb.ClientFrame] = deque()
        self._close: int | None = None
        self.attached = False

    @property
    def closed(self) -> bool:
        """Whether the reply to a Close has come."""
        return self._close is not None and self._close not in self._unanswered

    @property
    def unanswered(self) -> bool:
        """Whether the last part of a reply has not come."""
        return bool(self._unanswered)

    @property
    def slots(self) -> set[int]:
        """Those that the worker may write to: what an unanswered request names, whoever waits for the reply."""
        requests = [frame.request for frame in self._unanswered.values()]
        return {request.step.slot or request.reset.slot for request in requests}

    @property
    def generation(self) -> int:
        """Which connection this is; later ones have higher numbers."""
        return self._generation

    @property
    def parts(self) -> int:
        """Reply parts that came so far: grows whenever a connection was of use."""
        return self._parts

    def connect(self) -> None:
        """Begins a connection, in place of the one before; requests wait until the worker has attached it."""
        self._generation += 1
        self.attached = False
        attach = pb.Attach(
            shard_id=self._shard_id,
            token=self._token,
            protocol_version=PROTOCOL_VERSION,
            generation=self._generation,
            acknowledged=self._parts,
        )
        self._outgoing = deque([pb.ClientFrame(attach=attach)])

    def outgoing(self) -> list[pb.ClientFrame]:
        """The frames to send now, in order; each is given once."""
        frames = list(self._outgoing)
        self._outgoing.clear()
        return frames

    def request(self, verb: Verb) -> int:
        """Numbers a verb: its sequence."""
        # Closing needs no room: nothing comes after it, and whatever was abandoned must not prevent it.
        if len(self._outstanding) >= self._window and not isinstance(verb, pb.Close):
            raise FailedPrecondition(
                f"{len(self._outstanding)} requests are outstanding on shard {self._shard_id}, which is its "
                "whole window: wait for a reply first"
            )
        self._sequence += 1
        frame = pb.ClientFrame()
        request = frame.request
        request.sequence = self._sequence
        request.acknowledged = self._parts
        getattr(request, _FIELDS[type(verb)]).CopyFrom(verb)
        if isinstance(verb, pb.Close):
            self._close = self._sequence
        self._outstanding.add(self._sequence)
        self._unanswered[self._sequence] = frame
        if self.attached:
            self._outgoing.append(frame)
        return self._sequence

    def receive(self, frame: pb.ServerFrame) -> None:
        """Files a whole frame that came from the worker.

        Raises InvalidArgument for what no worker sends, FailedPrecondition where a part is missing; the
        connection is of no use after either.
        """
        kind = frame.WhichOneof("body")
        if kind == "attached":
            self._attach(frame.attached)
        elif kind == "reply":
            self._file(frame.reply)
        else:
            raise InvalidArgument(
                f"the server sent a frame that is neither attached nor reply: {kind}"
            )

    def _attach(self, attached: pb.Attached) -> None:
        if attached.generation != self._generation or self.attached:
            raise InvalidArgument(
                f"the server attached connection {attached.generation} on connection {self._generation}"
            )
        if attached.received > self._sequence:
            raise InvalidArgument(
                f"the server received request {attached.received}, and {self._sequence} were sent"
            )
        self.attached = True
        self._window = attached.window or DEFAULT_WINDOW
        for sequence, frame in self._unanswered.items():
            if sequence > attached.received:
                frame.request.acknowledged = self._parts
                self._outgoing.append(frame)

    def _file(self, reply: pb.Reply) -> None:
        if not self.attached:
            raise InvalidArgument("the server sent a reply before it attached the connection")
        if reply.part <= self._parts:
            return  # sent again, because the acknowledgement had not come
        if reply.part != self._parts + 1:
            raise FailedPrecondition(
                f"part {reply.part} of the replies came after part {self._parts}: some are missing"
            )
        sequence = reply.sequence
        if sequence not in self._unanswered:
            raise InvalidArgument(
                f"the server answered request {sequence}, which is not outstanding: "
                f"{sorted(self._unanswered)}"
            )
        # An interrupt may strike between any two lines. What was not counted by then comes again, over another
        # connection, so the count comes last.
        if sequence not in self._abandoned:
            parts = self._replies.setdefault(sequence, [])
            if not parts or parts[-1].part != reply.part:
                parts.append(reply)
        elif reply.last:
            self._outstanding.discard(sequence)
        self._parts += 1
        if reply.last:
            self._abandoned.discard(sequence)
            self._unanswered.pop(sequence, None)

    def take(self, sequence: int) -> pb.Reply | None:
        """The next reply part to a request, oldest first; None where it has not come yet."""
        parts = self._replies.get(sequence)
        if not parts:
            return None
        reply = parts[0]
        if reply.last:
            self._outstanding.discard(sequence)
        del parts[0]
        if not parts:
            del self._replies[sequence]
        return reply

    def has(self, sequence: int) -> bool:
        """Whether `take` would give a part of the reply to this request."""
        return bool(self._replies.get(sequence))

    def abandon(self, sequence: int) -> None:
        """Nobody waits for this reply any more: it is dropped when it comes."""
        parts = self._replies.pop(sequence, [])
        if any(part.last for part in parts):
            self._outstanding.discard(sequence)
        elif sequence in self._outstanding:
            self._abandoned.add(sequence)


_FIELDS: dict[type[Verb], str] = {
    pb.Reset: "reset",
    pb.Step: "step",
    pb.Call: "call",
    pb.SetAttr: "set_attr",
    pb.Close: "close",
    pb.Snapshot: "snapshot",
    pb.Restore: "restore",
}
