"""What the pools of a server have between them: who may create, how many there may be, and whether anybody waits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CREATIONS", "Room", "Shortage", "Throttle"]

# Creations at once, by default: an engine on few processors is busy with these.
CREATIONS = 4


@dataclass
class Throttle:
    """How many creations there are at once on a backend: more of them only make each slower."""

    most: int = CREATIONS
    count: int = 0

    @property
    def is_free(self) -> bool:
        return self.count < self.most

    def take(self) -> bool:
        """Whether another may begin now; it has begun, then."""
        if not self.is_free:
            return False
        self.count += 1
        return True

    def give(self) -> None:
        """A creation has ended."""
        self.count -= 1


@dataclass
class Room:
    """How many instances of a template there are, of all its images, those that are ending not counted."""

    most: int
    taken: int = 0

    @property
    def is_full(self) -> bool:
        return self.taken >= self.most


@dataclass
class Shortage:
    """In how many pools somebody waits whose instance is not on its way yet, and may be."""

    count: int = 0
