"""Rendering without a display or a drawing library."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.counter import CounterEnv

__all__ = ["RenderingEnv"]


class RenderingEnv(CounterEnv):
    """Frames that show the step and the instance, as pixels (8 by 12) or as text."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 20}

    def __init__(self, goal: int = 5, start: int = 0, render_mode: str | None = None) -> None:
        super().__init__(goal=goal, start=start, render_mode=render_mode)

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"step {self._steps} of {self._goal}, start {self._start}\n"
        if self.render_mode == "rgb_array":
            frame = np.zeros((8, 12, 3), np.uint8)
            frame[:, self._steps % 12] = (255, 10 * self._steps % 256, 7 * self._start % 256)
            return frame
        return None
