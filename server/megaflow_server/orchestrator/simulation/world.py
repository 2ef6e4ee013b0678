"""Virtual time: what is to happen, in order, and a trace of what did."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable

__all__ = ["World"]

# Any moment, so that nothing works only because time begins at 0.
BEGIN = 1_000_000.0


class World:
    """A clock that goes from one thing to happen to the next.

    Attributes:
        now: seconds.
        random: the only source of chance.
        lines: the trace, where it is kept.
    """

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.now = BEGIN
        self.random = random.Random(seed)
        self.lines: list[str] | None = [] if keep else None
        self._hash = hashlib.blake2b(digest_size=8)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Have something happen `delay` seconds from now; of one moment, what was asked for first."""
        heapq.heappush(self._agenda, (self.now + delay, next(self._numbers), action))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let happen what does before a moment, or until `done`, which is looked at after everything."""
        while self._agenda and self._agenda[0][0] <= until and not done():
            self.now, _, action = heapq.heappop(self._agenda)
            action()

    def say(self, what: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now - BEGIN:.6f} {what}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Of the trace so far."""
        return self._hash.hexdigest()
