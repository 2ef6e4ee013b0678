"""A connection to a gateway: sessions that are opened there, and the ways to their workers."""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from megaflow import embedded
from megaflow.code import CodeStore
from megaflow.credentials import Credentials
from megaflow.deadlines import Deadlines
from megaflow.errors import (
    MegaflowError,
    NotFound,
    SessionLost,
    Unauthenticated,
    Unavailable,
)
from megaflow.network import Keeper, Network
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.address import normalise
from megaflow.transport.control import Control
from megaflow.transport.credentials import Target, Tls, lend, resolve, take_back
from megaflow.transport.io import ShardIO, left
from megaflow.transport.local import on_this_host, sockets_wanted
from megaflow.transport.resume import StreamBroken
from megaflow.transport.slots import bytes_for

# Seconds until a worker that was just given a shard answers on its data plane.
ATTACH_TIMEOUT = 30.0
# Seconds until a worker that does not answer at its own address is reached through the gateway.
_DIRECT_TIMEOUT = 2.0
# Seconds in which a gateway that does not answer is looked for again, before anything is made of it.
_RECONNECT = 2.0


@dataclass(frozen=True)
class OnBehalf:
    """What sessions are opened for: a runner says so.

    Attributes:
        tenant: whose task it is; empty: the caller's own.
        task: its id.
        mode: how sandboxes are used: "ephemeral", "persistent", or (empty) as their templates say.
        alone: whether each gets a worker of its own.
    """

    tenant: str = ""
    task: str = ""
    mode: str = ""
    alone: bool = False


_OWN = OnBehalf()
on_behalf: ContextVar[OnBehalf] = ContextVar("on_behalf", default=_OWN)


