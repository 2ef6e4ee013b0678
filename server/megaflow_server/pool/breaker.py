"""Stops creation where it keeps failing, and says why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["OPEN_SECONDS", "Breaker"]

# How long nothing is created once more than half of at least so many creations have failed; seconds.
OPEN_SECONDS = 30.0
_AT_LEAST = 5
# What is looked at: so many creations at most, none older than so many seconds.
_MOST, _WINDOW = 20, 60.0
# After a failure that does not open it, before the next try; seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Breaker:
    """The outcomes of creations; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_MOST)
        self._open_until = 0.0
        self._half_open = False
        self._next_try = 0.0
        self._pause = 0.0
        self.fault = ""

    @property
    def is_open(self) -> bool:
        return self._clock() < self._open_until

    @property
    def remaining(self) -> float:
        """Seconds until it closes."""
        return max(0.0, self._open_until - self._clock())

    @property
    def why(self) -> str | None:
        """Why nothing is created; None while it is closed."""
        if not self.is_open:
            return None
        return (
            f"creation has stopped for {self.remaining:.0f} s, since it kept failing: {self.fault}"
        )

    def allows(self, creating: int) -> bool:
        """Whether another may be created beside those that are under way: one alone to find out."""
        now = self._clock()
        if now < self._open_until or now < self._next_try:
            return False
        return not self._half_open or creating == 0

    def due(self) -> float:
        """When it may allow what it does not allow now; inf where it does."""
        later = max(self._open_until, self._next_try)
        return later if later > self._clock() else float("inf")

    def succeeded(self) -> None:
        self._half_open = False
        self._pause = 0.0
        self._outcomes.append((self._clock(), True))

    def failed(self, fault: str) -> bool:
        """Take down a failure; whether that opens it."""
        now = self._clock()
        self.fault = fault
        self._outcomes.append((now, False))
        recent = [good for at, good in self._outcomes if at >= now - _WINDOW]
        many = len(recent) >= _AT_LEAST and 2 * recent.count(False) > len(recent)
        if many or self._half_open:
            self._outcomes.clear()
            self._open_until = now + OPEN_SECONDS
            self._half_open = True
            self._pause = 0.0
            return True
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._next_try = now + self._pause
        return False
