"""What an engine refuses, as our own errors: the one place where its answers are read as such."""

from __future__ import annotations

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

__all__ = ["EngineRefusal", "refusal"]

_RETRY_SECONDS = 1.0
_NO_ROOM = (
    "no space left",
    "cannot allocate memory",
    "too many open files",
    "resource temporarily unavailable",
    "no available ipv4 addresses",
)
# What the runtime says of a command, a directory or a user that an image does not have.
_NO_SUCH_PROGRAM = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
    "not a directory",
    "unable to find user",
    "unable to find group",
    "no matching entries in passwd file",
    "chdir to cwd",
)


class EngineRefusal(Exception):
    """An HTTP status of the engine that is none of success, and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


def refusal(what: str, error: EngineRefusal, *, starting: bool = False) -> MegaflowError:
    """The error that a refusal stands for.

    Args:
        what: what was asked for, as the beginning of the message.
        starting: a program was to be started: what is missing then, is missing in its image.
    """
    text = error.message.lower()
    message = f"{what}: {error.message}"
    if any(sign in text for sign in _NO_ROOM):
        return ResourceExhausted(message, retry_after=_RETRY_SECONDS)
    if starting and any(sign in text for sign in _NO_SUCH_PROGRAM):
        return InvalidArgument(message)
    match error.status:
        case 400:
            return InvalidArgument(message)
        case 404:
            return NotFound(message)
        case 403 | 409:
            return FailedPrecondition(message)
        case 429:
            return ResourceExhausted(message, retry_after=60.0)
        case _:
            return Unavailable(message)
