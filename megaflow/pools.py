"""A server's pools of sandboxes, as its clients see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megaflow.connection import Connection
from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.specs import EnvironmentLike, WrapperLike, environment_spec

__all__ = ["PoolInfo", "preparing", "preparing_env"]

# Far more than any pool has.
_MOST = 1_000_000


@dataclass(frozen=True)
class PoolInfo:
    """A pool at one moment: how many of its instances are where, and what it has come to so far.

    Attributes:
        template: of the server's configuration.
        image: None where the backend has none.
        mode: "ephemeral" or "persistent"; of a template with "auto", what it has been decided to.
        ready: how many wait for a session; `target` are meant to, and there are `max` of all kinds at most.
        waiting: sessions that no instance is there for yet.
        created, reused, quarantined, failed: how many instances were made, used again, not used again since
            they were not like fresh ones, and could not be made.
        breaker: why none is made at the moment; None while they are.
        fault: why the last one was not used again, or not made.
        create_seconds, reset_seconds: what making one takes, and making it like a fresh one; None before the
            first.
        run: the label "run" of everything that the server started.
    """

    template: str
    image: str | None
    backend: str
    mode: str
    ready: int
    leased: int
    creating: int
    resetting: int
    ending: int
    waiting: int
    target: int
    max: int
    created: int
    reused: int
    quarantined: int
    failed: int
    breaker: str | None
    fault: str | None
    create_seconds: float | None
    reset_seconds: float | None
    run: str

    @staticmethod
    def of(status: pb.PoolStatus) -> PoolInfo:
        return PoolInfo(
            template=status.template,
            image=status.image or None,
            backend=status.backend,
            mode=status.mode,
            ready=status.ready,
            leased=status.leased,
            creating=status.creating,
            resetting=status.resetting,
            ending=status.ending,
            waiting=status.waiting,
            target=status.target,
            max=status.max,
            created=status.created,
            reused=status.reused,
            quarantined=status.quarantined,
            failed=status.failed,
            breaker=status.breaker or None,
            fault=status.fault or None,
            create_seconds=status.create_s if status.HasField("create_s") else None,
            reset_seconds=status.reset_s if status.HasField("reset_s") else None,
            run=status.run,
        )

    @staticmethod
    def all_of(answer: pb.ListPoolsResponse) -> list[PoolInfo]:
        return [PoolInfo.of(one) for one in answer.pools]


def preparing(template: str, count: int, image: str | None) -> pb.PreparePoolRequest:
    """The request of `Client.prepare`. InvalidArgument for what is no number from 0 on."""
    return pb.PreparePoolRequest(template=template, image=image or "", count=_checked(count))


def preparing_env(
    connection: Connection,
    env: EnvironmentLike,
    count: int,
    env_kwargs: Mapping[str, Any] | None,
    wrappers: Sequence[WrapperLike],
) -> pb.PrepareEnvironmentRequest:
    """The request of `Client.prepare_env`. InvalidArgument for what is no number from 0 on."""
    spec = environment_spec(connection, env, num_envs=0, env_kwargs=env_kwargs, wrappers=wrappers)
    return pb.PrepareEnvironmentRequest(environment=spec, count=_checked(count))


def _checked(count: int) -> int:
    if type(count) is not int or not 0 <= count <= _MOST:
        raise InvalidArgument(f"count={count!r}: takes a whole number from 0 to {_MOST}")
    return count
