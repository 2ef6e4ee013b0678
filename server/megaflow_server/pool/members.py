"""What a pool counts: its instances, and who waits for one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from megaflow_server.pool.shared import Room

__all__ = ["Claim", "Member", "Members", "Where"]

Where = Literal["creating", "ready", "leased", "resetting", "ending"]


@dataclass
class Member:
    """An instance.

    Attributes:
        since: when it came to where it is.
        sessions: how many it has had.
        wanted: False where it is to be destroyed as soon as it has been created or reset.
    """

    id: str
    where: Where
    since: float
    sessions: int = 0
    wanted: bool = True


@dataclass(frozen=True)
class Claim:
    """Somebody who waits for an instance, until `deadline`."""

    number: int
    owner: str
    arrived: float
    deadline: float


class Members:
    """The instances of a pool, by id, in the order in which they were made.

    Args:
        room: what those take that are not ending.
    """

    def __init__(self, room: Room) -> None:
        self.by_id: dict[str, Member] = {}
        self._room = room
        self._counts: Counter[Where] = Counter()

    @property
    def alive(self) -> int:
        """How many take room."""
        return len(self.by_id) - self._counts["ending"]

    def add(self, member: Member) -> None:
        self.by_id[member.id] = member
        self._count(member.where, 1)

    def move(self, member: Member, where: Where, now: float) -> None:
        self._count(member.where, -1)
        member.where, member.since = where, now
        self._count(where, 1)

    def drop(self, instance: str) -> None:
        """It is gone; one that is not there is fine."""
        member = self.by_id.pop(instance, None)
        if member is not None:
            self._count(member.where, -1)

    def count(self, *where: Where) -> int:
        return sum(self._counts[one] for one in where)

    def at(self, where: Where) -> list[Member]:
        if not self._counts[where]:
            return []
        return [one for one in self.by_id.values() if one.where == where]

    def oldest(self, where: Where) -> Member | None:
        """The one that has been there for longest."""
        return min(self.at(where), key=lambda one: one.since, default=None)

    def find(self, instance: str, *where: Where) -> Member | None:
        """The one of this id, if it is there."""
        found = self.by_id.get(instance)
        return found if found is not None and found.where in where else None

    def _count(self, where: Where, change: int) -> None:
        self._counts[where] += change
        if where != "ending":
            self._room.taken += change
