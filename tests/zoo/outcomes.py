"""What a call came to, so that two environments' misuse can be compared by running both."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["outcome", "raised"]

_CLASSES = re.compile(r"\b(Sync|Async|Remote)VectorEnv\b")


def raised(
    function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> tuple[type[BaseException], str] | None:
    """Type and message of what a call raises, with the vector class's name taken out; None: nothing."""
    try:
        # gymnasium's asynchronous class logs a worker's error, as a warning, before it raises it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args, **kwargs)
    except Exception as error:
        return type(error), _CLASSES.sub("VectorEnv", str(error))
    return None


def outcome(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> tuple[str, Any, Any]:
    """("returned", value, warnings), or ("raised", (type, message, name), warnings).

    `name` is the attribute of that name which gymnasium's asynchronous errors carry.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: tuple[str, Any] = ("returned", function(*args, **kwargs))
        except Exception as error:
            message = _CLASSES.sub("VectorEnv", str(error))
            result = ("raised", (type(error), message, getattr(error, "name", None)))
    texts = sorted(_CLASSES.sub("VectorEnv", str(warning.message)) for warning in caught)
    return (*result, texts)
