"""`server="inline"`: environments in the calling process and on the calling thread, for a debugger.

The same hosts and the same codecs as in a worker, so that what works here works there; a breakpoint inside
an environment's `step` stops in the caller.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.interrupts import as_ever
from megaflow.transport.machine import ShardMachine, Verb
from megaflow.transport.stream import used_in_fork
from megaflow_server.worker.hosts import Host
from megaflow_server.worker.makers import MakerResolver, catalogue
from megaflow_server.worker.verbs import apply, make_host


class _Memory:
    """A code store within one process: things keep their identity."""

    def __init__(self) -> None:
        self._things: dict[str, object] = {}

    def put(self, thing: object, *, path: str) -> str:
        name = f"{len(self._things)}:{path}"
        self._things[name] = thing
        return name

    def load(self, name: str) -> Any:
        return self._things[name]


class _InlineChannel:
    """A shard session without a transport; see `megaflow.transport.stream.ShardChannel`."""

    def __init__(self, shard: pb.Shard, host: Host) -> None:
        self._machine = ShardMachine(shard.shard_id, shard.token)
        self._host: Host | None = host
        self._errors: dict[int, Exception] = {}
        self._pid = os.getpid()
        self._machine.connect()
        self._machine.outgoing()
        self._machine.receive(pb.ServerFrame(attached=pb.Attached(generation=1)))

    def send(self, verb: Verb) -> int:
        if os.getpid() != self._pid:
            raise used_in_fork(self._pid)
        if self._host is None:
            raise FailedPrecondition("the session is closed")
        sequence = self._machine.request(verb)
        (frame,) = self._machine.outgoing()
        try:
            with as_ever():
                error = apply(self._host, frame.request, self._receive)
        except BaseException:  # a debugger's or a user's way out: nothing is outstanding afterwards
            self._machine.abandon(sequence)
            self._receive(pb.Reply(sequence=sequence, last=True))
            raise
        if isinstance(verb, pb.Close):
            self._host = None
        if error is not None:
            self._errors[sequence] = error
        return sequence

    def _receive(self, reply: pb.Reply) -> None:
        reply.part = self._machine.parts + 1
        self._machine.receive(pb.ServerFrame(reply=reply))

    def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        reply = self.poll(sequence)
        if reply is None:
            raise NotFound(f"request {sequence} has no reply")
        return reply

    def poll(self, sequence: int) -> pb.Reply | None:
        reply = self._machine.take(sequence)
        if reply is not None and reply.last:
            error = self._errors.pop(sequence, None)
            if error is not None:
                raise _as_seen_remotely(reply.error, error)
        return reply

    def slot(self) -> None:
        return None

    def close(self) -> None:
        if self._host is not None and os.getpid() == self._pid:
            host, self._host = self._host, None
            host.close()


def _as_seen_remotely(message: pb.Error, error: Exception) -> Exception:
    """What a remote caller would see, with the real exception behind it for a debugger."""
    seen = failures.from_message(message)
    (seen.__cause__ or seen).__cause__ = error
    return seen


class InlineConnection:
    """See `megaflow.inline.Inline`; reached through the entry point group `megaflow.inline`."""

    def __init__(self) -> None:
        self.store = _Memory()
        self._resolver = MakerResolver(pb.CODE_POLICY_EMBEDDED, self.store.load)
        self._hosts: dict[str, Host] = {}

    def environments(self) -> list[pb.EnvironmentInfo]:
        return sorted(catalogue(), key=lambda info: info.id)

    def open_session(self, spec: pb.EnvironmentSpec) -> pb.OpenSessionResponse:
        try:
            host, description = self._make(spec)
        except Exception as error:
            failed = _as_seen_remotely(failures.to_message(error), error)
            raise failed from failed.__cause__
        shard_id = secrets.token_hex(8)
        self._hosts[shard_id] = host
        shard = pb.Shard(shard_id=shard_id, count=max(spec.num_envs, 1), environment=description)
        return pb.OpenSessionResponse(session_id=shard_id, shards=[shard])

    def _make(self, spec: pb.EnvironmentSpec) -> tuple[Host, pb.EnvironmentDescription]:
        self._resolver.use_paths(spec.import_paths)
        resolver = self._resolver.opening()
        if any(resolver.wanted(maker) for maker in spec.makers):
            raise FailedPrecondition(
                "server='inline': this environment asks for a sandbox, which a server lends; use server=None, or "
                "pass it a sandbox of your own"
            )
        host = make_host(spec, resolver)
        try:
            return host, host.describe()
        except BaseException:
            host.close()
            raise

    def attach(self, session_id: str, shard: pb.Shard) -> _InlineChannel:
        return _InlineChannel(shard, self._hosts.pop(shard.shard_id))

    def close_session(self, session_id: str) -> None:
        host = self._hosts.pop(session_id, None)
        if host is not None:
            host.close()
