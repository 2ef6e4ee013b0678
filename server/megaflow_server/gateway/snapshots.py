"""Snapshots of sessions: what their environments said of themselves, and images of what their sandboxes held."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.lending import Held, Lending
from megaflow_server.gateway.records import Shard

__all__ = ["SnapshotTable", "Snapshots", "Taken"]

# A principal's at a time, in number, in bytes of what environments gave, and in those of images.
MOST = 1000
MOST_BYTES = 256 << 20
MOST_DISK = 64 << 30
# What nobody has used for so long is forgotten, and the longest that may be asked for; seconds.
UNUSED = 3600.0
UNUSED_MOST = 86400.0


@dataclass(frozen=True)
class Taken:
    """What a snapshot is.

    Attributes:
        environment: what it is of, as its client asked for it.
        state, observation: values, as the environment's client gave them.
        images: of its sandboxes, by the parameters of the environment's constructor.
        origins: the images that those came of, which have to stay for as long.
        tenant: whose task's it is, where that is not the owner's own.
        task: the id of that task, if any.
        unused: seconds for which nobody has to use it before it goes; 0: as for any other.
    """

    owner: str
    environment: bytes
    state: bytes
    observation: bytes
    images: Mapping[str, Held]
    origins: frozenset[str] = frozenset()
    tenant: str = ""
    task: str = ""
    unused: float = 0.0

    @property
    def size(self) -> int:
        return len(self.state) + len(self.observation) + len(self.environment)

    @property
    def disk(self) -> int:
        return sum(one.size for one in self.images.values())


class SnapshotTable:
    """Snapshots by their ids, for as long as they are used now and then; used from one event loop.

    Args:
        on_gone: told of each that is kept no longer.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        on_gone: Callable[[Taken], None] = lambda _: None,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        most_disk: int = MOST_DISK,
        unused: float = UNUSED,
    ) -> None:
        self._clock = clock
        self._on_gone = on_gone
        self._most = most
        self._most_bytes = most_bytes
        self._most_disk = most_disk
        self._unused = unused
        self._taken: dict[str, tuple[Taken, float]] = {}  # and when it was used last

    def check(self, owner: str, size: int, disk: int = 0) -> None:
        """Raises ResourceExhausted where an owner has too many for one more of so many bytes, `disk` of images."""
        self._expire()
        own = [taken for taken, _ in self._taken.values() if taken.owner == owner]
        bytes_ = sum(one.size for one in own) + size
        on_disk = sum(one.disk for one in own) + disk
        is_over = bytes_ > self._most_bytes or on_disk > self._most_disk
        if len(own) >= self._most or is_over:
            raise ResourceExhausted(
                f"{len(own)} snapshots are kept for {owner}, and one more would be over {self._most}, or with its "
                f"{bytes_} bytes and {on_disk} of images over {self._most_bytes} or {self._most_disk}: drop some "
                f"with client.drop_snapshot(id); those that nobody uses for {self._unused:g} s go by themselves"
            )

    def put(self, taken: Taken) -> str:
        """The id of a new one. Raises as `check`."""
        self.check(taken.owner, taken.size, taken.disk)
        snapshot_id = secrets.token_hex(16)
        self._taken[snapshot_id] = taken, self._clock()
        return snapshot_id

    def all(self) -> dict[str, Taken]:
        """Those that are kept, by their ids."""
        self._expire()
        return {snapshot_id: taken for snapshot_id, (taken, _) in self._taken.items()}

    def use(self, id_: str, owner: str) -> Taken:
        """One that is kept, by its id or (the newest) that of its task. Raises NotFound or PermissionDenied."""
        self._expire()
        snapshot_id = id_
        if id_ not in self._taken:
            of_task = [key for key, (taken, _) in self._taken.items() if id_ and id_ == taken.task]
            snapshot_id = of_task[-1] if of_task else id_
        found = self._taken.get(snapshot_id)
        if found is None:
            raise NotFound(
                f"snapshot={snapshot_id!r}: this server has none by that id; it was dropped, was not used for "
                f"{self._unused:g} s, or is another server's"
            )
        taken, _ = found
        if taken.owner != owner:
            raise PermissionDenied(f"snapshot {snapshot_id!r} belongs to another principal")
        self._taken[snapshot_id] = taken, self._clock()
        return taken

    def drop(self, snapshot_id: str, owner: str) -> None:
        """Keep one no longer. Idempotent; raises PermissionDenied."""
        if snapshot_id in self._taken:
            self.use(snapshot_id, owner)
            self._forget(snapshot_id)

    def owns(self, image: str) -> bool:
        """Whether a snapshot needs an image."""
        self._expire()
        return any(
            image in taken.origins or any(image == one.image for one in taken.images.values())
            for taken, _ in self._taken.values()
        )

    def _expire(self) -> None:
        now = self._clock()
        for snapshot_id, (taken, used) in list(self._taken.items()):
            if now - used >= (taken.unused or self._unused):
                self._forget(snapshot_id)

    def _forget(self, snapshot_id: str) -> None:
        found = self._taken.pop(snapshot_id, None)
        if found is not None:
            self._on_gone(found[0])