class GatewayConnection:
    """A connection to a gateway, embedded or not; see `Connection`. `open` gives one."""

    def __init__(
        self,
        network: Network,
        control: Control,
        target: Target,
        server: embedded.EmbeddedServer | None,
    ) -> None:
        self._network = network
        self._control = control
        self._target = target
        self._keeper: Keeper = network.keeper(target, control)
        self._env_start: dict[str, float | None] = {}
        self._relayed = False
        # One entry for each. A list, because its methods are atomic: the garbage collector gives uses back, too.
        self._users = [None]
        self.address: str | None = None if server is not None else target.address
        self.store: CodeStore | None = None if server is None else server.store

    @classmethod
    async def open(
        cls,
        network: Network,
        server: str | None,
        credentials: Credentials,
    ) -> GatewayConnection:
        """Connects. Raises Unavailable where nothing answers."""
        if server is None:
            credentials.refuse("an embedded server")
            handle = await network.embedded_server()
            target = Target(handle.address)
        else:
            handle = None
            target = resolve(normalise(server), credentials.token, credentials.tls)
        control = await Control.open(
            network.caller(target), target.address, embedded=handle is not None
        )
        return cls(network, control, target, handle)

    def share(self) -> GatewayConnection:
        """This connection for one more user, each of whom closes it."""
        self._users.append(None)
        return self

    def lend(self) -> None:
        if self.address is not None:
            lend(self._target)

    def take_back(self) -> None:
        if self.address is not None:
            take_back(self._target)

    @property
    def hello(self) -> pb.HelloResponse:
        """What the gateway said of itself."""
        return self._control.hello

    async def environments(self) -> list[pb.EnvironmentInfo]:
        return await self._control.environments()

    async def ask(self, method: str, request: Message, *, wait: float = 0.0) -> Any:
        return await self._control.ask(method, request, wait=wait)

    async def pools(self) -> pb.ListPoolsResponse:
        return await self._control.pools()

    async def models(self) -> pb.ListModelsResponse:
        return await self._control.models()

    def generate(self, request: pb.GenerateRequest, timeout: float | None) -> Any:
        return self._control.generate(request, timeout)

    async def prepare_pool(self, request: pb.PreparePoolRequest) -> pb.PoolStatus:
        return await self._control.prepare_pool(request)

    async def prepare_environment(
        self, request: pb.PrepareEnvironmentRequest
    ) -> pb.ListPoolsResponse:
        return await self._control.prepare_environment(request)

    async def open_session(
        self, spec: pb.EnvironmentSpec, deadlines: Deadlines
    ) -> pb.OpenSessionResponse:
        return await self._open(
            pb.OpenSessionRequest(request_id=secrets.token_hex(16)), spec, deadlines, None
        )

    async def open_in_place(
        self,
        ended: str,
        spec: pb.EnvironmentSpec,
        deadlines: Deadlines,
        request_id: str,
        end: float | None,
    ) -> pb.OpenSessionResponse:
        request = pb.OpenSessionRequest(request_id=request_id, in_place_of=ended)
        return await self._open(request, spec, deadlines, end)

    async def _open(
        self,
        request: pb.OpenSessionRequest,
        spec: pb.EnvironmentSpec,
        deadlines: Deadlines,
        end: float | None,
    ) -> pb.OpenSessionResponse:
        request.environment.CopyFrom(spec)
        request.client_id = embedded.client_id()
        behalf = on_behalf.get()
        request.tenant, request.task, request.mode = behalf.tenant, behalf.task, behalf.mode
        request.alone = behalf.alone
        request.env_start_timeout_s = (
            math.inf if deadlines.env_start is None else deadlines.env_start
        )
        begun = time.monotonic()
        opened = await self._control.open_session(request, deadlines.env_start, end)
        self._env_start[opened.session_id] = deadlines.env_start
        self._keeper.add(opened.session_id, begun)
        return opened

    async def reopen_shard(
        self,
        session_id: str,
        shard_id: str,
        request_id: str,
        end: float | None,
        *,
        given_up: str = "",
    ) -> pb.Shard:
        request = pb.ReopenShardRequest(
            request_id=request_id, session_id=session_id, shard_id=shard_id, given_up=given_up
        )
        return await self._control.reopen_shard(request, self._env_start.get(session_id), end)

    async def keep_snapshot(self, request: pb.KeepSnapshotRequest) -> str:
        return await self._control.keep_snapshot(request)

    async def restore_snapshot(
        self, request: pb.RestoreSnapshotRequest, end: float | None
    ) -> pb.RestoreSnapshotResponse:
        return await self._control.restore_snapshot(request, end)

    async def drop_snapshot(self, snapshot_id: str) -> None:
        await self._control.drop_snapshot(snapshot_id)

    async def sandboxes(self) -> pb.ListSandboxesResponse:
        return await self._control.sandboxes()

    async def keep_sandboxes(self, request: pb.KeepSandboxesRequest) -> None:
        await self._control.keep_sandboxes(request)

    async def drop_sandboxes(self, id_: str) -> None:
        await self._control.drop_sandboxes(id_)

    async def run_inside(self, request: pb.RunInsideRequest) -> pb.RunInsideResponse:
        return await self._control.run_inside(request)

    def terminal(self, inputs: Any) -> Any:
        return self._control.terminal(inputs)

    def put_inside(self, inputs: Any) -> Any:
        return self._control.put_inside(inputs)

    def listen_inside(self, request: pb.ListenInsideRequest) -> Any:
        return self._control.listen_inside(request)

    def take_connection(self, inputs: Any) -> Any:
        return self._control.take_connection(inputs)

    def failed(self, error: grpc.RpcError) -> Exception:
        return self._control.failed(error)

    async def attach(self, session_id: str, shard: pb.Shard, end: float | None) -> ShardIO:
        endpoint = shard.endpoint
        if on_this_host(endpoint):
            return await self._attach_here(session_id, shard, end)
        if endpoint.address and not self._relayed:
            checked = Tls(endpoint.authority or None, endpoint.server_name or None)
            direct = Target(endpoint.address, checked if endpoint.authority else None)
            if await self._network.answers(direct, _DIRECT_TIMEOUT):
                return await self._attach(session_id, shard, direct, end)
        relay = (*self._target.metadata, ("megaflow-shard", shard.shard_id))
        channel = await self._attach(session_id, shard, self._target, end, relay)
        self._relayed = True
        return channel

    async def _attach_here(self, session_id: str, shard: pb.Shard, end: float | None) -> ShardIO:
        """The stream to a worker on this host."""
        endpoint = shard.endpoint
        if not endpoint.stream_path or not sockets_wanted():
            return await self._attach(session_id, shard, Target(f"unix:{endpoint.unix_path}"), end)
        return await self._network.attach_socket(
            endpoint.stream_path,
            shard.shard_id,
            shard.token,
            timeout=_attach_timeout(end),
            verdict=lambda broken: self._verdict(session_id, shard.shard_id, broken),
            slot_bytes=bytes_for(shard),
        )

    async def _attach(
        self,
        session_id: str,
        shard: pb.Shard,
        target: Target,
        end: float | None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> ShardIO:
        return await self._network.attach(
            target,
            shard.shard_id,
            shard.token,
            timeout=_attach_timeout(end),
            metadata=metadata,
            verdict=lambda broken: self._verdict(session_id, shard.shard_id, broken),
        )

    async def wait_any(
        self, requests: Sequence[tuple[ShardIO, int]], timeout: float | None
    ) -> None:
        await self._network.wait_any(requests, timeout)

    async def _verdict(
        self, session_id: str, shard_id: str, cause: Exception
    ) -> SessionLost | None:
        """What ended a shard; None where it is there, or may be."""
        known = self._keeper.loss(session_id)
        if known is not None:
            return known
        try:
            status = await self._described(session_id, shard_id)
        except NotFound as error:
            return SessionLost(f"the server has ended this session: {error.message}")
        except Unauthenticated as error:
            return SessionLost(f"the server lets this client in no more: {error.message}")
        except MegaflowError as error:
            until = self._keeper.alive_until(session_id)
            if _out_of_reach(error) and until is not None and time.monotonic() < until:
                return None
            return SessionLost(
                f"the connection to the worker ended ({cause}), and the gateway does not say why: "
                f"{error.message}"
            )
        if status.alive:
            return None
        lost = failures.from_message(status.error)
        return lost if isinstance(lost, SessionLost) else SessionLost(str(lost))

    async def _described(self, session_id: str, shard_id: str) -> pb.ShardStatus:
        try:
            return await self._control.describe_shard(session_id, shard_id)
        except Unavailable as error:
            if not _out_of_reach(error) or not await self._control.reachable(_RECONNECT):
                raise
        return await self._control.describe_shard(session_id, shard_id)

    async def has_ended(self, session_id: str) -> bool:
        renewed = await self._control.renew_leases(pb.RenewLeasesRequest(session_ids=[session_id]))
        return bool(renewed.lost)

    async def explain_loss(self, session_id: str, shard_id: str, cause: Exception) -> SessionLost:
        known = cause.loss if isinstance(cause, StreamBroken) else None
        loss = known or await self._verdict(session_id, shard_id, cause)
        return loss or SessionLost(f"the connection to the worker ended: {cause}")

    def leave(self, session_id: str, *, ended: bool) -> None:
        self._env_start.pop(session_id, None)
        if ended:
            self._keeper.remove(session_id)
        else:
            self._keeper.release(session_id)

    def forget(self, session_id: str | None, ending: Coroutine[Any, Any, None] | None) -> None:
        if sys.is_finalizing():
            # The keeper has released everything. gRPC's threads run no more, so that closing would wait for ever.
            if ending is not None:
                ending.close()
            return
        # Without a wait, since an event loop may be about to end, or have ended: the server hears from the keeper.
        if session_id is not None:
            self.leave(session_id, ended=False)
        self._users.pop()
        if ending is not None:
            self._network.finish(ending)
        if not self._users:
            self._network.abandon()
            self._network.finish(self._control.close())

    async def close(self) -> None:
        self._users.pop()
        if not self._users:
            try:
                await self._network.close_keeper()
            finally:
                await self._control.close()


def _attach_timeout(end: float | None) -> float:
    remaining = left(end)
    return ATTACH_TIMEOUT if remaining is None else min(remaining, ATTACH_TIMEOUT)


def _out_of_reach(error: MegaflowError) -> bool:
    """Whether a server may be there and only the way to it is not: where nobody listens, it is gone."""
    gone = ("Connection refused", "No such file or directory")
    return not any(reason in error.message for reason in gone)
