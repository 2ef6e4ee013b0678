"""The gateway's gRPC service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
)
from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.protocol.hello import FEATURES, REQUEST_KEY, TENANT_KEY, package_version
from megaflow_server.gateway.answers import LONGEST_ID, Answers
from megaflow_server.gateway.auth import RUN, Principal, principal
from megaflow_server.gateway.calls import Context, answer
from megaflow_server.gateway.forwarding import Forwarding
from megaflow_server.gateway.inside import Inside
from megaflow_server.gateway.pooling import Pooling
from megaflow_server.gateway.sessions import Sessions
from megaflow_server.gateway.snapshots import Snapshots
from megaflow_server.gateway.supervisor import Supervisor

_OPEN_SESSION = "/megaflow.v1.Gateway/OpenSession"

# What one session may ask for: far beyond any use, and short of what would exhaust a worker's memory.
MAX_NUM_ENVS = 1_000_000
# Far more sessions than a server has.
_MOST_RENEWED = 100_000
# What is kept of a client's own words of why it gave a shard up; characters.
_LONGEST_REASON = 500
# Until a worker says that it lives; seconds.
_LOOK_TIMEOUT = 1.0
# Until a worker says what it has registered; seconds.
_LIST_TIMEOUT = 50.0


class GatewayService(pb_grpc.GatewayServicer):
    """Control plane; see megaflow.proto for what each call does.

    `caller` gives the name of the principal of the running call, `runs` whether it executes everybody's tasks.
    """

    def __init__(
        self,
        sessions: Sessions,
        supervisor: Supervisor,
        pooling: Pooling,
        snapshots: Snapshots,
        inside: Inside,
        forwarding: Forwarding,
        *,
        server_id: str,
        code_policy: pb.CodePolicy,
        caller: Callable[[], str],
        runs: Callable[[], bool],
    ) -> None:
        self._sessions = sessions
        self._supervisor = supervisor
        self._pooling = pooling
        self._snapshots = snapshots
        self._inside = inside
        self._forwarding = forwarding
        self._server_id = server_id
        self._code_policy = code_policy
        self._caller = caller
        self._runs = runs
        self._answers = Answers(self._undo)
        self._undoing: set[asyncio.Future[None]] = set()

    async def check(self, method: str, caller: Principal, context: Context) -> None:
        """Raises what is certain to be refused before its request is read: openings, once there are enough.

        That is half of what a refusal costs. Where this principal may be asking again for an answer, and does
        not show for which, the request is read first.
        """
        if method != _OPEN_SESSION:
            return
        owner, answers = caller.name, self._answers
        ids, tenants = _shown(context, REQUEST_KEY), _shown(context, TENANT_KEY)
        if not (answers.has(owner, ids[0]) if len(ids) == 1 else answers.any_of(owner)):
            others = tenants and RUN in caller.scopes
            await self._check_limits(unquote(tenants[0])[:LONGEST_ID] if others else owner)

    async def _check_limits(self, owner: str) -> None:
        """Raises what an opening is refused with at once; a little later for those who come too often."""
        try:
            self._sessions.check(owner)
        except ResourceExhausted:
            await asyncio.sleep(self._sessions.limits.held(owner))
            raise

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloResponse:
        # No judgement here: the client compares, and says which side to upgrade.
        return pb.HelloResponse(
            protocol_version=PROTOCOL_VERSION,
            features=FEATURES,
            megaflow_version=package_version("megaflow"),
            gymnasium_version=package_version("gymnasium"),
            server_id=self._server_id,
            workers=self._supervisor.workers_each,
            code_policy=self._code_policy,
            lease_s=self._sessions.lease,
        )

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        return await answer(context, self.catalogue())

    async def catalogue(self) -> pb.ListEnvironmentsResponse:
        """What the caller may make, as one of its workers knows it."""
        worker = self._supervisor.any_for(self._caller())
        return await worker.call(
            lambda stub: stub.ListEnvironments(
                pb.ListEnvironmentsRequest(), metadata=worker.metadata, timeout=_LIST_TIMEOUT
            ),
            deadline=f"no catalogue within {_LIST_TIMEOUT:g} s",
        )

    async def OpenSession(
        self, request: pb.OpenSessionRequest, context: Context
    ) -> pb.OpenSessionResponse:
        async def opened() -> pb.OpenSessionResponse:
            _check(request)
            owner = self._caller()
            if request.tenant and request.tenant != owner and not self._runs():
                raise PermissionDenied(
                    f"tenant={request.tenant!r}: sessions of others' tasks take a token with the scope run"
                )
            if request.alone and not self._runs():
                raise PermissionDenied(
                    "alone: a worker beside those that sessions share takes a token with the scope run"
                )
            if not self._answers.has(owner, request.request_id):
                await self._check_limits(request.tenant or owner)
            answer = await self._answers.once(
                owner,
                request.request_id,
                lambda: self._sessions.open(request, owner),
                patience=self._sessions.lease if request.in_place_of else 0.0,
            )
            # It may have been built a while before its client came back for it.
            self._sessions.renew([answer.session_id], (), owner)
            return answer

        return await answer(context, opened())

    async def ReopenShard(self, request: pb.ReopenShardRequest, context: Context) -> pb.Shard:
        owner = self._caller()
        reopened = self._answers.once(
            owner,
            request.request_id,
            lambda: self._sessions.reopen(
                request.session_id,
                request.shard_id,
                owner,
                given_up=request.given_up[:_LONGEST_REASON],
            ),
        )
        return await answer(context, reopened)

    async def DescribeShard(
        self, request: pb.DescribeShardRequest, context: Context
    ) -> pb.ShardStatus:
        owner = self._caller()

        def describe() -> pb.ShardStatus:
            return self._sessions.describe(request.session_id, request.shard_id, owner)

        async def described() -> pb.ShardStatus:
            status = describe()
            if status.alive:
                worker = self._sessions.shard(request.shard_id, owner).worker
                if await worker.answers(_LOOK_TIMEOUT):
                    return describe()
            # A client sees its stream break a moment before the backend reports the death.
            for _ in range(100):
                status = describe()
                if not status.alive:
                    break
                await asyncio.sleep(0.01)
            return status

        return await answer(context, described())

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: Context
    ) -> pb.RenewLeasesResponse:
        async def renewed() -> pb.RenewLeasesResponse:
            named = len(request.session_ids) + len(request.released_ids)
            if named > _MOST_RENEWED:
                raise InvalidArgument(
                    f"renew_leases names {named} sessions, over {_MOST_RENEWED}: renew them in several calls"
                )
            lost = self._sessions.renew(request.session_ids, request.released_ids, self._caller())
            return pb.RenewLeasesResponse(lost=lost)

        return await answer(context, renewed())

    async def CloseSession(
        self, request: pb.CloseSessionRequest, context: Context
    ) -> pb.CloseSessionResponse:
        peak = await answer(context, self._sessions.close(request.session_id, self._caller()))
        return pb.CloseSessionResponse(peak=peak)

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        return self._pooling.list()

    async def PreparePool(self, request: pb.PreparePoolRequest, context: Context) -> pb.PoolStatus:
        return await answer(context, self._pooling.prepare(request, self._caller()))

    async def PrepareEnvironment(
        self, request: pb.PrepareEnvironmentRequest, context: Context
    ) -> pb.ListPoolsResponse:
        prepared = self._pooling.prepare_environment(request, self._caller())
        return await answer(context, prepared)

    async def KeepSnapshot(
        self, request: pb.KeepSnapshotRequest, context: Context
    ) -> pb.KeepSnapshotResponse:
        snapshot_id = await answer(context, self._snapshots.keep(request, self._caller()))
        return pb.KeepSnapshotResponse(snapshot_id=snapshot_id)

    async def RestoreSnapshot(
        self, request: pb.RestoreSnapshotRequest, context: Context
    ) -> pb.RestoreSnapshotResponse:
        return await answer(context, self._snapshots.restore(request, self._caller()))

    async def DropSnapshot(
        self, request: pb.DropSnapshotRequest, context: Context
    ) -> pb.DropSnapshotResponse:
        owner = self._caller()

        async def dropped() -> pb.DropSnapshotResponse:
            self._snapshots.drop(request.snapshot_id, owner)
            return pb.DropSnapshotResponse()

        return await answer(context, dropped())

    async def ListSandboxes(
        self, request: pb.ListSandboxesRequest, context: Context
    ) -> pb.ListSandboxesResponse:
        return self._inside.list(principal())

    async def KeepSandboxes(
        self, request: pb.KeepSandboxesRequest, context: Context
    ) -> pb.KeepSandboxesResponse:
        owner = self._caller()

        async def kept() -> pb.KeepSandboxesResponse:
            self._sessions.keep(request, owner)
            return pb.KeepSandboxesResponse()

        return await answer(context, kept())

    async def DropSandboxes(
        self, request: pb.DropSandboxesRequest, context: Context
    ) -> pb.DropSandboxesResponse:
        async def dropped() -> pb.DropSandboxesResponse:
            self._inside.drop(request.id, principal())
            return pb.DropSandboxesResponse()

        return await answer(context, dropped())

    async def RunInside(
        self, request: pb.RunInsideRequest, context: Context
    ) -> pb.RunInsideResponse:
        return await answer(context, self._inside.run(request, principal()))

    async def OpenTerminal(self, inputs: AsyncIterator[pb.TerminalInput], context: Context) -> None:
        await answer(context, self._inside.terminal(inputs, context.write, principal()))

    async def PutInside(
        self, inputs: AsyncIterator[pb.PutInsideRequest], context: Context
    ) -> pb.PutInsideResponse:
        await answer(context, self._inside.put(inputs, principal()))
        return pb.PutInsideResponse()

    async def ListenInside(self, request: pb.ListenInsideRequest, context: Context) -> None:
        await answer(context, self._forwarding.listen(request, context.write, principal()))

    async def TakeConnection(
        self, inputs: AsyncIterator[pb.ConnectionInput], context: Context
    ) -> None:
        await answer(context, self._forwarding.connect(inputs, context.write, principal()))

    def _undo(self, owner: str, made: Any) -> None:
        if isinstance(made, pb.OpenSessionResponse):
            closing: asyncio.Future[Any] = asyncio.ensure_future(
                self._sessions.close(made.session_id, owner)
            )
            self._undoing.add(closing)  # the loop keeps only a weak reference
            closing.add_done_callback(self._undoing.discard)


def _shown(context: Context, wanted: str) -> list[str]:
    """The metadata of a call by this key."""
    return [str(value) for key, value in context.invocation_metadata() or () if key == wanted]


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
    if any(maker.sandboxes for maker in request.environment.makers):
        raise InvalidArgument("environment.makers: sandboxes are lent by the server alone")
    for name in ("client_id", "tenant", "task"):
        if (length := len(getattr(request, name))) > LONGEST_ID:
            raise InvalidArgument(f"{name}: {length} characters, over {LONGEST_ID}")
    makers = len(request.environment.makers)
    if makers > 1 and makers != request.environment.num_envs:
        raise InvalidArgument(
            f"environment.makers has {makers} entries for num_envs={request.environment.num_envs}: give one "
            "for all, or one for each"
        )
