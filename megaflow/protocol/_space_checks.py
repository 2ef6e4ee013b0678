"""What a space definition has to say, checked before gymnasium builds anything from it.

Building is dear (a `Box` takes 40 µs) and can multiply: a stacked `Sequence` and a `Graph` hold a second, batched
copy of their parts, so that nested ones double at each level. Here a definition is weighed as it would be built.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["FIELDS", "MAX_ELEMENTS", "MAX_NESTING", "MAX_SPACES", "Malformed", "Weight", "check"]

# Elements of all bounds of a definition, counted as built: 1,024 stacks of four Atari frames are 29 Mi.
MAX_ELEMENTS: Final = 128 << 20
# Spaces in a definition, counted as built.
MAX_SPACES: Final = 16_384
# Spaces inside each other: two levels of a value each, at most.
MAX_NESTING: Final = 60

_MAX_NDIM: Final = 32

FIELDS: Final = {
    "Box": ("shape", "low", "high", "bounded_below", "bounded_above"),
    "Discrete": ("n", "start", "dtype"),
    "MultiBinary": ("n",),
    "MultiDiscrete": ("nvec", "start"),
    "Text": ("min_length", "max_length", "charset"),
    "Tuple": ("spaces",),
    "Dict": ("spaces", "sort_keys"),
    "Sequence": ("feature_space", "stack"),
    "Graph": ("node_space", "edge_space"),
    "OneOf": ("spaces",),
}
_INTEGERS: Final = {"|i1", "|u1"} | {
    f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)
}


class Malformed(ValueError):
    """A definition of no space; the message begins with the place."""


class Weight(NamedTuple):
    """Spaces, and elements of their bounds."""

    spaces: int
    elements: int

    def plus(self, other: Weight, times: int = 1) -> Weight:
        """Both together, the other one `times` over."""
        return Weight(self.spaces + times * other.spaces, self.elements + times * other.elements)


def check(node: Any, path: str, depth: int = 1) -> Weight:
    """Raises Malformed unless `node` defines a space within the limits; its weight.

    Args:
        node: a decoded value.
        path: what to call the space in errors.
        depth: how many spaces there are on the way to this one, itself included.
    """
    kind = node.get("kind") if type(node) is dict else None
    if type(kind) is not str or kind not in FIELDS:
        raise Malformed(f"{path}: not a space: the kinds are {', '.join(FIELDS)}")
    if depth > MAX_NESTING:
        raise Malformed(f"{path}: spaces nested deeper than {MAX_NESTING}")
    if node.keys() != {"kind", *FIELDS[kind]}:
        raise Malformed(f"{path}: a {kind} has the fields {', '.join(FIELDS[kind])}")
    weight = Weight(1, _CHECKS[kind](node, path) if kind in _CHECKS else 0)
    times = 2 if kind == "Graph" or (kind == "Sequence" and node["stack"] is True) else 1
    for place, child in _children(kind, node, path):
        weight = weight.plus(check(child, place, depth + 1), times)
        if weight.spaces > MAX_SPACES:
            raise Malformed(f"{path}: more than {MAX_SPACES} spaces in one definition")
    if weight.elements > MAX_ELEMENTS:
        raise Malformed(
            f"{path}: bounds of {weight.elements} elements, and a definition may have {MAX_ELEMENTS}"
        )
    return weight


def _children(kind: str, node: dict[str, Any], path: str) -> list[tuple[str, Any]]:
    """The spaces directly inside a definition, each with its path."""
    if kind in ("Tuple", "OneOf"):
        spaces = _typed(node, "spaces", path, list)
        if kind == "OneOf" and not spaces:
            raise Malformed(f"{path}: a OneOf of no space")
        return [(f"{path}[{i}]", space) for i, space in enumerate(spaces)]
    if kind == "Dict":
        _typed(node, "sort_keys", path, bool)
        spaces = _typed(node, "spaces", path, dict)
        return [(f"{path}[{key!r:.100}]", space) for key, space in spaces.items()]
    if kind == "Sequence":
        _typed(node, "stack", path, bool)
        return [(f"{path}.feature_space", node["feature_space"])]
    if kind == "Graph":
        names = ["node_space"] if node["edge_space"] is None else ["node_space", "edge_space"]
        return [(f"{path}.{name}", node[name]) for name in names]
    return []


def _typed(node: dict[str, Any], name: str, path: str, *types: type) -> Any:
    """A field, whose type is one of these and no subclass."""
    value = node[name]
    if type(value) not in types:
        raise Malformed(f"{path}.{name}: {type(value)} instead of {' or '.join(map(str, types))}")
    return value


def _sizes(value: Any, where: str, least: int) -> int:
    """The product of a list or tuple of lengths, each an int of at least `least`."""
    if len(value) > _MAX_NDIM or not all(type(n) is int and n >= least for n in value):
        raise Malformed(f"{where}: not up to {_MAX_NDIM} ints of at least {least}")
    product: int = math.prod(value)
    if product > MAX_ELEMENTS:
        raise Malformed(
            f"{where}: {product} elements, and a definition may have {MAX_ELEMENTS}: make the observation smaller"
        )
    return product


def _box(node: dict[str, Any], path: str) -> int:
    shape = _typed(node, "shape", path, list)
    elements = _sizes(shape, f"{path}.shape", 0)
    low, high = (_typed(node, name, path, np.ndarray) for name in ("low", "high"))
    if low.dtype != high.dtype or low.dtype.kind not in "biuf":
        raise Malformed(f"{path}: bounds of dtype {low.dtype} and {high.dtype}")
    flags = [
        _typed(node, name, path, bool, np.bool_, np.ndarray)
        for name in ("bounded_below", "bounded_above")
    ]
    if any(np.asarray(flag).dtype != np.bool_ for flag in flags):
        raise Malformed(f"{path}: whether it is bounded is not told in bools")
    if shape and any(type(flag) is np.bool_ for flag in flags):
        raise Malformed(f"{path}: a numpy bool for the shape {tuple(shape)}")
    for array in (low, high, *map(np.asarray, flags)):
        if array.shape not in ((), tuple(shape)):
            raise Malformed(f"{path}: bounds of shape {array.shape} for the shape {tuple(shape)}")
    if not np.all(low <= high):  # false for NaN, too
        raise Malformed(f"{path}: a lower bound that is not at most the upper one")
    return elements


def _discrete(node: dict[str, Any], path: str) -> int:
    n, start = (_typed(node, name, path, int) for name in ("n", "start"))
    dtype = _typed(node, "dtype", path, str)
    if dtype not in _INTEGERS:
        raise Malformed(f"{path}.dtype: {dtype!r:.100} is no dtype of integers")
    limits = np.iinfo(dtype)
    if not 1 <= n <= limits.max or not limits.min <= start <= limits.max:
        raise Malformed(f"{path}: n and start are not in the range of {dtype}")
    return 1


def _multi_binary(node: dict[str, Any], path: str) -> int:
    n = _typed(node, "n", path, int, tuple)
    return _sizes(n if type(n) is tuple else (n,), f"{path}.n", 1)


def _multi_discrete(node: dict[str, Any], path: str) -> int:
    nvec, start = (_typed(node, name, path, np.ndarray) for name in ("nvec", "start"))
    if nvec.dtype.kind not in "iu" or nvec.dtype != start.dtype or nvec.shape != start.shape:
        raise Malformed(f"{path}: nvec and start are not integers of one dtype and shape")
    if not (nvec > 0).all():
        raise Malformed(f"{path}.nvec: counts have to be positive")
    return int(nvec.size)


def _text(node: dict[str, Any], path: str) -> int:
    least, most = (_typed(node, name, path, int) for name in ("min_length", "max_length"))
    charset = _typed(node, "charset", path, str)
    if not 0 <= least <= most:
        raise Malformed(f"{path}: a text of at least {least!r:.50} and at most {most!r:.50}")
    if len(set(charset)) != len(charset):
        raise Malformed(f"{path}.charset: a character twice")
    return len(charset)


_CHECKS: Final = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiBinary": _multi_binary,
    "MultiDiscrete": _multi_discrete,
    "Text": _text,
}
