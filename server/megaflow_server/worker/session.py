"""A shard session in its worker: one thread that makes the environments, serves their stream and closes them.

One thread for a session's whole life, because environments may be bound to the thread that made them
(OpenGL contexts, SQLite connections, event loops).
"""

from __future__ import annotations

import hmac
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

from megaflow.errors import FailedPrecondition, MegaflowError, PermissionDenied
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.machine import DEFAULT_WINDOW
from megaflow_server.worker.hosts import Host
from megaflow_server.worker.verbs import apply

logger = logging.getLogger(__name__)

# Seconds that a session which nobody attached to is kept: its client has died, or never got the answer.
ATTACH_TIMEOUT = 60.0


class Stream(Protocol):
    """The worker's end of a client's connection to one session."""

    def requests(self) -> Iterator[pb.Request]:
        """Blocks for each next request; ends when the client does.

        Raises InvalidArgument for what is no request.
        """
        ...

    def send(self, frame: pb.ServerFrame) -> None: ...

    def fail(self, error: MegaflowError) -> None:
        """Ends the stream with an error, after what was sent."""
        ...

    def end(self) -> None:
        """Nothing more will be sent. Idempotent, from any thread."""
        ...


class ShardSession:
    """One shard session; `start` and `attach` are called from other threads."""

    def __init__(
        self,
        shard_id: str,
        token: bytes,
        make_host: Callable[[], Host],
        on_end: Callable[[str], None],
        printed: Callable[[], str],
    ) -> None:
        self.shard_id = shard_id
        self._token = token
        self._make_host = make_host
        self._on_end = on_end
        self._printed = printed
        self._built: Future[pb.EnvironmentDescription] = Future()
        self._streams: queue.Queue[Stream | None] = queue.Queue()
        self._attached: Stream | None = None
        self._ended = False
        self._lock = threading.Lock()
        # A daemon: an environment that hangs must not keep the worker from ending.
        self.thread = threading.Thread(target=self._run, name=f"session-{shard_id}", daemon=True)

    def start(self) -> pb.EnvironmentDescription:
        """Makes the environments; blocks until they are there, or raises what making them raised."""
        self.thread.start()
        return self._built.result()

    def attach(self, request: pb.Attach, stream: Stream) -> None:
        """Hands over the client's stream. Raises PermissionDenied for a token that is not this session's."""
        if not hmac.compare_digest(request.token, self._token):
            raise PermissionDenied(f"the token does not open session {self.shard_id}")
        with self._lock:
            if self._ended:
                raise FailedPrecondition(f"session {self.shard_id} has ended")
            if self._attached is not None:
                raise FailedPrecondition(f"session {self.shard_id} is attached to already")
            self._attached = stream
        self._streams.put(stream)

    def close(self) -> None:
        """Ends the session: at once where it waits for its client, else after the running request."""
        with self._lock:
            self._ended = True
            stream = self._attached
        self._streams.put(None)
        if stream is not None:
            stream.end()

    def _run(self) -> None:
        try:
            host, description = self._build()
        except BaseException as error:
            self._finish()
            self._built.set_exception(error)
            return
        self._built.set_result(description)
        try:
            stream = self._next_stream()
            if stream is None or not self._serve(host, stream):
                self._close_unattended(host)
        finally:
            self._finish()

    def _build(self) -> tuple[Host, pb.EnvironmentDescription]:
        host = self._make_host()
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
        with self._lock:
            self._ended = True
            stream = self._attached
        if stream is not None:
            stream.end()
        self._on_end(self.shard_id)

    def _next_stream(self) -> Stream | None:
        try:
            return self._streams.get(timeout=ATTACH_TIMEOUT)
        except queue.Empty:
            logger.warning("session %s: nobody attached in %g s", self.shard_id, ATTACH_TIMEOUT)
            return None

    def _serve(self, host: Host, stream: Stream) -> bool:
        """Applies requests until the client closes the environments (True) or goes away (False)."""
        stream.send(pb.ServerFrame(attached=pb.Attached(generation=1, window=DEFAULT_WINDOW)))
        applied = 0
        try:
            for request in stream.requests():
                if request.sequence != applied + 1:
                    stream.send(pb.ServerFrame(reply=self._gap(request.sequence, applied)))
                    return False
                reply = _apply_any(host, request)
                if reply.error.kind == "EnvironmentFailed":
                    reply.error.log_tail = self._printed()
                applied = request.sequence
                stream.send(pb.ServerFrame(reply=reply))
                if request.WhichOneof("verb") == "close":
                    return True
        except MegaflowError as error:  # what came is no request
            stream.fail(error)
        return False

    def _gap(self, sequence: int, applied: int) -> pb.Reply:
        error = FailedPrecondition(
            f"session {self.shard_id} applied request {applied}, so {sequence} cannot be next"
        )
        return pb.Reply(sequence=sequence, last=True, error=failures.to_message(error))


def _apply_any(host: Host, request: pb.Request) -> pb.Reply:
    try:
        reply, _ = apply(host, request)
    except BaseException as error:  # sys.exit() in an environment ends neither session nor worker
        return pb.Reply(sequence=request.sequence, last=True, error=failures.to_message(error))
    return reply
