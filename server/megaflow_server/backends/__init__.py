"""What starts, watches and ends instances: the contract in `base`, and one module per implementation.

Nothing here knows what an instance does: workers, sandboxes and pools are built on top of it. Only
an implementation's own module imports its client library.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends.base import (
    IDLE,
    Backend,
    Event,
    Exit,
    Image,
    Instance,
    InstanceSpec,
    InstanceState,
    Limits,
    Mount,
    Network,
    Profile,
    Stats,
    Stream,
)

if TYPE_CHECKING:
    from megaflow_server.backends.docker.building import DockerBuilds

__all__ = [
    "IDLE",
    "Backend",
    "Event",
    "Exit",
    "Image",
    "Instance",
    "InstanceSpec",
    "InstanceState",
    "Limits",
    "Mount",
    "Network",
    "Profile",
    "Stats",
    "Stream",
    "get_backend",
    "get_builds",
]

_BUILDS = "megaflow_server.backends.docker.building:DockerBuilds"

# By name, since importing an implementation imports what it is built on.
_BACKENDS = {
    "docker": "megaflow_server.backends.docker.backend:DockerBackend",
    "fake": "megaflow_server.backends.fake:FakeBackend",
    "process": "megaflow_server.backends.process:ProcessBackend",
}


def get_backend(name: str, options: object = None) -> Backend:
    """A new backend by its name.

    Args:
        options: of its own type, such as `docker.options.DockerOptions`; None for its defaults.

    Raises:
        InvalidArgument: there is no backend of this name.
        FailedPrecondition: it cannot work on this host.
    """
    target = _BACKENDS.get(name)
    if target is None:
        close = difflib.get_close_matches(name, _BACKENDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidArgument(f"backend={name!r}: the backends are {', '.join(_BACKENDS)}{hint}")
    make = _load(name, target)
    return cast(Backend, make() if options is None else make(options))


def get_builds(options: object = None) -> DockerBuilds:
    """What builds images, by the engine of the docker backend with these options.

    Raises:
        FailedPrecondition: it cannot work on this host.
    """
    return cast("DockerBuilds", _load("docker", _BUILDS)(options))


def _load(name: str, target: str) -> Callable[..., Any]:
    """Something of the module of a backend of this name."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != name:  # an extra has the name of its backend, and of what it installs
            raise
        raise FailedPrecondition(
            f"backend={name!r} needs what its extra installs: pip install 'megaflow[{name}]'"
        ) from error
    return cast(Callable[..., Any], getattr(module, attribute))
