"""Environments whose infos hold every kind of value, on some steps and not on others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

from zoo.base import Drawn, digest

__all__ = ["EveryStepInfosEnv", "InfosEnv"]


def _number(rng: np.random.Generator) -> Any:
    """A small number of a random type: the first one in a batch decides the batch's dtype."""
    value = int(rng.integers(0, 100))
    kinds = (int, float, np.float32, np.float64, np.int8, np.uint16, np.int64, np.float16)
    kind = kinds[rng.integers(len(kinds))]
    return kind(value + 0.5) if kind in (float, np.float32, np.float64) else kind(value)


def _thing(rng: np.random.Generator) -> Any:
    """A value that batches into an object array, whichever sub-environment comes first."""
    n = int(rng.integers(0, 50))
    things = (
        None,
        f"text {n}",
        "",
        ["list", n, [n, None]],
        (n, "tuple", (1.5, np.float32(n))),
        b"bytes",
        np.str_("numpy text"),
        np.bool_(n % 2 == 0),
        2**70 + n,
    )
    # A number beyond 64 bits cannot be a batch's first value: numpy has no dtype for it.
    thing = things[rng.integers(len(things))]
    return [thing] if isinstance(thing, int) else thing


def _array(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    dtype = (np.float32, np.float64, np.int16, np.uint8)[rng.integers(4)]
    return rng.integers(0, 100, (2, 2)).astype(dtype)


def _nested(rng: np.random.Generator) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    if rng.random() < 0.6:
        nested["number"] = _number(rng)
    if rng.random() < 0.6:
        nested["deeper"] = {"thing": _thing(rng), "array": _array(rng)}
    if rng.random() < 0.3:
        nested["deeper still"] = {"empty": {}}
    return nested


def draw(rng: np.random.Generator, chance: float) -> dict[str, Any]:
    """An info in which each key is there with that chance."""
    info: dict[str, Any] = {}
    if rng.random() < chance:
        info["number"] = _number(rng)
    if rng.random() < chance:
        info["flag"] = bool(rng.random() < 0.5)
    if rng.random() < chance:
        info["count"] = int(rng.integers(-1000, 1000))
    if rng.random() < chance:
        info["ratio"] = float(rng.random())
    if rng.random() < chance:
        info["thing"] = _thing(rng)
    if rng.random() < chance:
        info["array"] = _array(rng)
    if rng.random() < chance:
        info["text array"] = np.array(["abc", "de"])
    if rng.random() < chance:
        info["scalar array"] = np.array(rng.random(), np.float32)
    if rng.random() < chance:
        info["nested"] = _nested(rng)
    if rng.random() < chance:
        info["_underscore"] = np.float32(rng.random())
    return info


class InfosEnv(Drawn):
    """Infos at random, on `reset` too; `options` come back in the info as they arrived."""

    metadata: dict[str, Any] = {"render_modes": []}
    chance = 0.3

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space: gym.Space[Any] = Discrete(1000)
        self.action_space: gym.Space[Any] = Discrete(3)
        self.render_mode = render_mode

    def _observe(self) -> np.int64:
        return np.int64(self.np_random.integers(1000))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._begin(seed)
        info = draw(self.np_random, self.chance)
        if options:
            info["options"] = dict(options)
        return self._observe(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        info = draw(self.np_random, self.chance)
        terminated, truncated = self._end()
        return self._observe(), digest(action), terminated, truncated, info


class EveryStepInfosEnv(InfosEnv):
    """Every key on every step, so that every sub-environment's type meets every other's."""

    chance = 1.0
