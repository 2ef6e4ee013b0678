"""What a gateway knows of a session: its shards, and the time that its environments have to come."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from megaflow.errors import DeadlineExceeded, SessionLost
from megaflow_server.gateway.specs import SharedSpec
from megaflow_server.gateway.successors import Successors
from megaflow_server.gateway.workers import WorkerHandle
from megaflow_server.templates import Mode


@dataclass(slots=True)
class Session:
    """A client's session and its shards.

    Attributes:
        owner: the principal that opened it, and may use it.
        tenant: whose quota it counts for, and whose workers and sandboxes it has: the owner, or whose task it is for.
        client: the process that opened it, where that has a name.
        measured: whether what it uses is looked at.
        task: the id of the tenant's task that it is for, if any.
        alone: whether it has a worker of its own.
        mode: how its sandboxes are used; "auto": as their templates say.
        keep: seconds for which its sandboxes outlive it; `keep_lost_only`: those of shards that were lost.
        was_lost: whether it ended without its client's saying so.
        opening: whether its shards are being built for the first time.
        successors: what takes the places of shards that were lost.
        ended: why it is no more, once it is.
    """

    id: str
    owner: str
    tenant: str
    client: str
    spec: SharedSpec
    env_start: float
    mode: Mode = "auto"
    measured: bool = False
    task: str = ""
    alone: bool = False
    keep: float = 0.0
    keep_lost_only: bool = False
    was_lost: bool = False
    shards: dict[str, Shard] = field(default_factory=dict)
    opening: bool = True
    successors: Successors = field(default_factory=Successors)
    ended: str = ""


@dataclass(slots=True)
class Shard:
    """A placed shard.

    Attributes:
        loss: why it is no more, once its worker died or its client gave it up.
    """

    id: str
    session: Session
    worker: WorkerHandle
    first: int
    count: int
    loss: SessionLost | None = None

    def lose(self, loss: SessionLost) -> None:
        """Takes down that it is lost, where it is not yet; it takes no place on its worker from here on."""
        if self.loss is None:
            self.loss = loss
            self.worker.release(self.count)


@dataclass(frozen=True)
class Deadline:
    """When environments are to be there, as the event loop's time, and how long that is."""

    seconds: float
    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        return Deadline(seconds, asyncio.get_running_loop().time() + seconds)

    def timeout(self) -> asyncio.Timeout:
        return asyncio.timeout_at(None if math.isinf(self.at) else self.at)

    def exceeded(self, what: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"env_start: no environment within {self.seconds:g} s (env_start_timeout): {what}"
        )
