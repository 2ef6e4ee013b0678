"""How fast calls may begin; no input or output."""

from __future__ import annotations

import math
from collections.abc import Callable

from megaflow.errors import InvalidArgument, ResourceExhausted

__all__ = ["Rate"]

# Of what may begin in a minute, what may begin at once.
_BURST = 0.1


class Rate:
    """So many calls a minute, of which a tenth, and one at least, may come in one burst.

    Args:
        whose: as errors name it, such as `tenant a`.
        clock: seconds; monotonic.
    """

    def __init__(self, whose: str, per_minute: float, clock: Callable[[], float]) -> None:
        if not (math.isfinite(per_minute) and per_minute > 0):
            raise InvalidArgument(f"per_minute = {per_minute!r}: give more than 0")
        self.whose = whose
        self._per_minute = per_minute
        self._most = max(1.0, per_minute * _BURST)
        self._clock = clock
        self._free = self._most
        self._counted = clock()

    def take(self) -> None:
        """A call begins; ResourceExhausted where that is too fast, with when to come back."""
        now = self._clock()
        self._free = min(self._most, self._free + (now - self._counted) * self._per_minute / 60)
        self._counted = now
        # What a sum of parts is short of 1 by is no reason to wait.
        if self._free < 1 - 1e-9:
            raise ResourceExhausted(
                f"{self.whose} may begin {self._per_minute:g} calls a minute",
                retry_after=(1 - self._free) * 60 / self._per_minute,
            )
        self._free -= 1
