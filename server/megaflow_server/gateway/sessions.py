"""The sessions of a gateway: who may open how many, how long they live, and what became of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from megaflow.errors import (
    InvalidArgument,
    MegaflowError,
    NotFound,
    PermissionDenied,
    SessionLost,
    Unauthenticated,
    Unavailable,
)
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.admission import Admission
from megaflow_server.gateway.leases import LeaseTable
from megaflow_server.gateway.lending import Lending
from megaflow_server.gateway.limits import Limits
from megaflow_server.gateway.peaks import Peaks
from megaflow_server.gateway.records import Deadline, Session, Shard
from megaflow_server.gateway.registry import Registry, client_has_ended, shard_of, shut_out, unknown
from megaflow_server.gateway.session_settings import SessionSettings, env_start, mode_of
from megaflow_server.gateway.shards import Shards
from megaflow_server.gateway.specs import SpecPool
from megaflow_server.gateway.supervisor import Supervisor
from megaflow_server.gateway.workers import WorkerHandle

logger = logging.getLogger(__name__)

# Lost sessions that one renewal tells of: what is said of one may take fifty times its id.
_MOST_LOST = 1000
# Seconds for which sandboxes may outlive their sessions.
_KEPT_MOST = 86400.0


class Sessions:
    """Opens, reopens, describes, keeps and ends sessions over the workers of a supervisor.

    An `owner` is the name of the principal that asks; a session is its own alone.
    """

    def __init__(
        self,
        settings: SessionSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease = settings.lease
        self._registry = Registry(clock)
        self._clock = clock
        self.limits = Limits(settings.max_sessions, settings.quotas, clock)
        self._admission = Admission(settings.max_building, settings.max_waiting, clock)
        self._leases = LeaseTable(settings.lease, clock)
        self._specs = SpecPool()
        self._refusal = ""
        self._holders: frozenset[str] | None = None  # None: everybody may have sessions
        self._shards: Shards

    def use(self, supervisor: Supervisor, lending: Lending) -> None:
        """Names who lends sandboxes, and the supervisor, which reports to `worker_died` and `shard_closed`.

        Leases run from here.
        """
        self._shards = Shards(supervisor, lending, self._drop_if_empty)
        self._expiring = asyncio.create_task(self._expire())
        self._peaks = Peaks(self._registry.all, lending.all)
        self._measuring = asyncio.create_task(self._peaks.watch())

    async def stop(self) -> None:
        """Leases run out no more. What is held goes with the workers."""
        for task in (self._expiring, self._measuring):
            task.cancel()
        await asyncio.wait({self._expiring, self._measuring})
        building = [task for one in self._registry.all() for task in one.successors.cancel()]
        await asyncio.gather(*building, return_exceptions=True)
        await self._shards.closing.stop()

    @property
    def count(self) -> int:
        return len(self._registry)

    def check(self, owner: str) -> None:
        """Raises what `open` would raise at once, whatever the request: the server ends, or a limit is reached."""
        if self._refusal:
            raise Unavailable(self._refusal)
        self.limits.check(owner)
        self._admission.check()

    async def open(self, request: pb.OpenSessionRequest, owner: str) -> pb.OpenSessionResponse:
        """Places and builds all shards; none is left where one cannot be built.

        Raises:
            Unavailable: the server is about to end, or was when its turn had not come.
            Unauthenticated: its principal may have no sessions any more.
            ResourceExhausted: a limit is reached, or too many openings wait.
            DeadlineExceeded: not all was built in the time that the request gives.
            InvalidArgument: its mode is none.
        """
        if self._refusal:
            raise Unavailable(self._refusal)
        if self._holders is not None and owner not in self._holders:
            raise Unauthenticated(
                shut_out(owner)
            )  # its token was revoked while it sent its request
        tenant = request.tenant or owner
        seconds = env_start(request.env_start_timeout_s)
        session = Session(
            id=secrets.token_hex(8),
            owner=owner,
            tenant=tenant,
            client=request.client_id,
            spec=self._specs.share(request.environment),
            env_start=seconds,
            mode=mode_of(request.mode),
            measured=bool(request.tenant),
            task=request.task,
            alone=request.alone,
        )
        deadline = Deadline.after(seconds)
        self.limits.take(tenant)
        self._registry.add(session)
        try:
            if self._registry.has_ended(session.client):
                raise SessionLost(client_has_ended(session))
            async with self._turn(deadline):
                shards = await self._shards.build_all(session, deadline)
            if session.ended:
                raise SessionLost(session.ended)
        except BaseException:
            self._end_later(session, "it could not be opened")
            raise
        session.opening = False
        self._leases.start(session.id)
        self._drop_if_empty(session)
        return pb.OpenSessionResponse(session_id=session.id, shards=shards)

    async def reopen(
        self, session_id: str, shard_id: str, owner: str, *, given_up: str = ""
    ) -> pb.Shard:
        """Builds a shard anew, once however often it is asked for; see `Shards.rebuild`.

        It waits for its turn, and is not sent away.
        """
        session = self._registry.get(session_id, owner)
        if shard_id not in session.successors:
            shard_of(session, shard_id)

        async def rebuild() -> pb.Shard:
            deadline = Deadline.after(session.env_start)
            async with self._turn(deadline, refusable=False):
                lost = shard_of(session, shard_id)
                return await self._shards.rebuild(lost, deadline, given_up)

        try:
            return await session.successors.get(
                shard_id, rebuild, on_built=lambda: self._drop_if_empty(session)
            )
        except asyncio.CancelledError:
            if session.ended:
                raise SessionLost(session.ended) from None
            raise

    def describe(self, session_id: str, shard_id: str, owner: str) -> pb.ShardStatus:
        try:
            shard = shard_of(self._registry.get(session_id, owner), shard_id)
        except SessionLost as loss:
            return pb.ShardStatus(error=failures.to_message(loss))
        if shard.loss is None:
            return pb.ShardStatus(alive=True)
        return pb.ShardStatus(error=failures.to_message(shard.loss))

    def renew(
        self, session_ids: Iterable[str], released_ids: Iterable[str], owner: str
    ) -> list[pb.LostSession]:
        """Keeps sessions for another lease and ends others, later; those that cannot be kept, and why.

        Of the latter no more than an answer may take: the next call tells of the others.
        """
        for session_id in released_ids:
            session = self._registry.find(session_id)
            if session is not None and session.owner == owner:
                self._end_later(session, "its client released it")
        lost: list[pb.LostSession] = []
        for session_id in session_ids:
            if len(lost) >= _MOST_LOST and session_id not in self._registry:
                continue
            try:
                self._registry.get(session_id, owner)
                self._leases.renew(session_id)
            except MegaflowError as error:
                if isinstance(error, PermissionDenied):
                    error = unknown(session_id)
                lost.append(pb.LostSession(session_id=session_id, error=failures.to_message(error)))
        return lost[:_MOST_LOST]

    async def close(self, session_id: str, owner: str) -> pb.Amount | None:
        """Ends a session's shards; one that is not there is fine. What it used at most, where that was measured."""
        try:
            session = self._registry.get(session_id, owner)
        except (NotFound, SessionLost):
            return self._peaks.take(session_id, owner)
        await asyncio.gather(
            *map(self._shards.closing.close, self._end(session, "its client closed it"))
        )
        return self._peaks.take(session_id, owner)

    def keep(self, request: pb.KeepSandboxesRequest, owner: str) -> None:
        """See KeepSandboxes. Raises InvalidArgument, and NotFound, PermissionDenied or SessionLost for the session."""
        if not 0 <= request.seconds <= _KEPT_MOST:
            raise InvalidArgument(
                f"seconds={request.seconds:g}: a sandbox is kept for {_KEPT_MOST:g} s at most"
            )
        session = self._registry.get(request.session_id, owner)
        session.keep, session.keep_lost_only = request.seconds, request.lost_only

    def refuse(self, reason: str) -> None:
        """Opens no more sessions, also of those that wait for their turn; those that there are go on."""
        self._refusal = reason
        self._admission.dismiss(reason)

    async def end_all(self, reason: str, *, within: float) -> None:
        """Ends every session, so that its client is told this; returns when the workers know, or after `within` s."""
        for session in self._registry.all():
            self._lose(session, f"session {session.id} has ended: {reason}")
        await self._shards.closing.settle(within)

    def keep_only(self, holders: frozenset[str]) -> None:
        """Ends the sessions of all principals but these, and opens none for them until they are named again."""
        if holders == self._holders:
            return
        self._holders = holders
        for session in [one for one in self._registry.all() if one.owner not in holders]:
            session.keep = 0.0
            self._lose(session, f"session {session.id} has ended: {shut_out(session.owner)}")

    def client_came(self, client_id: str) -> None:
        """A process by this name uses the server."""
        self._registry.client_came(client_id)

    def client_ended(self, client_id: str) -> None:
        """Ends what this process opened, and what it is still about to open."""
        for session in self._registry.client_ended(client_id):
            self._lose(session, client_has_ended(session))

    def worker_died(self, worker: WorkerHandle) -> None:
        """Marks what the worker held as lost."""
        self._shards.worker_died(worker)

    def shard_closed(self, shard_id: str) -> None:
        """A shard ended, because its client closed it or its worker was told to."""
        self._shards.closed(shard_id)

    def session(self, session_id: str, owner: str | None) -> Session:
        """One of an owner's, or (with None) of anybody's. Raises NotFound, PermissionDenied or SessionLost."""
        found = self._registry.find(session_id)
        if found is not None and owner is None:
            return found
        return self._registry.get(session_id, owner or "")

    def shard(self, shard_id: str, owner: str) -> Shard:
        """A placed shard of this owner's. Raises NotFound or PermissionDenied."""
        shard = self._shards.get(shard_id)
        if shard is None:
            raise NotFound(f"there is no shard {shard_id!r}: it was closed, or never was here")
        self._registry.get(shard.session.id, owner)
        return shard

    @asynccontextmanager
    async def _turn(self, deadline: Deadline, *, refusable: bool = True) -> AsyncIterator[None]:
        try:
            async with deadline.timeout():
                begun = await self._admission.enter(refusable=refusable)
        except TimeoutError:
            raise deadline.exceeded("this server was building others all the time") from None
        try:
            yield
        finally:
            self._admission.leave(begun)

    async def _expire(self) -> None:
        """Ends the sessions whose leases run out, for ever."""
        while True:
            await asyncio.sleep(max(0.0, self._leases.due() - self._clock()))
            for session_id in self._leases.expire():
                session = self._registry.find(session_id)
                assert session is not None
                reason = (
                    f"session {session_id} has ended: its lease of {self.lease:g} s was not renewed, because "
                    "its client was suspended or cut off for so long, or has died"
                )
                self._lose(session, reason)

    def _lose(self, session: Session, reason: str) -> None:
        """Ends a session whose client may not know of it, so that it can be told why."""
        logger.info("%s", reason)
        session.was_lost = True
        self._registry.remember(session, reason)
        self._end_later(session, reason)

    def _end(self, session: Session, reason: str) -> list[Shard]:
        """Takes down that a session has ended; its shards, of which its workers are still to be told."""
        session.ended = session.ended or reason
        session.successors.cancel()
        self._drop(session)
        shards = list(session.shards.values())
        for shard in shards:
            self._shards.forget(shard)
        return shards

    def _end_later(self, session: Session, reason: str) -> None:
        self._shards.closing.close_later(self._end(session, reason))

    def _drop_if_empty(self, session: Session) -> None:
        session.successors.forget_all_but(session.shards)
        if not session.shards and not session.successors and not session.opening:
            self._drop(session)

    def _drop(self, session: Session) -> None:
        if self._registry.drop(session):
            self._leases.stop(session.id)
            self.limits.give_back(session.tenant)