class Snapshots:
    """Makes snapshots of shards that are there, and has others go on from them.

    An image that no snapshot needs any more is left to the reaper; see `owns`.

    Args:
        shard: gives a shard of an owner's by its id.
    """

    def __init__(
        self, shard: Callable[[str, str], Shard], lending: Lending, clock: Callable[[], float]
    ) -> None:
        self._shard = shard
        self._lending = lending
        self._table = SnapshotTable(clock, on_gone=lambda taken: lending.give_up(taken.images))

    def all(self) -> dict[str, Taken]:
        """Those that are kept, by their ids."""
        return self._table.all()

    def use(self, snapshot_id: str, owner: str) -> Taken:
        """One that is kept. Raises NotFound or PermissionDenied."""
        return self._table.use(snapshot_id, owner)

    async def keep(self, request: pb.KeepSnapshotRequest, owner: str) -> str:
        """Raises what a lost shard, its sandboxes and `SnapshotTable.put` do, and InvalidArgument."""
        if not 0 <= request.seconds <= UNUSED_MOST:
            raise InvalidArgument(
                f"seconds={request.seconds:g}: a snapshot that nobody uses is kept for {UNUSED_MOST:g} s at most"
            )
        shard = self._living(request.session_id, request.shard_id, owner)
        environment = _environment(shard)
        size = len(request.state) + len(request.observation) + len(environment)
        self._table.check(owner, size)  # before its sandboxes are stopped for it
        images, origins = await self._lending.snapshot(shard.id)
        taken = Taken(
            owner,
            environment,
            request.state,
            request.observation,
            images,
            origins,
            tenant=shard.session.tenant,
            task=shard.session.task,
            unused=request.seconds,
        )
        try:
            return self._table.put(taken)
        except ResourceExhausted:  # others were faster
            self._lending.give_up(images)
            raise

    async def restore(
        self, request: pb.RestoreSnapshotRequest, owner: str
    ) -> pb.RestoreSnapshotResponse:
        """Raises what a lost shard and its sandboxes do, NotFound, PermissionDenied, and FailedPrecondition."""
        shard = self._living(request.session_id, request.shard_id, owner)
        taken = self._table.use(request.snapshot_id, owner)
        if taken.tenant != shard.session.tenant:
            raise PermissionDenied(f"snapshot {request.snapshot_id!r} is of another tenant's task")
        if taken.environment != _environment(shard):
            raise FailedPrecondition(
                f"snapshot {request.snapshot_id!r} is of an environment with another id, other arguments or other "
                "wrappers: make one as that was, or use client.fork"
            )
        await self._lending.restore(shard.id, taken.images)
        return pb.RestoreSnapshotResponse(state=taken.state, observation=taken.observation)

    def drop(self, snapshot_id: str, owner: str) -> None:
        """Keep one no longer. Idempotent; raises PermissionDenied."""
        self._table.drop(snapshot_id, owner)

    def owns(self, image: str) -> bool:
        """Whether an image is needed: by a snapshot, or by a sandbox that is lent."""
        return self._table.owns(image) or self._lending.owns(image)

    def _living(self, session_id: str, shard_id: str, owner: str) -> Shard:
        shard = self._shard(shard_id, owner)
        if shard.session.id != session_id:
            raise NotFound(f"session {session_id!r} has no shard {shard_id!r}")
        if shard.loss is not None:
            raise shard.loss
        if shard.session.spec.message().num_envs:
            raise FailedPrecondition(
                "snapshots are of single environments, and this session is of a vector environment: use make"
            )
        return shard


def _environment(shard: Shard) -> bytes:
    spec = shard.session.spec.message()
    same = pb.EnvironmentSpec(makers=spec.makers, wrappers=spec.wrappers)
    return same.SerializeToString(deterministic=True)
