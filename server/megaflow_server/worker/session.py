"""A shard session in its worker: one thread that makes the environments, serves their streams and closes them.

One thread for a session's whole life, because environments may be bound to the thread that made them
(OpenGL contexts, SQLite connections, event loops). Streams come and go: when one breaks, the session waits
for the next, for as long as its gateway lets it live.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Protocol

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    SessionLost,
    Superseded,
)
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.slots import Slot
from megaflow_server.worker.hosts import Host
from megaflow_server.worker.machine import SessionMachine
from megaflow_server.worker.slots import Slots
from megaflow_server.worker.verbs import apply

logger = logging.getLogger(__name__)

# Seconds in which a client takes what was sent before its session was ended, or its stream was found faulty.
_LAST_FRAMES = 1.0
# The same for one that closes its environments itself, over whatever network.
_LAST_REPLY = 10.0


class Stream(Protocol):
    """The worker's end of a client's connection to one session."""

    def requests(self) -> Iterator[pb.Request]:
        """Blocks for each next request; ends when the client does.

        Raises InvalidArgument for what is no request.
        """
        ...

    def send(self, frame: pb.ServerFrame) -> None:
        """Sends, without waiting for room. From any thread."""
        ...

    def fail(self, error: MegaflowError) -> None:
        """Ends the stream with an error, after what was sent. From any thread."""
        ...

    def end(self) -> None:
        """Nothing more will be sent. Idempotent, from any thread."""
        ...

    def cut(self) -> None:
        """Ends the stream at once, whatever is still to be sent. Idempotent, from any thread."""
        ...

    def finish(self, grace: float) -> None:
        """Ends the stream, and cuts it where its client has not taken all of it within so many seconds.

        Blocks until it is over. From any thread.
        """
        ...


# Asks for what is to be lent before environments can be made; their description with it.
Ask = Callable[[Sequence[pb.WantedSandbox]], pb.EnvironmentSpec]


class ShardSession:
    """One shard session; `start`, `lend`, `attach` and `close` are called from other threads.

    Args:
        make_host: makes the environments.
        on_end: hears of the session's end.
        printed: gives the last lines that the worker printed.
    """

    def __init__(
        self,
        shard_id: str,
        token: bytes,
        make_host: Callable[[Ask], Host],
        on_end: Callable[[str], None],
        printed: Callable[[], str],
    ) -> None:
        self.shard_id = shard_id
        self._machine = SessionMachine(shard_id, token)
        self._make_host = make_host
        self._on_end = on_end
        self._printed = printed
        self._answers: SimpleQueue[pb.OpenShardResponse | BaseException] = SimpleQueue()
        # What was asked for has not come; what has come.
        self._asking = False
        self._lent: pb.EnvironmentSpec | None = None
        # Guards the machine, which stream is the newest, and whether it is still to be served.
        self._changed = threading.Condition()
        self._attached: Stream | None = None
        self._slots = Slots()
        self._unserved = False
        self._ended = False
        # A daemon: an environment that hangs must not keep the worker from ending.
        self.thread = threading.Thread(target=self._run, name=f"session-{shard_id}", daemon=True)

    def start(self) -> pb.OpenShardResponse:
        """Makes the environments; blocks until they are there or ask, or raises what making them raised."""
        self.thread.start()
        return self._answer()

    def lend(self, spec: pb.EnvironmentSpec) -> pb.OpenShardResponse:
        """Goes on, with what `start` asked for in the description of the environments."""
        with self._changed:
            if not self._asking:
                raise InvalidArgument(f"shard_id={self.shard_id!r} is open already")
            self._asking, self._lent = False, spec
            self._changed.notify_all()
        return self._answer()

    def _answer(self) -> pb.OpenShardResponse:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _ask(self, wanted: Sequence[pb.WantedSandbox]) -> pb.EnvironmentSpec:
        with self._changed:
            self._asking = True
            self._answers.put(pb.OpenShardResponse(sandboxes=wanted))
            self._changed.wait_for(lambda: self._lent is not None or self._ended)
            self._asking = False
            if self._lent is None:
                raise FailedPrecondition(f"shard {self.shard_id} was closed before it was opened")
            return self._lent

    def attach(self, request: pb.Attach, stream: Stream, slots: Slots | None = None) -> None:
        """Takes a client's stream, and the slots that came with it, in place of the one before.

        Raises PermissionDenied for a token that is not this session's, and Superseded for an old generation.
        """
        with self._changed:
            self._machine.check(request)
            if self._ended:
                raise FailedPrecondition(f"session {self.shard_id} has ended")
            for frame in self._machine.attach(request):
                stream.send(frame)
            older, self._attached = self._attached, stream
            self._slots = slots or Slots()
            self._unserved = True
            self._changed.notify_all()
        if older is not None:
            # It may be stalled, so what it still has to send is not waited for: the new one has it, too.
            older.cut()

    def close(self, reason: str = "") -> None:
        """Ends the session: at once where it waits for its client, else after the running request.

        Its client is told the reason at once, where there is one.
        """
        with self._changed:
            self._ended = True
            stream = self._attached
            self._changed.notify_all()
        if stream is not None:
            if reason:
                stream.fail(SessionLost(reason))
            # Who waits for the next request of a client that does not read is woken by this alone.
            stream.finish(_LAST_FRAMES)

    def _run(self) -> None:
        try:
            host, description = self._build()
        except BaseException as error:
            self._finish()
            self._answers.put(error)
            return
        self._answers.put(pb.OpenShardResponse(environment=description))
        closed = False
        try:
            closed = self._serve(host)
        except BaseException:  # whatever it is, the environments must not stay
            logger.exception("session %s: serving it failed", self.shard_id)
        if not closed:
            self._close_unattended(host)
        self._finish()

    def _build(self) -> tuple[Host, pb.EnvironmentDescription]:
        host = self._make_host(self._ask)
        self._machine.widen(host.concurrency)
        try:
            return host, host.describe()
        except BaseException:
            self._close_unattended(host)
            raise

    def _close_unattended(self, host: Host) -> None:
        try:
            host.close()
        except BaseException:  # nobody is left to tell
            logger.exception("session %s: closing its environments failed", self.shard_id)

    def _finish(self) -> None:
        with self._changed:
            self._ended = True
            stream = self._attached
        self._on_end(self.shard_id)
        if stream is not None:
            stream.finish(_LAST_REPLY)

    def _serve(self, host: Host) -> bool:
        """Serves one stream after the other; True once the client closed the environments, False at the end."""
        while (stream := self._next()) is not None:
            try:
                for request in stream.requests():
                    fresh, slot = self._accept(stream, request)
                    if fresh and self._apply(host, request, slot):
                        return True
            except Superseded:
                continue
            except MegaflowError as error:  # what came is no request, or not the next one
                stream.fail(error)
            self._detach(stream)
        return False

    def _next(self) -> Stream | None:
        """Waits for a stream that nobody has served yet; None once the session is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._unserved or self._ended)
            self._unserved = False
            return None if self._ended else self._attached

    def _accept(self, stream: Stream, request: pb.Request) -> tuple[bool, Slot | None]:
        """Whether a request is to be applied, and the slot that it names.

        Raises Superseded where its stream does not count any more.
        """
        with self._changed:
            if stream is not self._attached or self._ended:
                raise Superseded(f"session {self.shard_id} has a newer connection, or has ended")
            slot = self._slots.of(request)
            fresh, again = self._machine.receive(request)
            for frame in again:
                stream.send(frame)
        return fresh, slot

    def _apply(self, host: Host, request: pb.Request, slot: Slot | None) -> bool:
        """Applies a request, or starts to; True after a close."""
        try:
            apply(host, request, self._emit, slot)
        except BaseException as error:
            # sys.exit() in an environment ends neither session nor worker.
            failed = failures.to_message(error)
            self._emit(pb.Reply(sequence=request.sequence, last=True, error=failed))
        return bool(request.WhichOneof("verb") == "close")

    def _emit(self, reply: pb.Reply) -> None:
        """Sends a part of a reply over whichever stream is there by now. From any thread."""
        if reply.error.kind == "EnvironmentFailed":
            reply.error.log_tail = self._printed()
        elif reply.HasField("lost"):
            reply.lost.log_tail = self._printed()
        try:
            with self._changed:
                frame = self._machine.reply(reply)
                stream = self._attached
                if stream is not None:
                    stream.send(frame)
        except (
            BaseException
        ):  # a reply that is missing is the end of a session, whoever was to send it
            logger.exception("session %s: a reply cannot be sent", self.shard_id)
            self.close()

    def _detach(self, stream: Stream) -> None:
        """Lets go of a stream over which nothing more comes, and so nothing more is to be said."""
        with self._changed:
            if self._attached is stream:
                self._attached, self._slots = None, Slots()
        stream.finish(_LAST_FRAMES)
