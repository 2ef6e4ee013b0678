"""Waiting for news: something may have changed, so whoever waits should look."""

from __future__ import annotations

import asyncio

__all__ = ["Bell"]


class Bell:
    """Wakes all who wait, at most once in so many seconds; of one event loop.

    Attributes:
        rung: how often it was, so that who looks first and waits then misses nothing.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.rung = 0
        self._pause = pause
        self._last = float("-inf")
        self._later: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Event | None = None

    def ring(self) -> None:
        """Wake all, now or once the pause is over."""
        if self._later is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._last + self._pause - loop.time()
        if wait > 0:
            self._later = loop.call_later(wait, self._ring)
        else:
            self._ring()

    def _ring(self) -> None:
        self._later = None
        self._last = asyncio.get_running_loop().time()
        self.rung += 1
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    async def wait(self, seen: int, timeout: float) -> None:
        """Until it was rung since it had been rung `seen` times, or so many seconds have passed."""
        if self.rung != seen or timeout <= 0:
            return
        if self._waiting is None:
            self._waiting = asyncio.Event()
        waiting = self._waiting
        try:
            async with asyncio.timeout(timeout):
                await waiting.wait()
        except TimeoutError:
            return
