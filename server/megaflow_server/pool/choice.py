"""Whether an instance is used again: as its template says, or whichever has been quicker."""

from __future__ import annotations

from megaflow_server.templates import Mode

__all__ = ["Choice"]

# The weight of the newest of what was measured.
_NEWEST = 0.3
# Where using it again has been the slower, it is tried again every so many sessions: things change.
_AGAIN = 20


class Choice:
    """Running means of what creating and resetting take, and of how often a reset does not restore.

    Attributes:
        create_seconds, reset_seconds: None before the first.
        spoiled: the share of resets after which an instance could not be used.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self.create_seconds: float | None = None
        self.reset_seconds: float | None = None
        self.spoiled = 0.0
        self._thrown_away = 0

    @property
    def mode(self) -> str:
        """ "ephemeral" or "persistent", as it stands."""
        if self._mode != "auto":
            return self._mode
        return "persistent" if self._is_quicker() else "ephemeral"

    @property
    def compares(self) -> bool:
        """Whether what a fresh instance is like has to be known at all."""
        return self._mode != "ephemeral"

    def never_again(self) -> None:
        """No instance is used again from now on, whatever the template says."""
        self._mode = "ephemeral"

    def reuse(self) -> bool:
        """Whether the instance of a session that has just ended is to be reset; counts as a decision."""
        if self.mode == "persistent":
            return True
        if self._mode == "ephemeral":
            return False
        self._thrown_away += 1
        return self._thrown_away % _AGAIN == 0

    def created(self, seconds: float) -> None:
        self.create_seconds = _mean(self.create_seconds, seconds)

    def was_reset(self, seconds: float, *, restored: bool) -> None:
        self.reset_seconds = _mean(self.reset_seconds, seconds)
        self.spoiled += _NEWEST * ((not restored) - self.spoiled)

    def _is_quicker(self) -> bool:
        """Unknown counts as quicker: that is how it becomes known."""
        if self.create_seconds is None or self.reset_seconds is None:
            return True
        return self.reset_seconds + self.spoiled * self.create_seconds < self.create_seconds


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
