"""How long to wait before asking again; no input or output."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from time import time

__all__ = ["retry_after", "wait"]

_FIRST = 0.25
_LONGEST = 20.0


def wait(attempt: int, told: float | None, draw: random.Random) -> float:
    """Seconds before attempt `attempt + 1`: exponential with full jitter, and never less than was told."""
    drawn = draw.uniform(0, min(_LONGEST, _FIRST * 2 ** (attempt - 1)))
    return drawn if told is None else max(told, 0.0) + drawn


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None for neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except ValueError:
        return None
