"""Environments that go wrong, each in its own way."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np

from zoo.counter import CounterEnv

__all__ = [
    "KilledEnv",
    "PrintingEnv",
    "RaisingEnv",
    "StrictEnv",
    "UnencodableEnv",
    "ZooError",
    "ZooKeyError",
]


class ZooError(Exception):
    """An exception class that a client need not be able to import."""

    def __init__(self, animal: str, legs: int) -> None:
        super().__init__(animal, legs)
        self.animal, self.legs = animal, legs

    def __str__(self) -> str:
        return f"{self.animal} with {self.legs} legs"


class ZooKeyError(KeyError):
    """A subclass of a builtin exception, which is not that builtin."""


def _raise(kind: str) -> None:
    if kind == "ValueError":
        raise ValueError("the bars are bent", 3, ("nested", 1.5))
    if kind == "KeyError":
        raise KeyError("missing animal")
    if kind == "InvalidAction":
        raise gym.error.InvalidAction("the keeper refuses")
    if kind == "ResetNeeded":
        raise gym.error.ResetNeeded("wake it first")
    if kind == "ZeroDivisionError":
        divisor = 0
        divisor = 1 // divisor
    if kind == "FileNotFoundError":
        raise FileNotFoundError(2, "No such cage", "/zoo/cage")
    if kind == "UnicodeDecodeError":
        b"\xff".decode("utf-8")
    if kind == "NoArguments":
        raise RuntimeError
    if kind == "Unencodable":
        raise ValueError(object())
    if kind == "Custom":
        raise ZooError("heron", 2)
    if kind == "CustomKeyError":
        raise ZooKeyError("a key of our own")
    if kind == "Chained":
        try:
            raise KeyError("the first")
        except KeyError as first:
            raise ValueError("the second") from first
    raise AssertionError(f"unknown kind {kind!r}")


class RaisingEnv(CounterEnv):
    """Raises one kind of exception in one place.

    Args:
        place: "init", "reset", "step", "render", "close" or "method" (`lift_the_latch`).
        kind: which exception; see `_raise`.
        at: the step that raises, from 1; others do not. 0: every step.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        place: str = "step",
        kind: str = "ValueError",
        at: int = 0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(goal=1000, render_mode=render_mode)
        self._place, self._kind, self._at = place, kind, at
        self._spring("init")

    def _spring(self, place: str) -> None:
        if place == self._place:
            _raise(self._kind)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if not (options and options.get("safe")):
            self._spring("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        if self._at in (0, self._steps):
            self._spring("step")
        return result

    def lift_the_latch(self) -> str:
        """Raises where `place` is "method"."""
        self._spring("method")
        return "lifted"

    def render(self) -> Any:
        self._spring("render")
        return np.zeros((2, 2, 3), np.uint8)

    def close(self) -> None:
        """Raises once: what closes it again, down to the garbage collector, is left alone."""
        closing, self._place = self._place == "close", ""
        if closing:
            _raise(self._kind)


class UnencodableEnv(CounterEnv):
    """Puts an object that no wire takes at info["outer"][1]["inner"], in `reset` or in `step`."""

    def __init__(self, place: str = "step") -> None:
        super().__init__(goal=1000)
        self._place = place

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        if self._place == "reset" and not (options and options.get("safe")):
            info["outer"] = [0, {"inner": object()}]
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._place == "step" and action == 2:
            info["outer"] = [0, {"inner": object()}]
        return observation, reward, terminated, truncated, info

    def cage(self) -> object:
        """Returns an object that no wire takes."""
        return object()


class KilledEnv(CounterEnv):
    """Kills its own process with SIGKILL at a given step of an episode.

    Args:
        at: the step, from 1; 0: never. -1: in `reset`.
        once: a path; it kills only where this file is not there yet, and leaves it. "" kills each time.
    """

    def __init__(self, at: int = 1, once: str = "", goal: int = 50, start: int = 0) -> None:
        super().__init__(goal=goal, start=start)
        self._at, self._once = at, once

    def _kill(self) -> None:
        if self._once:
            if os.path.exists(self._once):
                return
            with open(self._once, "x"):
                pass
        os.kill(os.getpid(), signal.SIGKILL)

    def process(self) -> int:
        """The id of the process that it lives in."""
        return os.getpid()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self._at == -1:
            self._kill()
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._steps + 1 == self._at:
            self._kill()
        return super().step(action)


class PrintingEnv(CounterEnv):
    """Prints a line to each of stdout and stderr at each step; at `raise_at` it raises after that."""

    def __init__(self, raise_at: int = 0) -> None:
        super().__init__(goal=1000)
        self._raise_at = raise_at

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        print(f"zoo: step {self._steps} on stdout", flush=True)
        print(f"zoo: step {self._steps} on stderr", file=sys.stderr, flush=True)
        if self._steps == self._raise_at:
            raise RuntimeError("printed enough")
        return result


class StrictEnv(CounterEnv):
    """Refuses an action outside of its space, as gymnasium's own environments do."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"{action!r} ({type(action)}) invalid")
        return super().step(action)
