"""What most of the zoo's environments share: random ends, and a reward that shows what arrived."""

from __future__ import annotations

import zlib
from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["Drawn", "digest"]

# An episode shorter than this would end within the first steps of `gymnasium.utils.env_checker`.
_SHORTEST = 4


def _describe(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype.str} {value.shape} ".encode() + value.tobytes()
    if isinstance(value, np.generic):
        return f"{type(value).__name__} ".encode() + value.tobytes()
    if isinstance(value, dict):
        return b"dict " + b"".join(repr(key).encode() + _describe(value[key]) for key in value)
    if isinstance(value, (tuple, list)):
        return type(value).__name__.encode() + b" " + b"".join(_describe(item) for item in value)
    return f"{type(value).__name__} {value!r}".encode()


def digest(value: Any) -> float:
    """A number in [0, 1) of a value's types, dtypes, shapes, order and content, all of them exactly.

    An environment that puts this into its reward shows whether the action that reached it is the one
    that was sent.
    """
    return zlib.crc32(_describe(value)) / 2**32


class Drawn(gym.Env[Any, Any]):
    """Ends episodes at random, from `np_random`: an autoreset that reseeds it shows in what follows."""

    ending = 0.05

    def _begin(self, seed: int | None) -> None:
        super().reset(seed=seed)
        self._elapsed = 0

    def _end(self) -> tuple[bool, bool]:
        """(terminated, truncated), and sometimes both."""
        self._elapsed += 1
        terminated, truncated = self.np_random.random(2) < self.ending
        long_enough = self._elapsed >= _SHORTEST
        return bool(terminated and long_enough), bool(truncated and long_enough)
