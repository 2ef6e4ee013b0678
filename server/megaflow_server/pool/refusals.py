"""Why a claim gets no instance, in words that say what to do."""

from __future__ import annotations

import logging
from typing import Protocol

from megaflow.errors import DeadlineExceeded, MegaflowError, ResourceExhausted, Unavailable
from megaflow_server.pool.breaker import Breaker
from megaflow_server.pool.members import Members
from megaflow_server.templates import PoolSize

__all__ = ["as_ours", "ending", "stopped", "too_late", "too_many"]

_log = logging.getLogger(__name__)

# Before a claim that a full queue has sent away is made again; seconds.
_RETRY_AFTER = 10.0


class State(Protocol):
    """What `too_late` tells of."""

    members: Members
    breaker: Breaker
    size: PoolSize
    fault: str | None

    @property
    def waiting(self) -> int: ...


def as_ours(error: Exception) -> MegaflowError:
    """Whatever came of trying, as one of our errors; what is none is logged, with where it came from."""
    if isinstance(error, MegaflowError):
        return error
    _log.error("a fault of ours", exc_info=error)
    return Unavailable(f"{type(error).__name__}: {error}")


def ending() -> MegaflowError:
    return Unavailable("this server is ending")


def stopped(name: str, breaker: Breaker) -> MegaflowError:
    return Unavailable(f"{name}: {breaker.why}", retry_after=max(1.0, breaker.remaining))


def too_many(name: str, waiting: int, most: int) -> MegaflowError:
    return ResourceExhausted(
        f"{name}: {waiting} sessions wait for one of at most {most} already",
        retry_after=_RETRY_AFTER,
    )


def too_late(name: str, seconds: float, state: State) -> MegaflowError:
    """A claim's deadline has passed: says where the instances are that it waited for."""
    counts = [
        f"{count} {where}"
        for where in ("leased", "creating", "resetting", "ending")
        if (count := state.members.count(where))
    ]
    why = state.breaker.why or (f"the last fault: {state.fault}" if state.fault else "")
    return DeadlineExceeded(
        f"{name}: no instance came in {seconds:.1f} s; of at most {state.size.max} there are "
        f"{', '.join(counts) or 'none'}, and {state.waiting} more claims wait{'; ' + why if why else ''}"
    )
