"""Environments that take their time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zoo.counter import CounterEnv

__all__ = ["GatedEnv", "SleepingEnv"]


class SleepingEnv(CounterEnv):
    """Sleeps in `step` and `reset`.

    Args:
        duration: seconds of each step.
        reset_duration: seconds of each reset.
    """

    def __init__(
        self, duration: float = 0.0, reset_duration: float = 0.0, goal: int = 5, start: int = 0
    ) -> None:
        super().__init__(goal=goal, start=start)
        self._duration, self._reset_duration = duration, reset_duration

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        time.sleep(self._reset_duration)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self._duration)
        return super().step(action)


class GatedEnv(CounterEnv):
    """Waits until a file is there, so that no test needs to guess a duration.

    It waits in `step`, in `hold`, and in a `reset` with the option "wait".

    Args:
        gate: the file's path; "" waits for nothing.
        patience: seconds after which it raises TimeoutError, so that a forgotten gate ends.
    """

    def __init__(self, gate: str = "", patience: float = 30.0, goal: int = 5) -> None:
        super().__init__(goal=goal)
        self._gate, self._patience = gate, patience

    def hold(self) -> str:
        """Waits for the gate."""
        end = time.monotonic() + self._patience
        while self._gate and not Path(self._gate).exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{self._gate} did not open within {self._patience} s")
            time.sleep(0.002)
        return "open"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if options is not None and options.get("wait"):
            self.hold()
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.hold()
        return super().step(action)
