"""What an orchestrator counts of its own doing, since it started."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Final

__all__ = ["BOUNDS", "Figures", "Histogram"]

# Seconds; from what a transaction takes to what a task waits.
BOUNDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0)


class Histogram:
    """How many observations lie at or below each of `BOUNDS`, and above them all; their sum. Of one thread."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


@dataclass
class Figures:
    """Counters and histograms.

    Attributes:
        claims: attempts that were given to runners.
        expired: runners whose lease ran out.
        fenced: reports that were refused, because a newer attempt or an end came first.
        started: from a task's queueing to its claim.
        claiming: from a claim that was carried out at once to its answer.
        transactions: of the store, with their commit.
    """

    claims: int = 0
    expired: int = 0
    fenced: int = 0
    started: Histogram = field(default_factory=Histogram)
    claiming: Histogram = field(default_factory=Histogram)
    transactions: Histogram = field(default_factory=Histogram)
