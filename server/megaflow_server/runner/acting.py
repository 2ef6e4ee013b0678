"""An agent's own code: whatever it raises is its failure, and ends neither its attempt's task nor the runner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["AgentRaised", "agents_code"]


class AgentRaised(Exception):
    """An agent raised what ends programs, event loops or tasks; that is the cause."""


@contextmanager
def agents_code() -> Iterator[None]:
    """Runs an agent's code.

    Raises:
        AgentRaised: it raised SystemExit, KeyboardInterrupt, or a CancelledError though nobody cancels the attempt: as
            by awaiting a task of its own that was cancelled.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        attempt = asyncio.current_task()
        if attempt is not None and attempt.cancelling():
            raise
        raise AgentRaised(f"{type(error).__name__}: {error}") from error
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentRaised(f"{type(error).__name__}: {error}") from error
