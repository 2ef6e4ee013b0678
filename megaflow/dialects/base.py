"""What a dialect is to the gateway: a request to the one form, and answers, events and errors from it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

from megaflow import errors
from megaflow.generation import Completion, Event, Request

__all__ = ["Dialect", "Stamp", "Writer", "http_status"]


class Stamp:
    """What an answer carries that no model gives: an id, the time, the model's name to the caller."""

    def __init__(self, model: str, id: str | None = None, created: int | None = None) -> None:
        self.model = model
        self.id = id or uuid.uuid4().hex
        self.created = int(time.time()) if created is None else created


class Writer(Protocol):
    """Writes a stream, event by event, as bytes of SSE."""

    def begin(self) -> bytes:
        """What stands before the first event."""
        ...

    def event(self, event: Event) -> bytes:
        """What an event becomes; may be nothing. After `Finish` comes nothing more."""
        ...

    def fail(self, error: errors.MegaflowError) -> bytes:
        """How a stream ends that has begun and cannot go on."""
        ...


class Dialect(Protocol):
    """One of the HTTP APIs that programs speak to models."""

    name: str
    path: str
    """Below the API's root, `/v1`."""

    def request(self, body: object) -> Request:
        """The request; InvalidArgument names the field that is wrong."""
        ...

    def reply(self, request: Request, completion: Completion, stamp: Stamp) -> dict[str, Any]:
        """The whole answer."""
        ...

    def writer(self, request: Request, stamp: Stamp) -> Writer:
        """Writes the answer as a stream."""
        ...

    def failure(self, error: errors.MegaflowError) -> dict[str, Any]:
        """An error's body."""
        ...


_STATUSES: Iterable[tuple[type[errors.MegaflowError], int]] = (
    (errors.InvalidArgument, 400),
    (errors.Unauthenticated, 401),
    (errors.PermissionDenied, 403),
    # Not 409: the official clients send that again.
    (errors.Superseded, 403),
    (errors.NotFound, 404),
    # Not 429: the official clients send that again.
    (errors.BudgetExhausted, 402),
    (errors.FailedPrecondition, 400),
    (errors.ResourceExhausted, 429),
    (errors.DeadlineExceeded, 504),
    (errors.Unavailable, 503),
)


def http_status(error: errors.MegaflowError) -> int:
    """The HTTP status that stands for an error; 500 for one of no kind that has one."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
