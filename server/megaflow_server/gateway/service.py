"""The gateway's gRPC service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError, SessionLost
from megaflow.protocol import PROTOCOL_VERSION, failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.control import FEATURES, package_version
from megaflow_server.gateway.sessions import RemoteRefusal, Sessions
from megaflow_server.gateway.supervisor import Supervisor

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

# What one session may ask for: far beyond any use, and short of what would exhaust a worker's memory.
MAX_NUM_ENVS = 1_000_000
# Answers that are kept for a repeated request.
_KEPT_ANSWERS = 10_000


class GatewayService(pb_grpc.GatewayServicer):
    """Control plane; see megaflow.proto for what each call does."""

    def __init__(
        self, sessions: Sessions, supervisor: Supervisor, *, server_id: str, code_policy: pb.CodePolicy
    ) -> None:
        self._sessions = sessions
        self._supervisor = supervisor
        self._server_id = server_id
        self._code_policy = code_policy
        self._answers: dict[str, asyncio.Task[Any]] = {}

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloResponse:  # noqa: N802
        # No judgement here: the client compares, and says which side to upgrade.
        return pb.HelloResponse(
            protocol_version=PROTOCOL_VERSION,
            features=FEATURES,
            megaflow_version=package_version("megaflow"),
            gymnasium_version=package_version("gymnasium"),
            server_id=self._server_id,
            workers=self._supervisor.max_workers,
            code_policy=self._code_policy,
        )

    async def ListEnvironments(  # noqa: N802
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        return await _answer(context, self._list(request))

    async def _list(self, request: pb.ListEnvironmentsRequest) -> pb.ListEnvironmentsResponse:
        worker = self._supervisor.ensure(1)[0]
        await asyncio.shield(worker.ready)
        try:
            return await worker.stub.ListEnvironments(request, metadata=worker.metadata, timeout=50.0)
        except grpc.aio.AioRpcError as error:
            raise worker.loss or SessionLost(f"{worker.name}: {error.details()}") from None

    async def OpenSession(  # noqa: N802
        self, request: pb.OpenSessionRequest, context: Context
    ) -> pb.OpenSessionResponse:
        async def opened() -> pb.OpenSessionResponse:
            _check(request)
            return await self._once(
                request.request_id, lambda: self._sessions.open(request.environment)
            )

        return await _answer(context, opened())

    async def ReopenShard(  # noqa: N802
        self, request: pb.ReopenShardRequest, context: Context
    ) -> pb.Shard:
        reopened = self._once(
            request.request_id,
            lambda: self._sessions.reopen(request.session_id, request.shard_id),
        )
        return await _answer(context, reopened)

    async def DescribeShard(  # noqa: N802
        self, request: pb.DescribeShardRequest, context: Context
    ) -> pb.ShardStatus:
        async def described() -> pb.ShardStatus:
            status = self._sessions.describe(request.session_id, request.shard_id)
            # A client sees its stream break a moment before the backend reports the death.
            for _ in range(100):
                if not status.alive:
                    break
                await asyncio.sleep(0.01)
                status = self._sessions.describe(request.session_id, request.shard_id)
            return status

        return await _answer(context, described())

    async def CloseSession(  # noqa: N802
        self, request: pb.CloseSessionRequest, context: Context
    ) -> pb.CloseSessionResponse:
        await _answer(context, self._sessions.close(request.session_id))
        return pb.CloseSessionResponse()

    async def _once(self, request_id: str, make: Callable[[], Awaitable[T]]) -> T:
        """The answer to this request, made once however often it is asked for.

        A client that goes away while its answer is made leaves nothing behind: what was made for it is
        undone.
        """
        task: asyncio.Task[T] | None = self._answers.get(request_id) if request_id else None
        if task is None:
            task = asyncio.ensure_future(make())
            if request_id:
                self._answers[request_id] = task
                while len(self._answers) > _KEPT_ANSWERS:
                    del self._answers[next(iter(self._answers))]
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._answers.pop(request_id, None)
            task.cancel()
            task.add_done_callback(self._undo)
            raise

    def _undo(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            answer = task.result()
            if isinstance(answer, pb.OpenSessionResponse):
                closing = asyncio.ensure_future(self._sessions.close(answer.session_id))
                self._undoing = closing  # the loop keeps only a weak reference


def _check(request: pb.OpenSessionRequest) -> None:
    kind = request.WhichOneof("spec")
    if kind in ("agent", "model"):
        raise FailedPrecondition(
            f"this server hosts environments, and no {kind} sessions: its megaflow is too old for them"
        )
    if kind is None:
        raise InvalidArgument("open_session.spec is empty: say what to open")
    if request.environment.num_envs > MAX_NUM_ENVS:
        raise InvalidArgument(
            f"num_envs={request.environment.num_envs}: a session has at most {MAX_NUM_ENVS}"
        )


async def _answer(context: Context, answer: Awaitable[T]) -> T:
    """The answer, or the call ended with the error that kept it from being made."""
    try:
        return await answer
    except RemoteRefusal as refusal:
        await _abort(context, refusal.message)
    except MegaflowError as error:
        await _abort(context, failures.to_message(error))


async def _abort(context: Context, message: pb.Error) -> NoReturn:
    await context.abort(
        failures.status_of(message),
        message.message[:500],
        trailing_metadata=failures.to_metadata(message),
    )
    raise AssertionError("abort returned")
