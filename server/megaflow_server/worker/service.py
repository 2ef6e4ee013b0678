"""The worker's sessions, and the gRPC service through which its gateway controls them."""

from __future__ import annotations

import hmac
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    PermissionDenied,
)
from megaflow.protocol import envelopes, failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.launch import DATA_PORT_KEY, SECRET_KEY
from megaflow_server.worker.hosts import error_message
from megaflow_server.worker.lobby import Lobby
from megaflow_server.worker.makers import MakerResolver, catalogue
from megaflow_server.worker.session import ShardSession
from megaflow_server.worker.verbs import make_lent, wanted_by

M = TypeVar("M", bound=Message)

SERVICE = "megaflow.v1.Worker"

# How many ids are remembered of shards that were closed while they were not there.
_UNWANTED = 10_000


class SessionTable:
    """The sessions of this worker, and who wants to hear of their ends.

    `printed` gives the last lines that the worker printed.
    """

    def __init__(self, resolver: MakerResolver, printed: Callable[[], str] = str) -> None:
        self._resolver = resolver
        self.printed = printed
        self._lock = threading.Lock()
        self._sessions: dict[str, ShardSession] = {}
        self._watchers: list[queue.SimpleQueue[str | None]] = []
        # What was closed while it was not there: its opening may be on its way still, and is not wanted.
        self._unwanted: OrderedDict[str, None] = OrderedDict()

    def open(self, request: pb.OpenShardRequest) -> pb.OpenShardResponse:
        """Makes the environments of a shard; what they ask for where that is to be lent first, by a second call."""
        if request.ask_only:
            return pb.OpenShardResponse(sandboxes=wanted_by(request.environment, self._resolver))
        if any(maker.sandboxes for maker in request.environment.makers):
            return self.get(request.shard_id).lend(request.environment)
        session = ShardSession(
            request.shard_id,
            request.token,
            lambda ask: make_lent(request.environment, self._resolver, ask, first=request.first),
            self._ended,
            self.printed,
        )
        with self._lock:
            if request.shard_id in self._sessions:
                raise InvalidArgument(f"shard_id={request.shard_id!r} is open already")
            if request.shard_id in self._unwanted:
                raise FailedPrecondition(
                    f"shard {request.shard_id} was closed before it was opened"
                )
            self._sessions[request.shard_id] = session
        return session.start()

    def get(self, shard_id: str) -> ShardSession:
        with self._lock:
            session = self._sessions.get(shard_id)
        if session is None:
            raise NotFound(
                f"this worker has no session {shard_id!r}: it was closed, or never was here"
            )
        return session

    def close(self, shard_id: str, reason: str = "") -> None:
        """Has a session end, and its client told the reason; watchers hear when it has.

        Also of one that is not there.
        """
        with self._lock:
            session = self._sessions.get(shard_id)
            if session is None:
                self._unwanted[shard_id] = None
                if len(self._unwanted) > _UNWANTED:
                    self._unwanted.popitem(last=False)
        if session is not None:
            session.close(reason)
        else:
            self._ended(shard_id)

    def close_all(self, timeout: float) -> None:
        """Closes every session and waits so many seconds for the environments of all to be closed."""
        with self._lock:
            sessions = list(self._sessions.values())
            watchers, self._watchers = self._watchers, []
        for session in sessions:
            session.close()
        deadline = time.monotonic() + timeout
        for session in sessions:
            session.thread.join(max(0.0, deadline - time.monotonic()))
        for watcher in watchers:
            watcher.put(None)

    def watch(self) -> queue.SimpleQueue[str | None]:
        """A queue of the ids of sessions that end from now on; None: the worker ends."""
        watcher: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._lock:
            self._watchers.append(watcher)
        return watcher

    def unwatch(self, watcher: queue.SimpleQueue[str | None]) -> None:
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def _ended(self, shard_id: str) -> None:
        with self._lock:
            self._sessions.pop(shard_id, None)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.put(shard_id)


def abort(context: grpc.ServicerContext, error: BaseException, log_tail: str = "") -> NoReturn:
    message = error_message(error, log_tail=log_tail)
    context.set_trailing_metadata(failures.to_metadata(message))
    context.abort(failures.status_of(message), message.message[:500])
    raise AssertionError("abort returned")


class WorkerService:
    """Control, for the gateway that knows this worker's secret; nothing of anybody else's is decoded."""

    def __init__(
        self, table: SessionTable, lobby: Lobby, secret: str, data_port: int | None = None
    ) -> None:
        self._table = table
        self._lobby = lobby
        self._secret = secret
        self._data_port = data_port

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ListEnvironments": self._unary(
                pb.ListEnvironmentsRequest,
                lambda _: pb.ListEnvironmentsResponse(environments=catalogue()),
            ),
            "OpenShard": self._unary(
                pb.OpenShardRequest,
                self._table.open,
            ),
            "CloseShard": self._unary(pb.CloseShardRequest, self._close),
            "Watch": grpc.stream_stream_rpc_method_handler(
                self._watch, None, pb.WorkerEvent.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(
        self, request_type: type[M], answer: Callable[[M], Message]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def behaviour(requests: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            try:
                return answer(self._admit(request_type, requests, context))
            except BaseException as error:  # sys.exit() in an environment's constructor included
                abort(context, error, self._table.printed())

        # As a stream of one: gRPC would wait for the message without an end before it asks us.
        return grpc.stream_unary_rpc_method_handler(behaviour, None, _serialised)

    def _admit(
        self, request_type: type[M], requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> M:
        """The request of a caller that knows the secret."""
        given = dict(context.invocation_metadata()).get(SECRET_KEY, "")
        if not hmac.compare_digest(str(given).encode(), self._secret.encode()):
            raise PermissionDenied("only the gateway of this worker may control it")
        data = self._lobby.first(lambda: next(requests, b""))
        return envelopes.parse(request_type, data, what="the request")

    def _close(self, request: pb.CloseShardRequest) -> pb.CloseShardResponse:
        self._table.close(request.shard_id, request.reason)
        return pb.CloseShardResponse()

    def _watch(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[pb.WorkerEvent]:
        try:
            request = self._admit(pb.WatchRequest, requests, context)
        except MegaflowError as error:
            abort(context, error)
        watcher = self._table.watch()
        if not context.add_callback(lambda: watcher.put(None)):
            watcher.put(None)  # the gateway has gone already
        # Tells the gateway that from here on it misses nothing.
        port = () if self._data_port is None else ((DATA_PORT_KEY, str(self._data_port)),)
        context.send_initial_metadata(port)
        try:
            while (event := _next_event(watcher, request.heartbeat_s)) is not None:
                yield event
        finally:
            self._table.unwatch(watcher)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _next_event(
    watcher: queue.SimpleQueue[str | None], heartbeat_s: float
) -> pb.WorkerEvent | None:
    """What happens next, a heartbeat where nothing does; None at the end. 0 s: no heartbeats."""
    try:
        shard_id = watcher.get(timeout=heartbeat_s or None)
    except queue.Empty:
        return pb.WorkerEvent(heartbeat=pb.Heartbeat())
    return None if shard_id is None else pb.WorkerEvent(closed_shard_id=shard_id)
