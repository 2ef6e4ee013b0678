"""How many instances should wait: the template's numbers, what is claimed, and what was announced."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from megaflow_server.templates import PoolSize

__all__ = ["ANNOUNCED_SECONDS", "KEPT_SECONDS", "Demand"]

# How long an announcement counts, claims or none; seconds.
ANNOUNCED_SECONDS = 600.0
# How long instances wait on once nobody claims any; seconds.
KEPT_SECONDS = 300.0
# Claims of the last so many seconds say how many are to be expected.
_WINDOW = 30.0
# So many times what is expected while one is created: arrivals come in bunches.
_SPARE = 1.5


class Demand:
    """Claims and announcements; `clock` gives seconds."""

    def __init__(self, size: PoolSize, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self._claims: deque[float] = deque(maxlen=4096)
        self._last = -math.inf
        # By who announced, and for what: how many are still to come, and until when.
        self._announced: dict[tuple[str, str], tuple[int, float]] = {}

    def claimed(self, owner: str) -> None:
        now = self._clock()
        self._claims.append(now)
        self._last = now
        first = next((name for name in self._announced if name[0] == owner), None)
        if first is not None:
            left, until = self._announced[first]
            self._announced[first] = (left - 1, until)
            if left <= 1:
                del self._announced[first]

    def announce(self, owner: str, count: int, purpose: str = "") -> None:
        """So many claims are to come, in place of what this owner announced for that purpose before."""
        self._announced.pop((owner, purpose), None)
        if count > 0:
            self._announced[owner, purpose] = (count, self._clock() + ANNOUNCED_SECONDS)

    def wanted(self, create_seconds: float | None) -> int:
        """How many should wait now; the caller knows how many there may be."""
        now = self._clock()
        self._announced = {name: one for name, one in self._announced.items() if one[1] > now}
        while self._claims and self._claims[0] <= now - _WINDOW:
            self._claims.popleft()
        wanted = self._size.min
        if now < self._last + KEPT_SECONDS or self._announced:
            wanted = max(wanted, self._size.target)
        if create_seconds is not None and len(self._claims) > 1:
            rate = len(self._claims) / _WINDOW
            wanted = max(wanted, math.ceil(_SPARE * rate * create_seconds))
        return max(wanted, sum(left for left, _ in self._announced.values()))

    def due(self) -> float:
        """When `wanted` may change by itself."""
        ends = [until for _, until in self._announced.values()]
        if self._claims:
            ends.append(self._claims[0] + _WINDOW)
        if self._last + KEPT_SECONDS > self._clock():
            ends.append(self._last + KEPT_SECONDS)
        return min(ends, default=math.inf)
