"""One environment for each kind of space, as observation and as action."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)

from zoo.base import Drawn, digest

__all__ = ["KINDS", "DifferingEnv", "MisfitEnv", "SpaceEnv"]


def _unit(*shape: int, dtype: Any = np.float32) -> Box:
    return Box(-1.0, 1.0, shape, dtype)


def _text(max_length: int) -> Text:
    # gymnasium 1.2 keeps its default characters in a set, whose order, and with it every sample, is
    # another one in each process.
    return Text(max_length, charset="abcdefg")


def _nested() -> Dict:
    return Dict(
        {
            "z first": Dict({"image": Box(0, 255, (3, 4, 3), np.uint8), "flag": Discrete(2)}),
            "a second": Tuple((_unit(2), Dict({"inner": Tuple((MultiBinary(3),))}), Discrete(3))),
            "text": _text(4),
        }
    )


KINDS: dict[str, Callable[[], gym.Space[Any]]] = {
    "Box": lambda: _unit(3),
    "BoxImage": lambda: Box(0, 255, (9, 7, 3), np.uint8),
    "BoxFloat16": lambda: _unit(4, dtype=np.float16),
    "BoxFloat64": lambda: _unit(2, 2, dtype=np.float64),
    "BoxInt8": lambda: Box(-128, 127, (2, 3), np.int8),
    "BoxInt64": lambda: Box(-(2**40), 2**40, (2,), np.int64),
    "BoxScalar": lambda: _unit(),
    "BoxBounds": lambda: Box(
        np.array([-1.0, 0.0, -np.inf], np.float32), np.array([1.0, np.inf, np.inf], np.float32)
    ),
    "Discrete": lambda: Discrete(5),
    "DiscreteStart": lambda: Discrete(4, start=-7),
    "MultiDiscrete": lambda: MultiDiscrete(np.array([3, 5, 2])),
    "MultiDiscreteGrid": lambda: MultiDiscrete(
        np.array([[3, 4], [5, 6]], np.int32),
        dtype=np.int32,
        start=np.array([[0, -1], [2, 3]], np.int32),
    ),
    "MultiBinary": lambda: MultiBinary(6),
    "MultiBinaryGrid": lambda: MultiBinary((2, 3)),
    "Text": lambda: Text(8, min_length=0, charset="abcxyz äß✓"),
    "Dict": lambda: Dict({"position": _unit(2), "gripper": Discrete(2), "buttons": MultiBinary(3)}),
    "Tuple": lambda: Tuple((Discrete(3), _unit(2), MultiDiscrete([2, 3]))),
    "Nested": _nested,
    "Sequence": lambda: Sequence(_unit(2)),
    "SequenceStacked": lambda: Sequence(_unit(2), stack=True),
    "SequenceNested": lambda: Sequence(Dict({"key": _text(3), "number": Discrete(9)})),
    "Graph": lambda: Graph(node_space=_unit(3), edge_space=Discrete(4)),
    "GraphBoxEdges": lambda: Graph(node_space=Discrete(5), edge_space=_unit(2)),
    "GraphNoEdges": lambda: Graph(node_space=_unit(2), edge_space=None),
    "OneOf": lambda: OneOf((Discrete(3), _unit(2), _text(5), Dict({"a": MultiBinary(2)}))),
    "Deep": lambda: Dict(
        {
            "graphs": Tuple((Graph(_unit(2), Discrete(2)),)),
            "either": OneOf((_unit(1), Sequence(Discrete(3)))),
        }
    ),
}


def _graph_of_anything() -> Graph:
    return Graph(Dict({"at": _unit(2), "kind": Discrete(3)}), Tuple((Discrete(2), _unit(1))))


try:
    _graph_of_anything()
except AssertionError:
    pass  # gymnasium 1.2 takes Box and Discrete alone for nodes and edges.
else:
    KINDS["GraphOfAnything"] = _graph_of_anything


class SpaceEnv(Drawn):
    """Observes and acts in one kind of space; the reward is a digest of the action as it arrived.

    Args:
        kind: a key of `KINDS`.
        acts: another key for the action space; None: the same.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, kind: str, acts: str | None = None, render_mode: str | None = None) -> None:
        self.observation_space = KINDS[kind]()
        self.action_space = KINDS[kind if acts is None else acts]()
        self.render_mode = render_mode
        # A copy of its own: who samples from `observation_space` must not change what is observed.
        self._source = copy.deepcopy(self.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._begin(seed)
        self._source.seed(int(self.np_random.integers(2**31)))
        return self._source.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = self._end()
        return self._source.sample(), digest(action), terminated, truncated, {}


class DifferingEnv(Drawn):
    """Instances have bounds of their own, which is what `observation_mode="different"` is for."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, high: float = 1.0, render_mode: str | None = None) -> None:
        self.observation_space = Box(-high, high, (2,), np.float32)
        self.action_space = Discrete(2)
        self.render_mode = render_mode
        self._high = high

    def _observe(self) -> np.ndarray[Any, Any]:
        return self.np_random.uniform(-self._high, self._high, 2).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._begin(seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = self._end()
        return self._observe(), digest(action), terminated, truncated, {}


class MisfitEnv(DifferingEnv):
    """Instances whose shapes (`size`) or actions (`actions`) differ, which no mode can batch."""

    def __init__(self, size: int = 2, actions: int = 2, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = Discrete(actions)

    def _observe(self) -> np.ndarray[Any, Any]:
        shape = self.observation_space.shape
        return self.np_random.uniform(-1.0, 1.0, shape).astype(np.float32)
