"""The client's side of a shard session, without any I/O.

It numbers requests, matches replies to them and acknowledges what came; every transport drives this one
machine, so that all of them keep the same rules.
"""

from __future__ import annotations

from typing import TypeAlias

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb

Verb: TypeAlias = pb.Reset | pb.Step | pb.Call | pb.SetAttr | pb.Close

# Requests that may be outstanding until the server says otherwise.
DEFAULT_WINDOW = 4


class ShardMachine:
    """Sequence numbers, window and acknowledgements of one shard session.

    A request is *outstanding* from `request` until its last reply part was taken, or until it was
    abandoned and its last part arrived.
    """

    def __init__(self, shard_id: str, token: bytes) -> None:
        self._shard_id = shard_id
        self._token = token
        self._window = DEFAULT_WINDOW
        self._sequence = 0
        self._outstanding: set[int] = set()
        self._abandoned: set[int] = set()
        self._replies: dict[int, list[pb.Reply]] = {}
        self.attached = False

    def attach(self, generation: int = 1) -> pb.ClientFrame:
        """The first frame of a stream."""
        return pb.ClientFrame(
            attach=pb.Attach(
                shard_id=self._shard_id,
                token=self._token,
                protocol_version=PROTOCOL_VERSION,
                generation=generation,
            )
        )

    def request(self, verb: Verb) -> tuple[int, pb.ClientFrame]:
        """Numbers a verb: its sequence, and the frame to send."""
        # Closing needs no room: nothing comes after it, and whatever was abandoned must not prevent it.
        if len(self._outstanding) >= self._window and not isinstance(verb, pb.Close):
            raise FailedPrecondition(
                f"{len(self._outstanding)} requests are outstanding on shard {self._shard_id}, which is its "
                "whole window: wait for a reply first"
            )
        acknowledged = min(self._outstanding) - 1 if self._outstanding else self._sequence
        self._sequence += 1
        request = pb.Request(sequence=self._sequence, acknowledged=acknowledged)
        field = _FIELDS[type(verb)]
        getattr(request, field).CopyFrom(verb)
        self._outstanding.add(self._sequence)
        return self._sequence, pb.ClientFrame(request=request)

    def receive(self, frame: pb.ServerFrame) -> None:
        """Files a whole frame that came from the server."""
        kind = frame.WhichOneof("body")
        if kind == "attached":
            self.attached = True
            self._window = frame.attached.window or DEFAULT_WINDOW
        elif kind == "reply":
            self._file(frame.reply)
        else:
            raise InvalidArgument(
                f"the server sent a frame that is neither attached nor reply: {kind}"
            )

    def _file(self, reply: pb.Reply) -> None:
        sequence = reply.sequence
        if sequence not in self._outstanding:
            raise InvalidArgument(
                f"the server answered request {sequence}, which is not outstanding: {sorted(self._outstanding)}"
            )
        if sequence in self._abandoned:
            if reply.last:
                self._abandoned.discard(sequence)
                self._outstanding.discard(sequence)
            return
        parts = self._replies.setdefault(sequence, [])
        if parts and parts[-1].last:
            raise InvalidArgument(f"the server answered request {sequence} after its last part")
        parts.append(reply)

    def take(self, sequence: int) -> pb.Reply | None:
        """The next reply part to a request, oldest first; None where it has not come yet."""
        parts = self._replies.get(sequence)
        if not parts:
            return None
        reply = parts.pop(0)
        if reply.last:
            del self._replies[sequence]
            self._outstanding.discard(sequence)
        return reply

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
}
