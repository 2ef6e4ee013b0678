"""What a pool hands out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from megaflow_server.backends.base import Stats
from megaflow_server.backends.spec import Profile
from megaflow_server.sandbox.sandbox import AsyncSandbox
from megaflow_server.templates import Template

__all__ = ["Leased", "Lender", "PoolStatus"]


async def _uncounted() -> None:
    """Nobody counts it."""


@dataclass
class Leased:
    """A sandbox that belongs to one session.

    Attributes:
        sandbox: its verbs; what it is in is destroyed or reset by `release`, never by the session.
        template: what it was made of, its image named.
        id: of its instance.
        warm: whether it was waiting.
    """

    sandbox: AsyncSandbox
    template: Template
    id: str
    warm: bool
    _release: Callable[[bool], Awaitable[None]] = field(repr=False)
    _stats: Callable[[], Awaitable[Stats | None]] = field(default=_uncounted, repr=False)

    async def release(self, *, dirty: bool) -> None:
        """Give it back, and return at once; a second call does nothing.

        Args:
            dirty: whether nobody may use it again, whatever it looks like: its session failed, or its owner
                is not to be trusted. What was snapshotted or restored is never used again in any case.
        """
        await self._release(dirty)

    async def stats(self) -> Stats | None:
        """What it uses; None where nobody counts that. Raises Unavailable where it cannot be had now."""
        return await self._stats()


class Lender(Protocol):
    """Leases sandboxes to sessions; used from one event loop."""

    def profile(self, backend: str) -> Profile | None:
        """The profile of templates that name none on a backend, by its name; None where that has no profiles.

        Raises:
            InvalidArgument: there is no backend of this name.
            FailedPrecondition: it cannot work here.
        """

    def check(self, template: Template) -> None:
        """Refuse what could never be leased, before anything is made for it.

        Raises:
            InvalidArgument: the template cannot be used on its backend.
            FailedPrecondition: likewise, or its backend cannot work here.
        """

    async def lease(
        self,
        template: Template,
        *,
        image: str | None = None,
        owner: str,
        session: str,
        deadline: float | None = None,
    ) -> Leased:
        """A sandbox of a template, in the order of the calls.

        Args:
            image: where the template names none.
            owner: the principal that it is for.
            session: the id of what it is leased to.
            deadline: the event loop's time after which nobody waits for it any more; None for no limit.

        Raises:
            NotFound: there is no such image.
            InvalidArgument: the template cannot be used on its backend.
            FailedPrecondition: likewise, or its backend cannot work here.
            ResourceExhausted: everything that there may be is leased; with the time to ask again.
            Unavailable: creating fails at the moment, with why; with the time to ask again.
            DeadlineExceeded: none came in time, with what it waited for.
        """


@dataclass(frozen=True)
class PoolStatus:
    """A pool at one moment: how many of its instances are where, and what it has come to so far.

    Attributes:
        waiting: claims that no instance is there for yet.
        mode: "ephemeral" or "persistent"; of a template with "auto", what it has been decided to.
        breaker: why no instance is created at the moment; None while they are.
        fault: why the last instance was not used again, or not created.
        create_seconds: what creating one took, as a running mean; None before the first.
        reset_seconds: what resetting and verifying one took.
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
