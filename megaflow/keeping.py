"""What becomes of an environment's sandbox when its session is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from megaflow.errors import InvalidArgument

__all__ = ["KEEP_FOR", "Episode", "Keep", "Keeping"]

# Which sandboxes outlive their sessions: none, those of episodes that failed, or all.
Keep = Literal["none", "failed", "all"]
# Seconds for which they do; and at most.
KEEP_FOR = 3600.0
_MOST = 86400.0


@dataclass(frozen=True)
class Keeping:
    """The arguments `keep` and `keep_for`."""

    which: Keep = "none"
    seconds: float = KEEP_FOR

    @staticmethod
    def checked(keep: Keep, keep_for: float) -> Keeping:
        """Raises InvalidArgument, naming the one that cannot be."""
        if keep not in get_args(Keep):
            raise InvalidArgument(f"keep={keep!r}: choose among {', '.join(get_args(Keep))}")
        return Keeping(keep, kept_seconds("keep_for", keep_for))

    def wants(self, episode: Episode) -> bool:
        """Whether the sandbox of an episode is kept."""
        return self.which == "all" or (self.which == "failed" and episode.failed)

    def as_kwargs(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        given: dict[str, Any] = {"keep": self.which} if self.which != "none" else {}
        return given | ({"keep_for": self.seconds} if self.seconds != KEEP_FOR else {})


class Episode:
    """Whether an episode failed, as far as its client sees.

    Attributes:
        failed: it raised or was lost, its outcome is not valid, or it ended with rewards that come to 0 or less.
    """

    def __init__(self) -> None:
        self.failed = False
        self._total = 0.0

    def step(self, reward: Any, info: Any, *, over: bool) -> None:
        """Take a step down."""
        self._total += float(reward)
        if over:
            # Where there is no reward it is nan, which is not above 0 either.
            self.failed = _is_invalid(info) or not self._total > 0


def _is_invalid(info: Any) -> bool:
    return isinstance(info, dict) and (info.get("valid") is False or bool(info.get("lost")))


def kept_seconds(name: str, seconds: float) -> float:
    """Raises InvalidArgument where sandboxes are not kept for so long."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= _MOST:
        raise InvalidArgument(f"{name}={seconds!r}: takes seconds above 0, and {_MOST:g} at most")
    return float(seconds)
