"""Sandboxes that outlive their sessions, so that a person can look at what failed in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from megaflow.errors import MegaflowError
from megaflow_server.gateway.records import Session
from megaflow_server.pool.leased import Leased
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["Kept", "KeptSandbox"]

_log = logging.getLogger(__name__)

# Of one tenant's at a time: one more takes the place of its oldest.
MOST = 16


@dataclass(eq=False)
class KeptSandbox:
    """A sandbox whose session is over.

    Attributes:
        name: which of its session's it was.
        until: the event loop's time until which it is kept.
        looks: how many are looking at it, which keeps it for as long.
    """

    session: Session
    name: str
    leased: Leased
    until: float
    looks: int = 0

    def is_of(self, id_: str) -> bool:
        """Whether an id is that of its session, or of its task."""
        return bool(id_) and id_ in (self.session.id, self.session.task)


class Kept:
    """Holds them until their time is over, their owner has no more use for them, or others need their room.

    Args:
        owner_most: of one tenant's at a time.
    """

    def __init__(self, owner_most: int = MOST) -> None:
        self._owner_most = owner_most
        self._all: list[KeptSandbox] = []  # the oldest first
        self._releasing: set[asyncio.Task[None]] = set()
        self._closed = False

    def wants(self, session: Session, *, lost: bool) -> bool:
        """Whether what a session had, lost or given back, is to be kept."""
        return session.keep > 0 and (lost or not session.keep_lost_only) and not self._closed

    async def take(self, session: Session, name: str, leased: Leased) -> None:
        """Keep one; what runs in it ends, so that it takes no more of the machine than its files and memory.

        The one that its session had by the same name goes: of what was made anew, the last is kept.
        """
        leased.sandbox.was_kept = True
        try:
            await leased.sandbox.end_processes()
        except MegaflowError as error:
            _log.warning("%s of %s cannot be kept: %s", name, session.id, error.message)
            await leased.release(dirty=True)
            return
        if self._closed:
            await leased.release(dirty=True)
            return
        own = [one for one in self._all if one.session.tenant == session.tenant]
        same = [one for one in own if one.session is session and one.name == name]
        for one in same or own[: max(0, len(own) + 1 - self._owner_most)]:
            self._release(one)
        loop = asyncio.get_running_loop()
        kept = KeptSandbox(session, name, leased, loop.time() + session.keep)
        self._all.append(kept)
        loop.call_at(kept.until, self._expire, kept)

    def all(self) -> list[KeptSandbox]:
        """Those that there are."""
        return list(self._all)

    def drop(self, wanted: Callable[[KeptSandbox], bool]) -> None:
        """Let go of some."""
        for one in [one for one in self._all if wanted(one)]:
            self._release(one)

    def make_room(self, wanted: Callable[[Leased], bool] = lambda _: True) -> bool:
        """Let go of the oldest of some that nobody looks at; whether there was one."""
        for one in self._all:
            if not one.looks and wanted(one.leased):
                _log.info(
                    "%s of %s is kept no longer: its room is needed", one.name, one.session.id
                )
                self._release(one)
                return True
        return False

    def count(self, wanted: Callable[[Leased], bool]) -> int:
        """How many there are of some."""
        return sum(wanted(one.leased) for one in self._all)

    @contextmanager
    def looked_at(self, sandbox: AsyncSandbox) -> Iterator[None]:
        """Keep a sandbox for as long as this lasts, if it is one of these."""
        found = [one for one in self._all if one.leased.sandbox is sandbox]
        for one in found:
            one.looks += 1
        try:
            yield
        finally:
            for one in found:
                one.looks -= 1
                self._expire(one)

    async def stop(self) -> None:
        """Let go of all, and keep nothing any more."""
        self._closed = True
        self.drop(lambda _: True)
        await asyncio.gather(*self._releasing, return_exceptions=True)

    def _expire(self, kept: KeptSandbox) -> None:
        over = asyncio.get_running_loop().time() >= kept.until
        if over and not kept.looks and kept in self._all:
            self._release(kept)

    def _release(self, kept: KeptSandbox) -> None:
        self._all.remove(kept)
        task = asyncio.create_task(kept.leased.release(dirty=True))
        self._releasing.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._releasing.discard)
