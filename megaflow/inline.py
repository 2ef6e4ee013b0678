"""`server="inline"`: what the SDK needs of the code that runs environments in the calling process."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import Message

from megaflow.code import CodeStore
from megaflow.deadlines import Deadlines
from megaflow.errors import FailedPrecondition, InvalidArgument, SessionLost
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.interrupts import as_ever
from megaflow.transport.io import BlockingShard, ShardIO, run
from megaflow.transport.stream import ShardChannel


class Inline(Protocol):
    """What the entry point group `megaflow.inline` gives: environments in this process."""

    @property
    def store(self) -> CodeStore: ...

    def environments(self) -> list[pb.EnvironmentInfo]: ...

    def open_session(self, spec: pb.EnvironmentSpec) -> pb.OpenSessionResponse: ...

    def attach(self, session_id: str, shard: pb.Shard) -> ShardChannel: ...

    def close_session(self, session_id: str) -> None: ...


class InlineConnection:
    """The connection of server="inline"; see `Connection`. Nothing here waits for anything but environments."""

    address: str | None = "inline"

    def __init__(self) -> None:
        found = entry_points(group="megaflow.inline", name="connection")
        if not found:
            raise FailedPrecondition(
                'server="inline" needs the server\'s code, which comes with an installed megaflow: '
                "pip install megaflow (an unpacked source tree registers no entry points)"
            )
        factory = next(iter(found)).load()
        self._inline = cast("Inline", factory())
        self.store: CodeStore | None = self._inline.store

    async def environments(self) -> list[pb.EnvironmentInfo]:
        return self._inline.environments()

    async def ask(self, method: str, request: Message, *, wait: float = 0.0) -> Any:
        raise FailedPrecondition(
            'server="inline" keeps no tasks: submit them to a server that was started with '
            "`megaflow serve --store URL`"
        )

    async def models(self) -> pb.ListModelsResponse:
        raise _no_models()

    def generate(self, request: pb.GenerateRequest, timeout: float | None) -> Any:
        raise _no_models()

    async def pools(self) -> pb.ListPoolsResponse:
        raise _no_pools()

    async def prepare_pool(self, request: pb.PreparePoolRequest) -> pb.PoolStatus:
        raise _no_pools()

    async def prepare_environment(
        self, request: pb.PrepareEnvironmentRequest
    ) -> pb.ListPoolsResponse:
        raise _no_pools()

    async def open_session(
        self, spec: pb.EnvironmentSpec, deadlines: Deadlines
    ) -> pb.OpenSessionResponse:
        for name, value in deadlines.as_kwargs().items():
            raise InvalidArgument(
                f"{name}={value!r}: nothing can end what runs on the calling thread; leave it out with "
                'server="inline"'
            )
        if spec.parallel not in ("", "none"):
            raise InvalidArgument(
                f"parallel={spec.parallel!r}: in the calling process sub-environments step in turn; leave it out "
                'with server="inline"'
            )
        with as_ever():
            return self._inline.open_session(spec)

    async def open_in_place(
        self,
        ended: str,
        spec: pb.EnvironmentSpec,
        deadlines: Deadlines,
        request_id: str,
        end: float | None,
    ) -> pb.OpenSessionResponse:
        raise InvalidArgument(f"session {ended}: what runs in the calling process is never lost")

    async def reopen_shard(
        self,
        session_id: str,
        shard_id: str,
        request_id: str,
        end: float | None,
        *,
        given_up: str = "",
    ) -> pb.Shard:
        raise InvalidArgument(f"shard {shard_id}: what runs in the calling process is never lost")

    async def keep_snapshot(self, request: pb.KeepSnapshotRequest) -> str:
        raise _no_snapshots()

    async def restore_snapshot(
        self, request: pb.RestoreSnapshotRequest, end: float | None
    ) -> pb.RestoreSnapshotResponse:
        raise _no_snapshots()

    async def drop_snapshot(self, snapshot_id: str) -> None:
        raise _no_snapshots()

    async def sandboxes(self) -> pb.ListSandboxesResponse:
        raise _no_sandboxes()

    async def keep_sandboxes(self, request: pb.KeepSandboxesRequest) -> None:
        raise _no_sandboxes()

    async def drop_sandboxes(self, id_: str) -> None:
        raise _no_sandboxes()

    async def run_inside(self, request: pb.RunInsideRequest) -> pb.RunInsideResponse:
        raise _no_sandboxes()

    def terminal(self, inputs: Any) -> Any:
        raise _no_sandboxes()

    def put_inside(self, inputs: Any) -> Any:
        raise _no_sandboxes()

    def listen_inside(self, request: pb.ListenInsideRequest) -> Any:
        raise _no_sandboxes()

    def take_connection(self, inputs: Any) -> Any:
        raise _no_sandboxes()

    def failed(self, error: grpc.RpcError) -> Exception:
        raise _no_sandboxes()

    async def attach(self, session_id: str, shard: pb.Shard, end: float | None) -> ShardIO:
        return BlockingShard(self._inline.attach(session_id, shard))

    async def wait_any(
        self, requests: Sequence[tuple[ShardIO, int]], timeout: float | None
    ) -> None:
        """Every reply is there as soon as its request was sent."""

    async def has_ended(self, session_id: str) -> bool:
        return False

    async def explain_loss(self, session_id: str, shard_id: str, cause: Exception) -> SessionLost:
        return SessionLost(f"the session ended: {cause}")

    def leave(self, session_id: str, *, ended: bool) -> None:
        if not ended:
            with as_ever():
                self._inline.close_session(session_id)

    def lend(self) -> None:
        """There are no credentials."""

    def take_back(self) -> None:
        """There are no credentials."""

    def share(self) -> InlineConnection:
        return self

    def forget(self, session_id: str | None, ending: Coroutine[Any, Any, None] | None) -> None:
        if ending is not None:
            run(ending)

    async def close(self) -> None:
        """Nothing is shared, so there is nothing to give back."""


def _no_snapshots() -> FailedPrecondition:
    return FailedPrecondition(
        'server="inline" keeps no snapshots; use a server, or leave server= out'
    )


def _no_sandboxes() -> FailedPrecondition:
    return FailedPrecondition(
        'server="inline" has no sandboxes to look into; use a server, or leave server= out'
    )


def _no_models() -> FailedPrecondition:
    return FailedPrecondition(
        'server="inline" has no models; name a server that `megaflow serve` was started for'
    )


def _no_pools() -> FailedPrecondition:
    return FailedPrecondition('server="inline" has no pools; use a server, or leave server= out')
