"""A shard session over one bidirectional gRPC stream, for blocking callers."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc

from megaflow.errors import DeadlineExceeded, FailedPrecondition, MegaflowError
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.channels import Channel
from megaflow.transport.chunks import Joiner, split
from megaflow.transport.machine import ShardMachine, Verb

T = TypeVar("T")


class StreamBroken(Exception):
    """The stream ended without being closed from here; the message says what the transport saw."""


class ReplyTimeout(Exception):
    """No reply came within the seconds that the caller gave; the request is still outstanding."""


def used_in_fork(opener: int) -> FailedPrecondition:
    """The error for a session that is used in a fork of the process that opened it."""
    return FailedPrecondition(
        f"this session was opened in process {opener} and cannot be used in its fork {os.getpid()}: open one "
        "of its own there"
    )


class ShardChannel(Protocol):
    """What every transport gives the SDK: verbs out, replies in."""

    def send(self, verb: Verb) -> int:
        """Sends a verb; its sequence number, to wait for. Raises StreamBroken."""
        ...

    def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        """The next part of the reply. Raises ReplyTimeout after so many seconds, and StreamBroken."""
        ...

    def abandon(self, sequence: int) -> None:
        """Drops a reply that nobody will wait for."""
        ...

    def close(self) -> None:
        """Ends the stream. Idempotent."""
        ...


class GrpcShardChannel:
    """A shard session's stream; see `ShardChannel`.

    A thread reads, because gRPC's blocking iterator knows no timeout; the machine is guarded by one
    condition.
    """

    def __init__(self, address: str, shard_id: str, token: bytes, *, attach_timeout: float) -> None:
        self._pid = os.getpid()
        self._machine = ShardMachine(shard_id, token)
        self._changed = threading.Condition()
        self._broken: Exception | None = None
        self._closed = False
        self._outbox: queue.SimpleQueue[pb.ClientFrame | None] = queue.SimpleQueue()
        self._channel = Channel(address)
        stub = pb_grpc.SessionsStub(self._channel.grpc)
        self._call = stub.Attach(iter(self._outbox.get, None))
        self._outbox.put(self._machine.attach())
        # A daemon, so that a script that forgets to close still ends.
        self._reader = threading.Thread(target=self._read, name=f"megaflow-{shard_id}", daemon=True)
        self._reader.start()
        try:
            self._wait_for(lambda: True if self._machine.attached else None, attach_timeout)
        except ReplyTimeout:
            self.close()
            raise DeadlineExceeded(
                f"attach: the worker at {address} did not answer within {attach_timeout:g} s"
            ) from None
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        joiner = Joiner(pb.ServerFrame)
        try:
            for piece in self._frames():
                frame = joiner.feed(piece)
                if frame is not None:
                    with self._changed:
                        self._machine.receive(frame)
                        self._changed.notify_all()
            broken: Exception = StreamBroken("the worker ended the stream")
        except grpc.RpcError as error:
            broken = self._explain(error)
        except MegaflowError as error:
            broken = error
            self._call.cancel()  # what cannot be understood ends the stream
        except Exception as error:  # whoever waits must hear of it, whatever it is
            broken = StreamBroken(f"{type(error).__name__}: {error}")
            self._call.cancel()
        with self._changed:
            self._broken = broken
            self._changed.notify_all()

    def _frames(self) -> Iterator[pb.ServerFrame]:
        yield from self._call

    def _explain(self, error: grpc.RpcError) -> Exception:
        explained = failures.from_rpc_error(error, self._channel.address)
        # What the worker says is an answer; what gRPC says is how a connection ended, whatever the status.
        return explained if failures.message_of(error) is not None else StreamBroken(str(explained))

    def send(self, verb: Verb) -> int:
        self._check_process()
        with self._changed:
            if self._broken is not None:
                raise self._broken
            sequence, frame = self._machine.request(verb)
            # Under the lock too: requests go out in the order of their numbers.
            for piece in split(frame):
                self._outbox.put(piece)
        return sequence

    def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        self._check_process()
        return self._wait_for(lambda: self._machine.take(sequence), timeout)

    def _wait_for(self, ready: Callable[[], T | None], timeout: float | None) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                result = ready()
                if result is not None:
                    return result
                if self._broken is not None:
                    raise self._broken
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise ReplyTimeout(f"no answer within {timeout} s")
                self._changed.wait(remaining)

    def abandon(self, sequence: int) -> None:
        with self._changed:
            self._machine.abandon(sequence)

    def close(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._outbox.put(None)
        self._call.cancel()
        if threading.current_thread() is not self._reader:  # in which the garbage collector may run
            self._reader.join(timeout=5.0)
        self._channel.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise used_in_fork(self._pid)
