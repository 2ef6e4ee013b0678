"""The control plane's calls, blocking or awaited (see io.py): every failure comes back as one of our errors."""

from __future__ import annotations

import time
from typing import Any

import grpc
from google.protobuf.message import Message

from megaflow.deadlines import env_start_exceeded
from megaflow.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from megaflow.protocol import PROTOCOL_VERSION, failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.hello import hello_request, package_version
from megaflow.transport.chunks import CHUNK_BYTES
from megaflow.transport.credentials import Target
from megaflow.transport.io import Caller, left
from megaflow.transport.stream import ReplyTimeout

# Seconds. Connecting: a server on its way up is waited for, a missing one is reported soon.
CONNECT_TIMEOUT = 3.0
# A server that was restarted is found again: gRPC tries every second; seconds.
_RECONNECT = 2.0
# The server tells itself when building environments takes too long; this is for when it does not tell.
_ENV_START_GRACE = 5.0
# gRPC's clock and ours may differ by so much; seconds.
_CLOCKS = 0.05
# How long a server that is being restarted is waited for where nothing is lost by it, and how often it is tried.
_PATIENCE = 60.0
_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
# Everything else on the control plane answers at once or is in trouble.
CALL_TIMEOUT = 10.0
# Fetching an image; seconds.
_PREPARE_TIMEOUT = 3600.0
# Keeping what is in a sandbox, and making one of it; seconds.
_SNAPSHOT_TIMEOUT = 600.0


