"""What is in a pool and how much of it is meant to be there: what its decisions go by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from megaflow_server.pool.breaker import Breaker
from megaflow_server.pool.choice import Choice
from megaflow_server.pool.demand import Demand
from megaflow_server.pool.members import Claim, Members
from megaflow_server.pool.shared import Room
from megaflow_server.templates import Mode, PoolSize

__all__ = ["Counts"]


class Counts:
    """Instances, who waits for one, and what has been learnt of both; `clock` gives seconds."""

    def __init__(self, size: PoolSize, mode: Mode, room: Room, clock: Callable[[], float]) -> None:
        self.size = size
        self.members = Members(room)
        self.claims: deque[Claim] = deque()
        self.breaker = Breaker(clock)
        self.choice = Choice(mode)
        self.demand = Demand(size, clock)
        self._room = room

    @property
    def waiting(self) -> int:
        """How many claims there is no instance for yet."""
        return len(self.claims)

    @property
    def alive(self) -> int:
        """How many take room: all but those that are ending."""
        return self.members.alive

    @property
    def wanted(self) -> int:
        """How many are meant to wait."""
        busy = self.members.count("leased") + len(self.claims)
        wanted = self.demand.wanted(self.choice.create_seconds)
        return max(0, min(wanted, self.size.max - busy))

    @property
    def intended(self) -> int:
        """How many there are meant to be."""
        busy = self.members.count("leased", "resetting") + len(self.claims)
        return min(self.size.max, busy + self.wanted)

    @property
    def short(self) -> bool:
        """Whether somebody waits whose instance is not on its way yet, and may be."""
        coming = self.members.count("creating", "resetting")
        can = self.alive < self.size.max and not self.breaker.is_open
        return can and len(self.claims) > coming

    @property
    def starved(self) -> bool:
        """Whether somebody waits for lack of room alone."""
        return self.short and self._room.is_full

    @property
    def is_lacking(self) -> bool:
        """Whether fewer are there, or coming, than are needed and are meant to wait."""
        supply = self.members.count("creating", "ready", "resetting")
        return supply < len(self.claims) + self.wanted
