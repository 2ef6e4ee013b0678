"""Attributes and methods beyond gymnasium's, for `call`, `get_attr` and `set_attr`."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.counter import CounterEnv

__all__ = ["MembersEnv"]


class MembersEnv(CounterEnv):
    """Has methods and attributes of every kind."""

    def __init__(self, start: int = 0, render_mode: str | None = None) -> None:
        super().__init__(goal=4, start=start, render_mode=render_mode)
        self.mass = 1.5
        self.label = f"member {start}"
        self.table = {"array": np.arange(3, dtype=np.int16), "pair": (1, [2, None])}
        self.nothing = None
        self._secret = 7

    @property
    def double(self) -> float:
        """Twice the mass."""
        return 2 * self.mass

    def echo(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What it was called with."""
        return args, kwargs

    def weigh(self, factor: float, *, offset: float = 0.0) -> float:
        """A number of the mass."""
        return self.mass * factor + offset

    def bump(self) -> int:
        """Counts its own calls."""
        self.bumps = getattr(self, "bumps", 0) + 1
        return self.bumps

    def draw(self) -> float:
        """A number from `np_random`, whose state this advances."""
        return float(self.np_random.random())