class Control:
    """A gateway's control plane; `open` gives one with which Hello has been exchanged."""

    def __init__(self, caller: Caller, address: str, hello: pb.HelloResponse, again: str) -> None:
        self._caller = caller
        self.address = address
        self.hello = hello
        self._again = again

    @classmethod
    async def open(
        cls,
        caller: Caller,
        address: str,
        *,
        embedded: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> Control:
        """Connects. Raises Unavailable where no server answers in time; the caller is closed then."""
        try:
            hello = await _connect(caller, address, connect_timeout)
            _check_version(hello, address)
        except BaseException:
            await caller.close()
            raise
        again = (
            "It was the embedded server of this process: making the environment anew starts another"
            if embedded
            else f"Start it again with `megaflow serve --listen {address}`; its environments have to be made anew"
        )
        return cls(caller, address, hello, again)

    def over(self, caller: Caller) -> Control:
        """The same server by way of another caller."""
        return Control(caller, self.address, self.hello, self._again)

    async def environments(self) -> list[pb.EnvironmentInfo]:
        """The server's catalogue, sorted by id."""
        # The first worker may still be importing what it serves.
        answer = await self._call("ListEnvironments", pb.ListEnvironmentsRequest(), 60.0)
        return sorted(answer.environments, key=lambda info: info.id)

    async def pools(self) -> pb.ListPoolsResponse:
        """How the server's pools are."""
        answer: pb.ListPoolsResponse = await self._call("ListPools", pb.ListPoolsRequest(), 60.0)
        return answer

    async def prepare_pool(self, request: pb.PreparePoolRequest) -> pb.PoolStatus:
        """Announces claims; an image may have to be fetched for them."""
        answer: pb.PoolStatus = await self._call("PreparePool", request, _PREPARE_TIMEOUT)
        return answer

    async def prepare_environment(
        self, request: pb.PrepareEnvironmentRequest
    ) -> pb.ListPoolsResponse:
        """The same for sessions of an environment."""
        answer: pb.ListPoolsResponse = await self._call(
            "PrepareEnvironment", request, _PREPARE_TIMEOUT
        )
        return answer

    async def models(self) -> pb.ListModelsResponse:
        """The models that the server has."""
        answer: pb.ListModelsResponse = await self._call(
            "ListModels", pb.ListModelsRequest(), CALL_TIMEOUT
        )
        return answer

    def generate(self, request: pb.GenerateRequest, timeout: float | None) -> Any:
        """Asks one of them: the call, whose answers come as they are there, and whose errors are for `failed`."""
        return self._caller.stream("Generate", request, timeout=timeout)

    async def keep_snapshot(self, request: pb.KeepSnapshotRequest) -> str:
        """Keeps the files of a session's sandboxes, with its environment's state; gives the snapshot's id."""
        size = len(request.state) + len(request.observation)
        if size > CHUNK_BYTES:
            raise ResourceExhausted(
                f"the environment's state and observation are {size} bytes, and a snapshot takes {CHUNK_BYTES}: "
                "have its get_state() return less"
            )
        answer: pb.KeepSnapshotResponse = await self._call(
            "KeepSnapshot", request, _SNAPSHOT_TIMEOUT
        )
        return answer.snapshot_id

    async def restore_snapshot(
        self, request: pb.RestoreSnapshotRequest, end: float | None
    ) -> pb.RestoreSnapshotResponse:
        """Has a session's sandboxes begin from a snapshot; what its environment is to go on from.

        Raises ReplyTimeout at `end`, a moment of the monotonic clock.
        """
        timeout = _SNAPSHOT_TIMEOUT if end is None else min(_SNAPSHOT_TIMEOUT, left(end) or 0.0)
        try:
            answer: pb.RestoreSnapshotResponse = await self._call(
                "RestoreSnapshot", request, timeout
            )
        except DeadlineExceeded:
            if end is None or time.monotonic() < end - _CLOCKS:
                raise
            raise ReplyTimeout("RestoreSnapshot was not answered in time") from None
        return answer

    async def drop_snapshot(self, snapshot_id: str) -> None:
        request = pb.DropSnapshotRequest(snapshot_id=snapshot_id)
        await self._call("DropSnapshot", request, CALL_TIMEOUT)

    async def sandboxes(self) -> pb.ListSandboxesResponse:
        """The sandboxes that the caller may look into."""
        answer: pb.ListSandboxesResponse = await self._call(
            "ListSandboxes", pb.ListSandboxesRequest(), CALL_TIMEOUT
        )
        return answer

    async def keep_sandboxes(self, request: pb.KeepSandboxesRequest) -> None:
        """Has the sandboxes of a session outlive it."""
        await self._call("KeepSandboxes", request, CALL_TIMEOUT)

    async def drop_sandboxes(self, id_: str) -> None:
        """Lets go of those that do."""
        await self._call("DropSandboxes", pb.DropSandboxesRequest(id=id_), CALL_TIMEOUT)

    async def run_inside(self, request: pb.RunInsideRequest) -> pb.RunInsideResponse:
        """Runs a command in one of them, however long it takes."""
        answer: pb.RunInsideResponse = await self._call("RunInside", request, None)
        return answer

    def terminal(self, inputs: Any) -> Any:
        """A terminal in one of them: the call, whose errors are for `failed`."""
        return self._caller.stream("OpenTerminal", inputs)

    def put_inside(self, inputs: Any) -> Any:
        """Files for one of them: the call, as of `terminal`."""
        return self._caller.stream("PutInside", inputs)

    def listen_inside(self, request: pb.ListenInsideRequest) -> Any:
        """A port in one of them: the call, whose answers name connections."""
        return self._caller.stream("ListenInside", request)

    def take_connection(self, inputs: Any) -> Any:
        """One of these connections: the call."""
        return self._caller.stream("TakeConnection", inputs)

    def failed(self, error: grpc.RpcError) -> Exception:
        """What the error of a call is, as one of ours."""
        return self._failed(error)

    async def open_session(
        self, request: pb.OpenSessionRequest, env_start: float | None, end: float | None = None
    ) -> pb.OpenSessionResponse:
        """Opens a session; tried once more where the connection failed, which its request id makes safe.

        Raises DeadlineExceeded where the environments were not built within `env_start` seconds, and ReplyTimeout
        at `end`, a moment of the monotonic clock.
        """
        answer: pb.OpenSessionResponse = await self._build("OpenSession", request, env_start, end)
        return answer

    async def reopen_shard(
        self, request: pb.ReopenShardRequest, env_start: float | None, end: float | None
    ) -> pb.Shard:
        """Builds a lost shard anew; tried once more like `open_session`.

        Raises ReplyTimeout at `end`, a moment of the monotonic clock.
        """
        answer: pb.Shard = await self._build("ReopenShard", request, env_start, end)
        return answer

    async def describe_shard(self, session_id: str, shard_id: str) -> pb.ShardStatus:
        request = pb.DescribeShardRequest(session_id=session_id, shard_id=shard_id)
        answer: pb.ShardStatus = await self._call("DescribeShard", request, CALL_TIMEOUT)
        return answer

    async def renew_leases(self, request: pb.RenewLeasesRequest) -> pb.RenewLeasesResponse:
        # A call that hangs must leave time for another.
        timeout = min(CALL_TIMEOUT, self.hello.lease_s / 3)
        answer: pb.RenewLeasesResponse = await self._call("RenewLeases", request, timeout)
        return answer

    async def ask(self, method: str, request: Message, *, wait: float = 0.0) -> Any:
        """The answer of a method that may be repeated: asked for again while the server is away, for a minute.

        Args:
            wait: seconds that the server takes before it answers, where that is what it was asked for.
        """
        end, pause = time.monotonic() + _PATIENCE, _PAUSE
        while True:
            try:
                return await self._call(method, request, CALL_TIMEOUT + wait)
            except (Unavailable, ResourceExhausted) as error:
                if time.monotonic() >= end:
                    raise
                await self._caller.sleep(pause if error.retry_after is None else error.retry_after)
                pause = min(_LONGEST_PAUSE, 2 * pause)

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        """The answer of a method, asked for once."""
        return await self._call(method, request, timeout)

    async def reachable(self, timeout: float) -> bool:
        """Whether the server answers within so many seconds; waits for gRPC to connect again.

        Without that, gRPC fails every call at once until it has tried the connection again.
        """
        try:
            await self._caller.call("Hello", hello_request(), timeout=timeout, wait_for_ready=True)
        except grpc.RpcError:
            return False
        return True

    async def _build(
        self, method: str, request: Message, env_start: float | None, end: float | None
    ) -> Any:
        """The answer of a method that builds environments."""
        latest = None if env_start is None else time.monotonic() + env_start + _ENV_START_GRACE
        first = min((moment for moment in (latest, end) if moment is not None), default=None)
        try:
            return await self._retried(method, request, first)
        except DeadlineExceeded:
            if first is None or time.monotonic() < first - _CLOCKS:
                raise  # the server's own answer
            if env_start is None or first == end:
                raise ReplyTimeout(f"{method} was not answered in time") from None
            raise env_start_exceeded(env_start) from None

    async def _retried(self, method: str, request: Message, end: float | None) -> Any:
        """The answer; asked for once more where the connection failed, and not where the server refused."""
        try:
            return await self._caller.call(method, request, timeout=left(end))
        except grpc.RpcError as error:
            failed = self._failed(error)
            if _answered(error):
                raise failed from failed.__cause__
        wait = left(end)
        if not await self.reachable(_RECONNECT if wait is None else min(_RECONNECT, wait)):
            raise failed  # it says why
        return await self._call(method, request, left(end))

    async def _call(self, method: str, request: Message, timeout: float | None) -> Any:
        try:
            return await self._caller.call(method, request, timeout=timeout)
        except grpc.RpcError as error:
            failed = self._failed(error)
            # Not `from None`: an environment's exception has its remote traceback as its cause.
            raise failed from failed.__cause__

    def _failed(self, error: grpc.RpcError) -> Exception:
        if _answered(error):
            return failures.from_rpc_error(error, self.address)
        _, details = failures.status_and_details(error)
        return Unavailable(
            f"the megaflow server at {self.address} does not answer any more: {details}. {self._again}"
        )

    async def close(self) -> None:
        """Gives the connection back. Idempotent."""
        await self._caller.close()


async def _connect(caller: Caller, address: str, timeout: float) -> pb.HelloResponse:
    deadline = time.monotonic() + timeout
    while True:
        remaining = max(0.1, deadline - time.monotonic())
        try:
            hello: pb.HelloResponse = await caller.call("Hello", hello_request(), timeout=remaining)
            return hello
        except grpc.RpcError as error:
            again = failures.status_and_details(error)[0] is grpc.StatusCode.UNAVAILABLE
            if not again or time.monotonic() + 0.2 >= deadline:
                insecure = await caller.explain() if again else None
                raise _unreachable(error, address, timeout, insecure) from None
        await caller.sleep(0.1)


def _unreachable(
    error: grpc.RpcError, address: str, timeout: float, insecure: str | None
) -> Exception:
    status, details = failures.status_and_details(error)
    if insecure is not None:
        return Unavailable(f"no connection to {address}: {insecure}")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = (
            "nothing there answers as a megaflow server, nor refuses; another program may listen at that address, "
            "or a firewall may be in between"
        )
    elif status is grpc.StatusCode.UNIMPLEMENTED:
        details = "it speaks gRPC, but not megaflow's services"
    elif status is not grpc.StatusCode.UNAVAILABLE:
        return failures.from_rpc_error(error, address)
    start = (
        f"Start one with `megaflow serve --listen {address}`, n"
        if Target(address).is_local
        else "N"
    )
    return Unavailable(
        f"no megaflow server answers at {address} (tried for {timeout:g} s): {details}. {start}ame another with "
        "server=… or $MEGAFLOW_SERVER, or leave both unset for an embedded server"
    )


def _check_version(hello: pb.HelloResponse, address: str) -> None:
    theirs = hello.protocol_version
    if theirs != PROTOCOL_VERSION:
        side = "the server" if theirs < PROTOCOL_VERSION else "the client"
        raise FailedPrecondition(
            f"{address} speaks megaflow protocol {theirs} (megaflow {hello.megaflow_version}), "
            f"this client {PROTOCOL_VERSION} (megaflow {package_version('megaflow')}): upgrade {side}"
        )


def _answered(error: grpc.RpcError) -> bool:
    """Whether the server itself refused, or the connection failed."""
    status, _ = failures.status_and_details(error)
    return status is not grpc.StatusCode.UNAVAILABLE or failures.message_of(error) is not None
