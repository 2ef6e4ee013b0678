"""Where sessions are opened: behind a gateway (gateway_connection.py), or in the calling process (inline.py)."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from megaflow import embedded
from megaflow.code import CodeStore
from megaflow.credentials import NO_CREDENTIALS, Credentials
from megaflow.deadlines import Deadlines
from megaflow.errors import SessionLost
from megaflow.gateway_connection import GatewayConnection
from megaflow.inline import InlineConnection
from megaflow.network import Network
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.io import ShardIO


class Connection(Protocol):
    """What the environments of the SDK need from wherever they run."""

    @property
    def address(self) -> str | None:
        """What to write as server= to come here again; None for the embedded server."""
        ...

    @property
    def store(self) -> CodeStore | None:
        """Where callables are handed over; None where only names are taken."""
        ...

    async def environments(self) -> list[pb.EnvironmentInfo]: ...

    async def ask(self, method: str, request: Message, *, wait: float = 0.0) -> Any:
        """The answer of a method of the service of tasks, which may take so long; see `Control.ask`."""
        ...

    async def models(self) -> pb.ListModelsResponse: ...

    def generate(self, request: pb.GenerateRequest, timeout: float | None) -> Any:
        """See `Control.generate`."""
        ...

    async def pools(self) -> pb.ListPoolsResponse: ...

    async def prepare_pool(self, request: pb.PreparePoolRequest) -> pb.PoolStatus: ...

    async def prepare_environment(
        self, request: pb.PrepareEnvironmentRequest
    ) -> pb.ListPoolsResponse: ...

    async def open_session(
        self, spec: pb.EnvironmentSpec, deadlines: Deadlines
    ) -> pb.OpenSessionResponse: ...

    async def open_in_place(
        self,
        ended: str,
        spec: pb.EnvironmentSpec,
        deadlines: Deadlines,
        request_id: str,
        end: float | None,
    ) -> pb.OpenSessionResponse:
        """A session in place of one that ended. After ReplyTimeout the server goes on building, for this request."""
        ...

    async def reopen_shard(
        self,
        session_id: str,
        shard_id: str,
        request_id: str,
        end: float | None,
        *,
        given_up: str = "",
    ) -> pb.Shard:
        """A shard in place of one that was lost, or (for this reason) given up."""
        ...

    async def keep_snapshot(self, request: pb.KeepSnapshotRequest) -> str: ...

    async def restore_snapshot(
        self, request: pb.RestoreSnapshotRequest, end: float | None
    ) -> pb.RestoreSnapshotResponse: ...

    async def drop_snapshot(self, snapshot_id: str) -> None: ...

    async def sandboxes(self) -> pb.ListSandboxesResponse: ...

    async def keep_sandboxes(self, request: pb.KeepSandboxesRequest) -> None: ...

    async def drop_sandboxes(self, id_: str) -> None: ...

    async def run_inside(self, request: pb.RunInsideRequest) -> pb.RunInsideResponse: ...

    def terminal(self, inputs: Any) -> Any:
        """See `Control.terminal`."""
        ...

    def put_inside(self, inputs: Any) -> Any:
        """See `Control.put_inside`."""
        ...

    def listen_inside(self, request: pb.ListenInsideRequest) -> Any:
        """See `Control.listen_inside`."""
        ...

    def take_connection(self, inputs: Any) -> Any:
        """See `Control.take_connection`."""
        ...

    def failed(self, error: grpc.RpcError) -> Exception:
        """See `Control.failed`."""
        ...

    async def attach(self, session_id: str, shard: pb.Shard, end: float | None) -> ShardIO: ...

    async def wait_any(
        self, requests: Sequence[tuple[ShardIO, int]], timeout: float | None
    ) -> None:
        """Waits until one of these streams' `poll` has something to say to the request beside it.

        Raises ReplyTimeout after so many seconds.
        """
        ...

    async def has_ended(self, session_id: str) -> bool:
        """Whether a whole session is no more, with all its shards."""
        ...

    async def explain_loss(self, session_id: str, shard_id: str, cause: Exception) -> SessionLost:
        """The error for a shard whose stream broke, with what is known of the reason."""
        ...

    def share(self) -> Connection:
        """This connection for one more user, each of whom closes it."""
        ...

    def lend(self) -> None:
        """Has the credentials of this connection serve whoever names the same server and gives none."""
        ...

    def take_back(self) -> None:
        """Ends `lend`."""
        ...

    def leave(self, session_id: str, *, ended: bool) -> None:
        """Takes down that nobody uses a session any more; where it has not `ended`, the server ends it soon."""
        ...

    def forget(self, session_id: str | None, ending: Coroutine[Any, Any, None] | None) -> None:
        """Gives back a use of this connection, with a session's where it had one, from the garbage collector.

        Args:
            ending: ends the session's streams; run to its end where that is possible.
        """
        ...

    async def close(self) -> None: ...


async def connect(
    network: Network, server: str | None, credentials: Credentials = NO_CREDENTIALS
) -> Connection:
    """The connection for `server=`: an address, "inline", or None for `$MEGAFLOW_SERVER` or an embedded one."""
    if server is None:
        server = embedded.configured_server()
    if server == "inline":
        credentials.refuse('server="inline"')
        return InlineConnection()
    return await GatewayConnection.open(network, server, credentials)
