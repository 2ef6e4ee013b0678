"""A runner's lease, on its own monotonic clock: when to renew it, and from when on nothing may run any more.

Sans-IO: whoever drives it says when a renewal was sent, and when it was answered.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Lease"]

# Between two tries of a renewal that was not answered; seconds.
_AGAIN = 1.0


class Lease:
    """One lease.

    A renewal counts from its sending: the orchestrator has seen it at some time after. So what this says is never
    later than what the orchestrator waits for.

    Args:
        sent: when the registration that gave it was sent.
        renew: seconds between renewals.
        stop: seconds after the sending of the last one that was answered, at which everything must have stopped.
    """

    def __init__(
        self, sent: float, *, renew: float, stop: float, clock: Callable[[], float]
    ) -> None:
        self._renew = renew
        self._stop = stop
        self._clock = clock
        self._held_from = sent
        self._next = sent + renew
        self.over = False

    @property
    def ends(self) -> float:
        """When it runs out, if no renewal is answered any more."""
        return self._held_from + self._stop

    @property
    def held(self) -> bool:
        """Whether anything may run. Once it may not, it never may again under this lease."""
        if not self.over and self._clock() >= self.ends:
            self.over = True
        return not self.over

    def wait(self) -> float:
        """Seconds until the next renewal is to be sent, or the lease runs out."""
        return max(0.0, min(self._next, self.ends) - self._clock())

    def patience(self) -> float:
        """Seconds that a renewal which is sent now may wait for its answer, so that another can follow."""
        return max(0.1, min(self._renew / 2, self.ends - self._clock()))

    def answered(self, sent: float) -> None:
        """A renewal that was sent then was answered. One that comes after the end changes nothing."""
        if self.held:
            self._held_from = max(self._held_from, sent)
            self._next = sent + self._renew

    def failed(self) -> None:
        """A renewal was not answered."""
        self._next = self._clock() + _AGAIN

    def lose(self) -> None:
        """The orchestrator knows of no such lease."""
        self.over = True
