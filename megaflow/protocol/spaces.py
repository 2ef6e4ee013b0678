"""Definitions of spaces, as bytes, and back: gymnasium itself has none, only pickle.

A definition is a value (see `values`): a dict with the space's `kind`, its class's name, and the fields below, in
which spaces are definitions again. What comes back is equal to what was sent, prints the same, and draws the same
samples from the same seed; the state of its random generator does not travel.

| kind | fields |
|---|---|
| Box | `shape`: list; `low`, `high`: arrays of its dtype, of no dimensions where all elements are the same; `bounded_below`, `bounded_above`: array of bools, or one bool for all; a numpy bool where a Box of no dimensions has one |
| Discrete | `n`, `start`: int; `dtype`: numpy's `dtype.str` |
| MultiBinary | `n`: int or tuple |
| MultiDiscrete | `nvec`, `start`: arrays of its dtype |
| Text | `min_length`, `max_length`: int; `charset`: str, in order |
| Tuple, OneOf | `spaces`: list |
| Dict | `spaces`: dict, in order; `sort_keys`: bool, what it does with the keys of a batch |
| Sequence | `feature_space`; `stack`: bool |
| Graph | `node_space`; `edge_space`, or None |

A definition holds at most 16,384 spaces and 128 Mi elements of bounds, nested up to 60 deep.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

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

from megaflow.errors import InvalidArgument
from megaflow.protocol import values
from megaflow.protocol._space_checks import FIELDS, MAX_NESTING, Malformed, check

__all__ = ["decode_space", "encode_space"]

_Array = np.ndarray[Any, Any]


# ---------------------------------------------------------------- encoding


def _compact(array: _Array) -> _Array:
    """An array of no dimensions where all elements are the same, bit for bit."""
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view(f"u{flat.itemsize}")
    return flat[:1].reshape(()) if flat.size and (bits == bits[0]).all() else array


def _flags(array: _Array | np.bool_) -> _Array | np.bool_ | bool:
    if isinstance(array, np.bool_):
        return array
    uniform = _compact(array)
    return uniform if uniform.ndim else bool(uniform)


def _box(space: Any, path: str, depth: int) -> dict[str, Any]:
    if space.dtype.itemsize > 8:
        raise InvalidArgument(
            f"{path}: a Box of dtype {space.dtype} is not on the wire; use float64"
        )
    return {
        "shape": list(space.shape),
        "low": _compact(space.low),
        "high": _compact(space.high),
        "bounded_below": _flags(space.bounded_below),
        "bounded_above": _flags(space.bounded_above),
    }


def _dict(space: Any, path: str, depth: int) -> dict[str, Any]:
    return {
        "spaces": {
            key: _define(part, f"{path}[{key!r}]", depth) for key, part in space.spaces.items()
        },
        "sort_keys": getattr(space, "sort_keys", True),  # gymnasium 1.2 always sorts
    }


def _list(space: Any, path: str, depth: int) -> dict[str, Any]:
    return {"spaces": [_define(part, f"{path}[{i}]", depth) for i, part in enumerate(space.spaces)]}


def _graph(space: Any, path: str, depth: int) -> dict[str, Any]:
    edge = space.edge_space
    return {
        "node_space": _define(space.node_space, f"{path}.node_space", depth),
        "edge_space": None if edge is None else _define(edge, f"{path}.edge_space", depth),
    }


_DEFINERS: Final[dict[type, Callable[[Any, str, int], dict[str, Any]]]] = {
    Box: _box,
    Discrete: lambda space, _path, _depth: {
        "n": int(space.n),
        "start": int(space.start),
        "dtype": space.dtype.str,
    },
    MultiBinary: lambda space, _path, _depth: {"n": space.n},
    MultiDiscrete: lambda space, _path, _depth: {"nvec": space.nvec, "start": space.start},
    Text: lambda space, _path, _depth: {
        "min_length": space.min_length,
        "max_length": space.max_length,
        "charset": "".join(space.character_list),
    },
    Tuple: _list,
    Dict: _dict,
    Sequence: lambda space, path, depth: {
        "feature_space": _define(space.feature_space, f"{path}.feature_space", depth),
        "stack": bool(space.stack),
    },
    Graph: _graph,
    OneOf: _list,
}


def _define(space: Any, path: str, depth: int) -> dict[str, Any]:
    """The definition of a space that is `depth` spaces deep."""
    definer = _DEFINERS.get(type(space))
    if definer is None:
        cls = f"{type(space).__module__}.{type(space).__qualname__}"
        raise InvalidArgument(
            f"{path}: {cls} cannot be described to another process; gymnasium's own {', '.join(FIELDS)} "
            "can, and no subclass of them"
        )
    if depth >= MAX_NESTING:
        raise InvalidArgument(f"{path}: spaces nested deeper than {MAX_NESTING}")
    return {"kind": type(space).__name__, **definer(space, path, depth + 1)}


def encode_space(space: gym.Space[Any], *, path: str = "space") -> bytes:
    """The definition of a space.

    Args:
        space: one of gymnasium's ten kinds, and no subclass.
        path: what to call the space in errors; those inside it are spelled `path['camera'][0]`.

    Raises:
        InvalidArgument: the space, or one inside it, is of another class, or exceeds the module's limits.
    """
    definition = _define(space, path, 0)
    try:
        check(definition, path)
    except Malformed as error:
        raise InvalidArgument(str(error)) from None
    return values.encode(definition, path=path)


# ---------------------------------------------------------------- decoding


def _build_box(node: dict[str, Any], path: str) -> Box:
    shape = tuple(node["shape"])
    low, high = (np.array(np.broadcast_to(node[name], shape)) for name in ("low", "high"))
    box = Box(low, high, shape, dtype=low.dtype)
    # An int Box is made from -inf as well, and remembers it here alone.
    for name in ("bounded_below", "bounded_above"):
        flag = node[name]
        if not isinstance(flag, np.bool_):
            flag = np.array(np.broadcast_to(flag, shape))
        setattr(box, name, flag)
    return box


def _build_dict(node: dict[str, Any], path: str) -> Dict:
    # Pairs, because gymnasium sorts the keys of a dict.
    parts: Any = [(key, _build(part, f"{path}[{key!r}]")) for key, part in node["spaces"].items()]
    space = Dict(parts)
    if hasattr(space, "sort_keys"):
        space.sort_keys = node["sort_keys"]
    return space


def _parts(node: dict[str, Any], path: str) -> list[gym.Space[Any]]:
    return [_build(part, f"{path}[{i}]") for i, part in enumerate(node["spaces"])]


def _build_graph(node: dict[str, Any], path: str) -> Graph:
    edge = node["edge_space"]
    return Graph(
        _build(node["node_space"], f"{path}.node_space"),
        None if edge is None else _build(edge, f"{path}.edge_space"),
    )


_BUILDERS: Final[dict[str, Callable[[dict[str, Any], str], gym.Space[Any]]]] = {
    "Box": _build_box,
    "Discrete": lambda node, _: Discrete(
        node["n"], start=node["start"], dtype=np.dtype(node["dtype"])
    ),
    "MultiBinary": lambda node, _: MultiBinary(node["n"]),
    "MultiDiscrete": lambda node, _: MultiDiscrete(
        node["nvec"], dtype=node["nvec"].dtype, start=node["start"]
    ),
    "Text": lambda node, _: Text(
        node["max_length"], min_length=node["min_length"], charset=node["charset"]
    ),
    "Tuple": lambda node, path: Tuple(_parts(node, path)),
    "Dict": _build_dict,
    "Sequence": lambda node, path: Sequence(
        _build(node["feature_space"], f"{path}.feature_space"), stack=node["stack"]
    ),
    "Graph": _build_graph,
    "OneOf": lambda node, path: OneOf(_parts(node, path)),
}


def _build(node: dict[str, Any], path: str) -> gym.Space[Any]:
    """The space that a checked definition defines."""
    kind = node["kind"]
    try:
        return _BUILDERS[kind](node, path)
    except (AssertionError, TypeError, ValueError, OverflowError, gym.error.Error) as error:
        raise InvalidArgument(
            f"{path}: gymnasium {gym.__version__} cannot build this {kind}: {error}"
        ) from error


def decode_space(data: bytes, *, path: str = "space") -> gym.Space[Any]:
    """The space that a definition defines; the definition is not trusted.

    Args:
        data: what `encode_space` gave.
        path: what to call the space in errors.

    Raises:
        InvalidArgument: `data` is no definition, or one of a space that is too large or that the installed
            gymnasium lacks (before 1.4, a Graph of other than Box and Discrete).
    """
    node = values.decode(data, path=path)
    try:
        check(node, path)
    except Malformed as error:
        raise InvalidArgument(str(error)) from None
    return _build(node, path)
