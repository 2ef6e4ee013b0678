"""Which runners' leases have run out, as one observer sees it.

A lease has no moment at which it ends, only a number that each renewal counts up. Who watches it measures with a
monotonic clock of its own for how long that number has stood still. So it does not matter whether clocks agree or
jump, and an orchestrator that was just started gives every runner its full time.

A runner counts from the sending of the last renewal that was answered, and stops all it does after `RUNNER_STOPS`.
An observer counts from when it saw that renewal, which is later, and waits `EXPIRES`: what is then given to another
runner, nobody executes any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from megaflow_server.orchestrator.records import HELD, Runner

__all__ = ["EXPIRES", "RENEW", "RUNNER_STOPS", "LeaseWatch"]

# Seconds.
RENEW: Final = 8.0
RUNNER_STOPS: Final = 25.0
EXPIRES: Final = 30.0


class LeaseWatch:
    """One observer's view of every lease."""

    def __init__(self, expires: float = EXPIRES) -> None:
        self._expires = expires
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, runners: Iterable[Runner], now: float) -> list[Runner]:
        """Those whose lease has run out, from every runner that there is, at a moment of a monotonic clock."""
        seen: dict[str, tuple[int, float]] = {}
        expired = []
        for runner in runners:
            renewals, since = self._seen.get(runner.id, (-1, now))
            if renewals != runner.renewals:
                since = now
            seen[runner.id] = (runner.renewals, since)
            # One that is lost already: whoever began to free what it held did not come to the end.
            if runner.state not in HELD or now - since >= self._expires:
                expired.append(runner)
        self._seen = seen
        return expired
