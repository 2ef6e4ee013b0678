"""What starts, watches and ends instances: the contract in `base`, and one module per implementation.

Nothing here knows what an instance does: workers, sandboxes and pools are built on top of it. Only
an implementation's own module imports its client library.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import cast

from megaflow.errors import InvalidArgument
from megaflow_server.backends.base import (
    Backend,
    Event,
    Exit,
    Instance,
    InstanceSpec,
    InstanceState,
)

__all__ = [
    "Backend",
    "Event",
    "Exit",
    "Instance",
    "InstanceSpec",
    "InstanceState",
    "get_backend",
]

# By name, since importing an implementation imports what it is built on.
_BACKENDS = {
    "fake": "megaflow_server.backends.fake:FakeBackend",
    "process": "megaflow_server.backends.process:ProcessBackend",
}


def get_backend(name: str) -> Backend:
    """A new backend by its name, with its defaults.

    Raises:
        InvalidArgument: there is no backend of this name.
        FailedPrecondition: it cannot work on this host.
    """
    target = _BACKENDS.get(name)
    if target is None:
        close = difflib.get_close_matches(name, _BACKENDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidArgument(f"backend={name!r}: the backends are {', '.join(_BACKENDS)}{hint}")
    module, _, attribute = target.partition(":")
    make = cast(Callable[[], Backend], getattr(importlib.import_module(module), attribute))
    return make()
