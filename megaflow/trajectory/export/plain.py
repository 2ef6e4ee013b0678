"""Values as JSON: for reading, not for coming back.

Arrays become nested lists, numpy scalars numbers, tuples lists. What JSON has no word for is spelled out: `"NaN"`,
`"Infinity"`, `"-Infinity"`; bytes are `{"base64": …}`, a dict with other than str keys `{"items": [[key, value], …]}`,
a random generator `{"generator": its state}`, a blob `{"blob": its path, "media_type": …, "size": …}`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from megaflow.trajectory.blobs import reference

__all__ = ["dumps", "plain"]


def dumps(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else _spelled(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        if hasattr(value, "_asdict"):  # gymnasium's GraphInstance
            return plain(value._asdict())
        return [plain(each) for each in value]
    if isinstance(value, complex):
        return {"real": plain(value.real), "imag": plain(value.imag)}
    if isinstance(value, np.random.Generator):
        return {"generator": plain(value.bit_generator.state)}
    return value


def _array(value: np.ndarray[Any, Any]) -> Any:
    exact = value.dtype.kind in "biuU" or (value.dtype.kind == "f" and np.isfinite(value).all())
    return value.tolist() if exact else plain(value.tolist())


def _spelled(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    blob = reference(value)
    if blob is not None:
        return {"blob": blob.path, "media_type": blob.media_type, "size": blob.size}
    if all(isinstance(key, str) for key in value):
        return {str(key): plain(part) for key, part in value.items()}
    return {"items": [[plain(key), plain(part)] for key, part in value.items()]}
