"""The parts of sessions on workers: placed, built, lost, made anew."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable

from megaflow.errors import SessionLost, Unavailable
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.closing import Closing
from megaflow_server.gateway.lending import Lending
from megaflow_server.gateway.records import Deadline, Session, Shard
from megaflow_server.gateway.supervisor import Supervisor
from megaflow_server.gateway.workers import WorkerHandle
from megaflow_server.launch import log_tail

logger = logging.getLogger(__name__)


class Shards:
    """Places, builds and closes shards on the workers of a supervisor.

    Args:
        on_forgotten: hears of the session of each shard that is no more.
    """

    def __init__(
        self, supervisor: Supervisor, lending: Lending, on_forgotten: Callable[[Session], None]
    ) -> None:
        self._supervisor = supervisor
        self._lending = lending
        self._on_forgotten = on_forgotten
        self._shards: dict[str, Shard] = {}
        self.closing = Closing(lending.take_back)

    def get(self, shard_id: str) -> Shard | None:
        return self._shards.get(shard_id)

    async def build_all(self, session: Session, deadline: Deadline) -> list[pb.Shard]:
        """Places and builds all shards of a new session; where one cannot be built, none is any more."""
        spec = session.spec.message()
        workers = self._workers_for(session, 1 if _is_whole(spec) else spec.num_envs)
        # Each has its place before another session can be given it.
        placed = [
            self._place(session, worker, first, count)
            for worker, (first, count) in zip(
                workers, split_evenly(max(spec.num_envs, 1), len(workers)), strict=True
            )
        ]
        building = [asyncio.create_task(self._build(shard, spec, deadline)) for shard in placed]
        try:
            return await asyncio.gather(*building)
        except BaseException:
            for task in building:
                if not task.cancelling():  # a second time would break off what it undoes
                    task.cancel()
            await asyncio.gather(*building, return_exceptions=True)
            raise

    async def rebuild(self, lost: Shard, deadline: Deadline, given_up: str = "") -> pb.Shard:
        """Builds a shard anew, on whichever worker has most room.

        One that lives is closed: its client cannot reach it, or has given it up, for the reason that it says;
        see `Closing.give_up`.
        """
        session = lost.session
        if lost.loss is None:
            await self._lose(lost, given_up)
        (worker,) = self._workers_for(session, 1)
        placed = self._place(session, worker, lost.first, lost.count)
        shard = await self._build(placed, session.spec.message(), deadline)
        self.forget(lost)
        return shard

    async def _lose(self, shard: Shard, given_up: str) -> None:
        """From here on it is lost, also where what is to replace it cannot be built."""
        why = f": {given_up}" if given_up else ""
        loss = SessionLost(f"shard {shard.id} was closed, so that it could be made anew{why}")
        logger.warning("%s %s", shard.session.id, loss.message)
        if not given_up:
            shard.lose(loss)
            self.closing.close_later([shard])
        elif self._has_company(shard):
            shard.lose(loss)
            await self.closing.give_up(shard, given_up)
        else:
            shard.worker.end(f"it held nothing but what was given up: {given_up}")
            shard.lose(loss)

    def _has_company(self, shard: Shard) -> bool:
        """Whether its worker has another one, or is about to close one."""
        return self.closing.is_under_way_on(shard.worker) or any(
            one.worker is shard.worker and one.loss is None and one is not shard
            for one in self._shards.values()
        )

    def _workers_for(self, session: Session, count: int) -> list[WorkerHandle]:
        if session.alone:
            return [self._supervisor.worker_alone(session.tenant)]
        return self._supervisor.workers_for(session.tenant, count)

    def _place(self, session: Session, worker: WorkerHandle, first: int, count: int) -> Shard:
        shard = Shard(secrets.token_hex(8), session, worker, first, count)
        self._shards[shard.id] = session.shards[shard.id] = shard
        worker.place(count)
        return shard

    async def _build(self, shard: Shard, spec: pb.EnvironmentSpec, deadline: Deadline) -> pb.Shard:
        """Builds a shard; once more on another worker where the first one dies of something meanwhile."""
        session, first, count = shard.session, shard.first, shard.count
        try:
            return await self._build_on(shard, spec, deadline)
        except (SessionLost, Unavailable) as loss:  # it died, or never came up
            if session.ended or (isinstance(loss, Unavailable) and shard.worker.loss is None):
                raise
            logger.warning("shard %d+%d of %s: %s", first, count, session.id, loss.message)
        (worker,) = self._workers_for(session, 1)
        return await self._build_on(self._place(session, worker, first, count), spec, deadline)

    async def _build_on(
        self, shard: Shard, spec: pb.EnvironmentSpec, deadline: Deadline
    ) -> pb.Shard:
        worker, token = shard.worker, secrets.token_bytes(16)
        request = pb.OpenShardRequest(
            shard_id=shard.id,
            token=token,
            first=shard.first,
            environment=_part(spec, shard.first, shard.count),
        )
        try:
            async with deadline.timeout():
                answer = await worker.build(request)
            if answer.sandboxes:
                lent = await self._lending.lend(
                    shard, request.environment, answer.sandboxes, deadline
                )
                request.environment.CopyFrom(lent)
                async with deadline.timeout():
                    answer = await worker.build(request)
            if shard.session.ended:
                raise SessionLost(shard.session.ended)
            self._lending.opened(shard, self._sandbox_lost)
        except TimeoutError:
            self._give_up(shard)
            raise deadline.exceeded(_whereabouts(worker)) from None
        except BaseException:
            self._give_up(shard)
            raise
        return pb.Shard(
            shard_id=shard.id,
            token=token,
            endpoint=worker.endpoint,
            first=shard.first,
            count=shard.count,
            environment=answer.environment,
        )

    def _give_up(self, shard: Shard) -> None:
        self.forget(shard)
        # Whoever asked for it is told in time, whatever its worker is at.
        self.closing.close_later([shard])

    def closed(self, shard_id: str) -> None:
        """A worker has closed a shard, because it was told to or by its client."""
        self.closing.closed(shard_id)
        self._lending.take_back(shard_id)
        shard = self._shards.get(shard_id)
        if shard is not None and shard.loss is None:
            self.forget(shard)

    def forget(self, shard: Shard) -> None:
        """Drops the record of a shard, which keeps what was lent to it until it is closed. Idempotent."""
        if self._shards.pop(shard.id, None) is None:
            return
        if shard.loss is None:
            shard.worker.release(shard.count)
        shard.session.shards.pop(shard.id, None)
        self._on_forgotten(shard.session)

    def _sandbox_lost(self, shard: Shard, loss: SessionLost) -> None:
        """An environment is nothing without its sandbox: it is made anew with another, as after any other loss."""
        if shard.loss is None:
            logger.warning("%s of %s: %s", shard.id, shard.session.id, loss.message)
            shard.lose(loss)
            self.closing.close_later([shard])

    def worker_died(self, worker: WorkerHandle) -> None:
        """Marks what the worker held as lost."""
        assert worker.loss is not None
        self.closing.worker_died(worker)
        for shard in self._shards.values():
            if shard.worker is worker:
                shard.lose(worker.loss)
                self._lending.take_back(shard.id)


def _whereabouts(worker: WorkerHandle) -> str:
    """What a worker is at whose environment did not come in time."""
    what = (
        f"{worker.title} is still building it"
        if worker.served
        else f"{worker.title} is still starting"
    )
    tail = log_tail(worker.log)
    return f"{what}. The last lines of its log:\n{tail}" if tail else what


def _is_whole(spec: pb.EnvironmentSpec) -> bool:
    """One environment, or a native vector class, which is never cut."""
    return spec.num_envs == 0 or spec.vectorization_mode == "vector_entry_point"


def _part(spec: pb.EnvironmentSpec, first: int, count: int) -> pb.EnvironmentSpec:
    """The description of a shard: its own makers where they differ, and its own size."""
    part = pb.EnvironmentSpec()
    part.CopyFrom(spec)
    if spec.num_envs:
        part.num_envs = count
    if len(spec.makers) > 1:
        del part.makers[:]
        part.makers.extend(spec.makers[first : first + count])
    return part


def split_evenly(total: int, parts: int) -> list[tuple[int, int]]:
    """(first, count) of so many contiguous parts, whose counts differ by one at most."""
    bounds = [total * i // parts for i in range(parts + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds)]
