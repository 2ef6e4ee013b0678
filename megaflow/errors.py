"""Every error that megaflow raises, and the one table from and to gRPC status codes.

```
MegaflowError
├── InvalidArgument       the call is wrong: names the field, the value and the way out
├── NotFound              no such environment, session or shard; says what comes close
├── Unauthenticated       no token, or one that this server does not know
├── PermissionDenied      a token that does not open this
├── ResourceExhausted     a limit is reached; `retry_after` says when to come back
├── FailedPrecondition    right call, wrong moment, or a server that was not started for it
│   └── BudgetExhausted   calls, tokens, money or time of a task, job or tenant are spent
├── Unavailable           the server cannot be reached
├── DeadlineExceeded      a named time limit passed
├── SessionLost           the process, container or pod that held the session died: infrastructure
├── EnvironmentFailed     the environment's own code raised; its worker lives on
└── Superseded            a newer attempt won
```

The first eight below the root carry the names of gRPC's status codes. A client never sees a bare `grpc.RpcError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import grpc

__all__ = [
    "BudgetExhausted",
    "DeadlineExceeded",
    "EnvironmentFailed",
    "FailedPrecondition",
    "InvalidArgument",
    "MegaflowError",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "SessionLost",
    "Superseded",
    "Unauthenticated",
    "Unavailable",
    "by_name",
    "by_status",
]


class MegaflowError(Exception):
    """Base of the tree.

    Attributes:
        message: what went wrong and what to do about it.
        retry_after: seconds after which another try makes sense; None where none does.
        infrastructure: True where neither the caller nor the environment is at fault, so that a result
            computed from this is no result.
    """

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    infrastructure: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidArgument(MegaflowError):
    """The call is wrong; the message names the field, the value and the way out."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(MegaflowError):
    """There is no such environment, session or shard."""

    status = grpc.StatusCode.NOT_FOUND


class Unauthenticated(MegaflowError):
    """No token, or one that this server does not know."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(MegaflowError):
    """The token is known, and does not open this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(MegaflowError):
    """A limit is reached; `retry_after` says in how many seconds to come back."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    infrastructure = True


class FailedPrecondition(MegaflowError):
    """A right call at the wrong moment, or to a server that was not started for it."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class BudgetExhausted(FailedPrecondition):
    """What a task, job or tenant may spend on models is spent: a limit that was reached, and no failure of anything.

    `retry_after` is set where the budget is one of so much a day.
    """

    status = grpc.StatusCode.FAILED_PRECONDITION


class Unavailable(MegaflowError):
    """The server cannot be reached."""

    status = grpc.StatusCode.UNAVAILABLE
    infrastructure = True


class DeadlineExceeded(MegaflowError):
    """A named time limit passed.

    Attributes:
        indices: the sub-environments that are late, where that is known; they are still at it.
    """

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    infrastructure = True

    def __init__(
        self, message: str, *, retry_after: float | None = None, indices: Sequence[int] = ()
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.indices = tuple(indices)


class SessionLost(MegaflowError):
    """The worker that held the session died, and the session's state with it.

    Attributes:
        indices: the sub-environments that are lost; empty for an environment that is no vector.
    """

    status = grpc.StatusCode.ABORTED
    infrastructure = True

    def __init__(
        self, message: str, *, retry_after: float | None = None, indices: Sequence[int] = ()
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.indices = tuple(indices)


class EnvironmentFailed(MegaflowError):
    """The environment's own code raised; its worker and its session live on.

    Attributes:
        exception_type: the environment's exception, `module.QualName`.
        traceback: the remote traceback, as Python prints it.
        log_tail: the last lines that the worker printed.
    """

    status = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        exception_type: str = "",
        traceback: str = "",
        log_tail: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.exception_type = exception_type
        self.traceback = traceback
        self.log_tail = log_tail

    def __str__(self) -> str:
        parts = [self.message]
        if self.traceback:
            parts.append("Remote traceback:\n" + self.traceback.rstrip())
        if self.log_tail:
            parts.append("Last lines of the worker's log:\n" + self.log_tail.rstrip())
        return "\n\n".join(parts)


class Superseded(MegaflowError):
    """A newer attempt, connection or owner has taken this one's place."""

    status = grpc.StatusCode.ABORTED


_TREE: tuple[type[MegaflowError], ...] = (
    InvalidArgument,
    NotFound,
    Unauthenticated,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    BudgetExhausted,
    Unavailable,
    DeadlineExceeded,
    SessionLost,
    EnvironmentFailed,
    Superseded,
)

_BY_NAME = {cls.__name__: cls for cls in _TREE}

# Statuses that gRPC itself produces, without an error of ours attached.
_BY_STATUS: dict[grpc.StatusCode, type[MegaflowError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: FailedPrecondition,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def by_name(name: str) -> type[MegaflowError]:
    """The class of the tree with this name; `MegaflowError` for one that this version does not know."""
    return _BY_NAME.get(name, MegaflowError)


def by_status(status: grpc.StatusCode) -> type[MegaflowError]:
    """The class that stands for a gRPC status; `MegaflowError` where none does."""
    return _BY_STATUS.get(status, MegaflowError)
